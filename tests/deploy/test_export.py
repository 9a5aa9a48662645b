"""Exported graphs against the library, and scikit-learn's or Pillow's own results."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from at_terminal import error_line, invoke
from PIL import Image
from skimage import data
from small_models import FORM, make_model, write_images

from attractor_ae import AttractorError, export_model, load, load_model
from attractor_ae.core.autoencoder import Autoencoder, FeatureAutoencoder
from attractor_ae.core.scores import detail
from attractor_ae.data import ImageFormat
from attractor_ae.data.decode import decode
from attractor_ae.deploy import export
from attractor_ae.extractors import Extractor, make_extractor, register

ROOT = Path(__file__).parents[2]


class Means(torch.nn.Module):
    """Means of sixteen squares."""

    def forward(self, x):
        return x.unflatten(3, (4, -1)).unflatten(2, (4, -1)).mean((3, 5)).flatten(1)


register("means-of-squares", lambda: Extractor("means-of-squares", Means()))


@pytest.fixture
def example():
    spec = importlib.util.spec_from_file_location("score_onnx", ROOT / "examples/score_onnx.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def model_of(kind, digits):
    first, second, _ = digits
    if kind == "features":
        network = FeatureAutoencoder(
            8,
            image_size=16,
            channels=1,
            extractor="means-of-squares",
            generator=torch.Generator().manual_seed(0),
        )
        network.space.fit(make_extractor("means-of-squares")(torch.tensor(first.images) / 255))
        return make_model(first, second, network=network)
    generator = torch.Generator().manual_seed(0)
    network = Autoencoder(8, 0.33, "ELU", 16, space="standardised", generator=generator)
    more = {"head": "knn", "head_input": "path"} if kind == "neighbours" else {}
    more = {"head": "knn", "recursion": 0} if kind == "classes" else more  # several are predicted
    made = make_model(first, second, network=network, **more)
    if kind == "classes":  # enough to rank in each of several groups
        made = made.calibrated(load("mnist5k", "test", per_class=60, image_format=FORM))
        assert len(made.groups(0.05, True).members) > 1
    return made


def run_onnx(path, images, alpha):
    """The outputs by name, as a reader without this package computes them."""
    session = onnxruntime.InferenceSession(path)
    facts = json.loads(session.get_modelmeta().custom_metadata_map["attractor_ae"])
    inputs = {"images": images, "alpha": np.array(alpha), **np.load(path.parent / facts["masks"])}
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, inputs), strict=True)), facts


def run_torch(path, images, alpha):
    files = {"attractor_ae": ""}
    module = torch.export.load(path, extra_files=files).module()
    facts = json.loads(files["attractor_ae"])
    masks = np.load(path.parent / facts["masks"])
    masks = [torch.from_numpy(masks[f"mask_{i}"]) for i in range(len(masks))]
    found = module(torch.from_numpy(images), torch.tensor(alpha, dtype=torch.float64), *masks)
    return dict(zip(export.OUTPUTS, (tensor.numpy() for tensor in found), strict=True)), facts


def assert_as_the_library(found, model, images, alpha):
    """To 1e-4; a p-value is a step function, which can differ by a step next to a known value."""
    verdicts = model.score(images, alpha=alpha)
    own = {
        name: np.array([getattr(verdict, name) for verdict in verdicts])
        for name in ("uncertainty", "probability", "p_value", "ood_score", "verdict", "label")
    }
    np.testing.assert_allclose(found["uncertainty"], own["uncertainty"], atol=1e-4)
    np.testing.assert_allclose(found["probabilities"].max(1), own["probability"], atol=1e-4)
    np.testing.assert_allclose(found["probabilities"].sum(1), 1, atol=1e-5)
    same = np.abs(found["p_value"] - own["p_value"]) < 1e-4
    assert same.mean() > 0.97
    step = 1 / (1 + model.groups(model.alpha, model.per_class).sizes.min().item())
    assert np.abs(found["p_value"] - own["p_value"]).max() < 1.01 * step
    np.testing.assert_allclose(found["ood_score"][same], own["ood_score"][same], atol=1e-4)
    assert (found["unknown"] == (own["verdict"] == "unknown"))[same].all()
    likely = np.array(model.classes)[found["probabilities"].argmax(1)]
    clear = np.sort(found["probabilities"])[:, -2:] @ [-1, 1] > 1e-4
    assert (likely == own["label"])[clear].all()


@pytest.mark.slow  # the exporters take seconds
@pytest.mark.parametrize(
    ("kind", "form", "run"),
    [
        ("neighbours", "onnx", run_onnx),
        ("features", "onnx", run_onnx),
        ("pixels", "torch", run_torch),
        ("classes", "onnx", run_onnx),
    ],
)
def test_a_graph_gives_the_verdicts_of_the_library(tmp_path, small_digits, kind, form, run):
    model = model_of(kind, small_digits)
    model.save(tmp_path / "digits.model")
    graph = tmp_path / {"onnx": "digits.onnx", "torch": "digits.pt2"}[form]
    made = export_model(tmp_path / "digits.model", graph, form=form)
    noise = np.random.default_rng(0).integers(0, 256, (20, *FORM.shape), dtype=np.uint8)
    images = np.concatenate([small_digits[2].images, small_digits[0].images, noise])
    shares = []
    for alpha in (0.05, 0.3):
        found, facts = run(graph, images, alpha)
        assert_as_the_library(found, model, images, alpha)
        shares.append(found["unknown"].mean())
    assert 0 < shares[0] < shares[1] < 1
    assert facts == made
    assert facts["model_sha256"] == load_model(tmp_path / "digits.model").digest
    assert facts["check"]["largest_differences"].keys() == set(export.OUTPUTS)
    other, ending = {"onnx": ("torch", ".pt2"), "torch": ("onnx", ".onnx")}[form]
    export_model(tmp_path / "digits.model", graph.with_suffix(ending), form=other)  # same masks
    # Without dropout the outputs are others: the masks are inputs indeed.
    path = tmp_path / "digits.masks.npz"
    np.savez(path, **{name: np.ones_like(mask) for name, mask in np.load(path).items()})
    plain, _ = run(graph, images[:1], 0.05)
    assert abs(plain["statistic"][0] - found["statistic"][0]) > 1e-3


@pytest.mark.slow
def test_the_example_scores_photographs_as_the_command_does(tmp_path, small_digits, example):
    images = [part.take(np.arange(60)) for part in small_digits[:2]]
    model = make_model(*images)
    model.image_format = ImageFormat(16, 1, crop=True)
    model.save(tmp_path / "m.model")
    result = invoke("export", tmp_path / "m.model", "--out", tmp_path / "m.onnx")
    assert result.exit_code == 0, result.output
    photos = [data.astronaut(), data.camera(), data.coffee(), data.rocket(), data.page()]
    paths = []
    for i, photo in enumerate(photos):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(photo).save(paths[-1])
    paths += write_images(tmp_path / "digits", small_digits[2].images[::6])
    verdicts = list(model.score_files(paths))
    rows = list(example.score(tmp_path / "m.onnx", paths))
    assert {row["unknown"] for row in rows} == {True, False}
    for row, verdict in zip(rows, verdicts, strict=True):
        assert row["unknown"] == (verdict.verdict == "unknown")
        assert row["class"] == verdict.label
        for name in ("p_value", "ood_score", "uncertainty"):
            assert row[name] == pytest.approx(getattr(verdict, name), abs=1e-4)
    broken = tmp_path / "broken.png"
    broken.write_bytes(paths[0].read_bytes()[:500])
    command = [sys.executable, ROOT / "examples/score_onnx.py", tmp_path / "m.onnx"]
    for given, code in (([paths[0]], 0), ([paths[0], broken], 2)):
        ended = subprocess.run([*command, *given], capture_output=True, text=True, check=False)
        assert ended.returncode == code, ended.stderr
    assert (ended.stdout, ended.stderr.count("\n")) == ("", 1)
    assert "broken.png" in ended.stderr


@pytest.mark.parametrize("aspect", [{}, {"crop": True}, {"pad": True}])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_example_prepares_pictures_as_the_library_does(tmp_path, example, aspect, channels):
    form = ImageFormat(48, channels, **aspect)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.fromarray(data.coffee()).save(tmp_path / "turned.jpg", exif=exif)
    Image.fromarray(data.camera().astype(np.uint16) * 200).save(tmp_path / "16.png")
    Image.fromarray(data.logo()).save(tmp_path / "alpha.png")
    Image.fromarray(data.rocket()).quantize(64).save(tmp_path / "palette.png")
    for path in tmp_path.iterdir():
        own = decode(path, form)
        assert np.array_equal(example.prepare(path, vars(form)), own), path.name


def test_what_cannot_be_exported(tmp_path, model, small_digits, monkeypatch):
    file, out = tmp_path / "m.model", tmp_path / "m.onnx"
    model.save(file)
    out.touch()
    assert "m.onnx" in error_line(invoke("export", file, "--out", out))
    assert "'onxx'" in error_line(invoke("export", file, "--format", "onxx", "--out", out))
    assert "--format torch" in error_line(invoke("export", file, "--out", tmp_path / "m.pt2"))
    assert ".onnx or .pt2" in error_line(invoke("export", file, "--out", tmp_path / "m.xyz"))
    np.savez(tmp_path / "n.masks.npz", mask_0=np.ones(3))  # of another model
    assert "n.masks.npz" in error_line(invoke("export", file, "--out", tmp_path / "n.onnx"))
    make_model(*small_digits[:2], mask_scope="sample").save(file)
    with pytest.raises(AttractorError, match="mask_scope=trial"):
        export_model(file, out, again=True)


@pytest.mark.slow
def test_a_graph_that_differs_is_not_written(tmp_path, model, monkeypatch):
    file, out = tmp_path / "m.model", tmp_path / "m.pt2"
    model.save(file)
    monkeypatch.setattr(export, "entropy", lambda p: p.mean((0, 2)) + 0.001)
    with pytest.raises(AttractorError, match="uncertainty.*differs"):
        export_model(file, out, form="torch")
    assert [path.name for path in tmp_path.iterdir()] == ["m.model"]


def test_the_detail_of_smooth_images_is_kept(tmp_path):
    class Detail(torch.nn.Module):
        def forward(self, x):
            return detail(x)

    x = (
        torch.linspace(0, 1, 64).expand(2, 1, 64, 64)
        ** torch.tensor([1.0, 1.1])[:, None, None, None]
    )
    expected = detail(x)
    energy = (x.double().diff(n=2, dim=-1)[:, :, 1:-1]).square().flatten(1).mean(1)
    np.testing.assert_allclose(expected[:, 1], np.log(energy.numpy() + 1e-8), atol=1e-6)
    program = torch.onnx.export(
        Detail().eval(), (x,), input_names=["x"], dynamo=True, verbose=False
    )
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    (found,) = session.run(None, {"x": x.numpy()})
    np.testing.assert_allclose(found, expected, atol=1e-6)
