"""The released code's run, imported: its codes, and the metrics of its evaluation."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import f

from attractor_ae import ImageSet, evaluate, fit_detector, import_run
from attractor_ae.core.dynamics import iterate
from attractor_ae.core.masks import DropoutMasks
from released import FOLDER, arrays

EVALUATIONS = 3


@pytest.fixture(scope="module")
def images():
    stored = arrays("images.npz")

    def image_set(name, split):
        pictures = (Image.fromarray(image) for image in stored[f"{name}_images"])
        resized = [np.asarray(p.resize((64, 64), Image.Resampling.BILINEAR)) for p in pictures]
        labels = stored[f"{name}_labels"].astype(np.int64)
        known = "fashion" if name == "fashion" else "mnist"
        return ImageSet(known, split, np.stack(resized)[:, None], labels, tuple("0123456789"))

    return {
        "train": image_set("train", "train"),
        "test": image_set("test", "test"),
        "fashion": image_set("fashion", "test"),
    }


@pytest.fixture(scope="module")
def network(images, tmp_path_factory):
    run = import_run(FOLDER / "run", tmp_path_factory.mktemp("released") / "run")
    overrides = ["evaluation.recursions=1", "evaluation.recursion=0", "evaluation.head=knn"]
    detector = fit_detector(run.path, images["train"], overrides=overrides)
    return detector.networks[0].to(torch.float32).eval()


def close(found, expected, tolerance):
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=tolerance)


def test_codes_and_reconstructions_without_dropout(network):
    stored = arrays("run_codes.npz")
    with torch.no_grad():
        path = iterate(network, torch.from_numpy(stored["inputs"]), None, 4)
    close(path.latents[0], stored["codes"][0], 1e-6)
    close(path.latents, stored["codes"], 5e-6)
    reconstructions = path.reconstructions[[0, 3]][:, stored["reconstruction_images"], 0]
    close(reconstructions, stored["reconstructions"], 5e-6)


def test_codes_and_reconstructions_under_its_masks(network):
    stored = arrays("run_codes.npz")
    sites = []
    for name in stored["mask_names"]:
        shape = stored[f"shape_{name}"]
        kept = np.unpackbits(stored[f"mask_0_{name}"], axis=1, count=int(np.prod(shape)))
        mask = torch.from_numpy(kept.astype(np.float32)) * float(stored["mask_scale"])
        sites.append(mask.reshape(len(kept), *shape))
    inputs = torch.from_numpy(stored["inputs"][stored["masked_images"]])
    with torch.no_grad():
        path = iterate(network, inputs, DropoutMasks(tuple(sites)), 4)
    close(path.latents[0], stored["masked_codes_0"][0], 1e-6)
    close(path.latents, stored["masked_codes_0"], 5e-6)
    close(path.reconstructions[3, :, 0], stored["masked_reconstructions_0"], 5e-6)


@pytest.mark.slow
def test_its_evaluation_is_that_of_the_released_code(images, tmp_path):
    """Augmentation, masks and heads drawn anew; means within three standard errors."""
    stored = json.loads((FOLDER / "mask_scatter.json").read_text(encoding="utf-8"))
    found = {}
    for seed in range(EVALUATIONS):
        run = import_run(FOLDER / "run", tmp_path / f"{seed}", seed=seed)
        assert (run.config().evaluation.head, run.config().evaluation.mask_scope) == (
            "paper-mlp",
            "sample",
        )
        overrides = ["evaluation.recursions=3", f"evaluation.trials={stored['trials']}"]
        detector = fit_detector(run.path, images["train"], overrides=overrides)
        result = evaluate(detector, images["test"], [images["fashion"]])
        for r in stored["recursions"]:
            on_grid = result.rates("fashion", None, r, "paper")
            values = {
                ("test", "accuracy"): result.accuracy(None, r),
                ("test", "entropy"): result.in_scores.score(r).mean(),
                ("fashion", "entropy_out"): result.out_scores[0].score(r).mean(),
                ("fashion", "auroc_grid"): on_grid.auroc,
                ("fashion", "auroc_exact"): result.rates("fashion", None, r).auroc,
                ("fashion", "aupr_grid"): on_grid.aupr_in,
                ("fashion", "fpr95_grid"): on_grid.fpr95_in,
            }
            for (name, key), value in values.items():
                found.setdefault((name, key, f"{r}"), []).append(value)
    for (name, key, r), values in found.items():
        expected = stored["own_masks_everything_anew"][name][key][r]
        error = expected["deviation"] * np.sqrt(1 / len(expected["values"]) + 1 / EVALUATIONS)
        assert np.mean(values) == pytest.approx(expected["mean"], abs=3 * error), (name, key, r)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("scope", "way"), [("sample", "own_masks_same_head"), ("trial", "one_mask_a_trial_same_head")]
)
def test_masks_scatter_as_those_of_the_released_code(images, tmp_path, scope, way):
    """The deviation over seeds of the masks, at all recursions."""
    stored = json.loads((FOLDER / "mask_scatter.json").read_text(encoding="utf-8"))
    run = import_run(FOLDER / "run", tmp_path / "run")
    overrides = ["evaluation.recursions=3", f"evaluation.trials={stored['trials']}"]
    overrides += [f"evaluation.mask_scope={scope}"]
    detector = fit_detector(run.path, images["train"], overrides=overrides)
    found = []
    for seed in stored["seeds"]:
        detector.seed = seed
        result = evaluate(detector, images["test"], [images["fashion"]])
        found.append([result.rates("fashion", None, r).auroc for r in stored["recursions"]])
    for r, values in zip(stored["recursions"], np.transpose(found), strict=True):
        expected = stored[way]["fashion"]["auroc_exact"][f"{r}"]["deviation"]
        n = len(values) - 1
        low, high = f.interval(0.999, n, n)
        assert low < (values.std() / expected) ** 2 < high, r
