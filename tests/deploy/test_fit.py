import json

import numpy as np
import pytest
import torch
from at_terminal import error_line, invoke, options
from small_models import write_images

from attractor_ae import (
    AttractorError,
    fit_detector,
    fit_model,
    load,
    load_model,
    model_of_run,
    preset,
    train,
)
from attractor_ae.data import ImageFormat
from attractor_ae.deploy import fit as module
from attractor_ae.deploy.fit import _calibration_fraction

FORM = ImageFormat(32)
QUICK = ["model.space=standardised", "training.epochs=2", "evaluation.trials=2"]
QUICK += ["evaluation.recursions=2", "training.device=cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Fourteen digits of each of three classes as files."""
    root = tmp_path_factory.mktemp("own") / "digits"
    images = load("mnist5k", "train", per_class=14, image_format=FORM)
    for label in "037":
        write_images(root / label, images.images[images.labels == int(label)])
    return root


@pytest.fixture(scope="module")
def fitted(folder, tmp_path_factory):
    """What the command wrote, and what it said."""
    file = tmp_path_factory.mktemp("model") / "digits.model"
    return file, invoke("fit", folder, "--out", file, "--size", 32, *options(QUICK))


def test_a_folder_becomes_a_model_file(folder, fitted):
    file, result = fitted
    assert result.exit_code == 0, result.output
    assert "audit: 42 images of 3 classes" in result.stderr
    assert "alpha 0.05" in result.stdout
    assert f"attractor-ae score {file}" in result.stdout
    found = {path.name.removeprefix(file.name) for path in file.parent.iterdir()}
    assert found == {"", ".md", ".html"}
    model = load_model(file)
    assert model.classes == ("0", "3", "7")
    # A fifth would be 8 images, and alpha 0.05 needs 19.
    assert model.calibration_images == 21
    assert model.facts["training"]["per_class"] == {"0": 7, "3": 7, "7": 7}
    assert model.facts["self_check"]["images"] == 21
    assert model.image_format == ImageFormat(32, 1, crop=True)
    assert {name.split("/")[0] for name in model.nearest} == {"0", "3", "7"}
    assert all((folder / name).is_file() for name in model.nearest)
    card = (file.parent / f"{file.name}.md").read_text()
    assert "| 7 | 7 | 7 |" in card
    assert model.digest in card


def test_an_existing_model_is_kept(folder, fitted):
    file, _ = fitted
    before = file.read_bytes()
    line = error_line(invoke("fit", folder, "--out", file, *options(QUICK)))
    assert "--again" in line
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("alpha", "said"), [(0.01, ["99", "21", "0.0455"]), (0.0, ["between"]), (2.0, ["between"])]
)
def test_too_few_images_are_refused_before_the_training(folder, tmp_path, monkeypatch, alpha, said):
    monkeypatch.setattr(module, "train", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(AttractorError) as error:
        fit_model(folder, tmp_path / "m.model", alpha=alpha, overrides=QUICK)
    assert all(text in str(error.value) for text in said)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("sizes", "alpha", "fraction"),
    [([50] * 4, 0.05, 0.2), ([300] * 10, 0.05, 0.1), ([6] * 8, 0.05, 0.42), ([10], 0.2, None)],
)
def test_the_fraction_for_calibration(sizes, alpha, fraction):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    if fraction is None:
        with pytest.raises(AttractorError, match="9 calibration images.* 5 can be"):
            _calibration_fraction(labels, alpha)
    else:
        assert _calibration_fraction(labels, alpha) == fraction


def test_given_splits_are_kept(folder, tmp_path):
    """The test images are neither trained on nor calibrated on, but measured."""
    root = tmp_path / "split"
    for label in "03":
        (root / "train").mkdir(parents=True, exist_ok=True)
        (root / "train" / label).symlink_to(folder / label)
        images = load("mnist5k", "test", per_class=4, image_format=FORM)
        write_images(root / "test" / label, images.images[images.labels == int(label)])
    model = fit_model(root, tmp_path / "m.model", alpha=0.1, size=32, overrides=QUICK)
    assert model.facts["training"]["images"] + model.calibration_images == 28
    assert model.facts["evaluation"]["class is right"][1] == 8
    assert "of 8" in (tmp_path / "m.model.md").read_text()


def test_a_folder_without_classes_is_one_class(tmp_path):
    images = load("mnist5k", "train", per_class=20, image_format=FORM).images
    write_images(tmp_path / "threes", images[60:80])
    quick = [text for text in QUICK if not text.startswith("model.")]
    model = fit_model(tmp_path / "threes", tmp_path / "m.model", alpha=0.1, overrides=quick)
    (verdict, *_) = model.score_files(tmp_path / "threes")
    assert verdict.probability is None
    assert verdict.p_value > 0
    assert len(load_model(tmp_path / "m.model").classes) == 1


@pytest.mark.slow  # trains at the size of the preset
def test_a_finished_run_becomes_the_same_detector(tmp_path):
    images = load("mnist5k", "train", per_class=20)
    settings = [text for text in QUICK if text.startswith(("evaluation", "training"))]
    settings += ["dataset.nbr_of_samples_per_class=20", "evaluation.out_datasets=['faces']"]
    config = preset("quick", settings)
    run = train(config, images, tmp_path / "run")
    model = model_of_run(run.path, tmp_path / "m.model", alpha=0.1)
    assert model.image_format == ImageFormat(64)
    assert model.calibration_images == 20
    detector = fit_detector(run.path, images)
    others = load("mnist5k", "test", per_class=2).images
    scores = [verdict.ood_score for verdict in model.score(others)]
    torch.testing.assert_close(torch.tensor(scores).double(), detector.predict(others))
    with pytest.raises(AttractorError, match="calibration images"):
        model_of_run(run.path, tmp_path / "n.model", alpha=0.01)


def test_a_classifier_is_refused(tmp_path, digits):
    settings = ["model.type=conv", "model.metric=", "dataset.calibration_fraction=0.25"]
    run = train(preset("quick", [*settings, *QUICK[1:]]), digits, tmp_path)
    line = error_line(invoke("fit", "--from", run.path, "--out", tmp_path / "m.model"))
    assert "classifier" in line


@pytest.mark.parametrize(
    ("settings", "said"),
    [(["model.type=conv", "model.metric="], "classifier"), (["training.epoch=3"], "epochs")],
)
def test_impossible_settings_are_refused_first(folder, tmp_path, settings, said):
    out = tmp_path / "m.model"
    assert said in error_line(invoke("fit", folder, "--out", out, *options(settings)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [[], ["FOLDER", "--from", "RUN"], ["--from", "nowhere"]])
def test_either_a_folder_or_a_run(arguments, tmp_path):
    error_line(invoke("fit", *arguments, "--out", tmp_path / "m.model"))


def test_facts_are_json(fitted):
    json.dumps(load_model(fitted[0]).facts, allow_nan=False)
