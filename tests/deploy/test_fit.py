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
from attractor_ae._reporter import percent
from attractor_ae.data import ImageFormat
from attractor_ae.data.decode import decode
from attractor_ae.deploy import fit as module
from attractor_ae.deploy.card import false_alarms
from attractor_ae.deploy.evaluation import evaluate_model
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
    more = ("--size", 32, "--thumbnails")
    return file, invoke("fit", folder, "--out", file, *more, *options(QUICK))


def test_a_folder_becomes_a_model_file(folder, fitted):
    file, result = fitted
    assert result.exit_code == 0, result.output
    assert "audit: 42 images of 3 classes" in result.stderr
    assert "21 of 42 images are for calibration, as alpha 0.05 needs 19" in result.stderr
    assert "alpha 0.05" in result.stdout
    assert "self-check failed" in result.stdout  # after two epochs
    assert f"attractor-ae score {file}" in result.stdout
    assert all(f"\n  {label}: " in result.stdout for label in "037")  # false alarms
    assert "equally often" not in result.stderr
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
    assert "score --together" in card
    for row, name in enumerate(model.nearest):  # a lossy format
        own = decode(str(folder / name), model.image_format)
        assert np.abs(model.thumbnail(row) - own.astype(float)).mean() < 6
    assert file.with_name(f"{file.name}.html").read_text().count("Training images of") == 3
    assert model.digest in card
    check = model.facts["self_check"]
    assert (
        f"Accuracy {percent(check['accuracy'])} (guessing: 33.3 %) on 21 calibration images."
        in card
    )
    assert f"report: {file}.html" in result.stdout


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
        with pytest.raises(AttractorError, match="9 calibration images.* 5 of"):
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
    (root / "test" / "new").symlink_to(folder / "7")  # an unknown class
    (root / "test" / "3" / "copy.png").symlink_to(folder / "3" / "001.png")
    model = fit_model(root, tmp_path / "m.model", alpha=0.1, size=32, overrides=QUICK)
    assert model.facts["training"]["images"] + model.calibration_images == 28
    found = model.facts["evaluation"]
    assert found["class is right"][1] == found["false alarms"][1] == 9
    assert found["unknown images detected"][1] == 14
    assert {label: of for label, (_, of) in found["per_class"].items()} == {"0": 4, "3": 5}
    card = (tmp_path / "m.model.md").read_text()
    assert "copy.png" in card
    assert str(false_alarms(model)[1]["3"]) in card


def test_the_size_is_not_larger_than_the_images(tmp_path):
    """On pixels: the median shorter side, rounded up to a multiple of 16, at most 64."""
    images = load("specimens", "train", per_class=12, image_format=ImageFormat(96, 3)).images
    coloured = images[:24]
    for side, size in ((20, 32), (96, 64)):
        folder = tmp_path / str(side)
        write_images(folder / "a", coloured[:12, :, :side])  # wider than high
        write_images(folder / "b", coloured[12:, :, :, :side])
        quick = [text for text in QUICK if "epochs" not in text]
        result = invoke(
            "fit", folder, "--out", tmp_path / f"{side}.model", "--alpha", 0.1,
            *options([*quick, "training.epochs=1", "evaluation.trials=1"]),
        )  # fmt: skip
        assert load_model(tmp_path / f"{side}.model").image_format.size == size
        assert f"shorter side has {side} pixels" in result.stderr
        assert f"{size} x {size} in colour on pixels" in result.stderr


def test_a_class_with_one_image_is_trained_on(folder, tmp_path):
    """And many classes with few images: each gives one of three to the calibration."""
    (tmp_path / "own").mkdir()
    for label in "03":
        (tmp_path / "own" / label).symlink_to(folder / label)
    lone = load("mnist5k", "test", per_class=1).images[:1]
    write_images(tmp_path / "own" / "lone", lone)
    model = fit_model(tmp_path / "own", tmp_path / "m.model", alpha=0.1, size=32, overrides=QUICK)
    assert model.facts["training"]["per_class"]["lone"] == 1
    assert str(false_alarms(model)[0]["lone"]) == "none"
    many = load("mnist5k", "train", per_class=12, image_format=FORM).images
    for i in range(40):
        write_images(tmp_path / "many" / f"{i:02}", many[3 * i : 3 * i + 3])
    model = fit_model(tmp_path / "many", tmp_path / "n.model", size=32, overrides=QUICK)
    assert set(model.facts["calibration"]["per_class"].values()) == {1}
    assert model.facts["training"]["images"] == 80


def test_unbalanced_classes_are_drawn_equally_often(folder, tmp_path):
    (tmp_path / "uneven").mkdir()
    write_images(tmp_path / "uneven" / "few", load("mnist5k", "test", per_class=1).images[:8])
    (tmp_path / "uneven" / "many").symlink_to(folder / "0")
    made = ("--alpha", 0.1, "--size", 32, *options(QUICK))
    out = tmp_path / "m.model"
    result = invoke("fit", tmp_path / "uneven", "--out", out, *made)
    assert "8 to 14 images" in result.stderr
    assert "balanced = true" in load_model(out).facts["config"]
    once_more = ("--set", "training.balanced=false", "--again")
    result = invoke("fit", tmp_path / "uneven", "--out", out, *made, *once_more)
    assert "equally often" not in result.stderr
    assert "balanced = false" in load_model(out).facts["config"]


def test_a_folder_without_classes_is_one_class(tmp_path):
    images = load("mnist5k", "train", per_class=20, image_format=FORM).images
    write_images(tmp_path / "threes", images[60:80])
    quick = [text for text in QUICK if not text.startswith("model.")]
    model = fit_model(tmp_path / "threes", tmp_path / "m.model", alpha=0.1, overrides=quick)
    (verdict, *_) = model.score_files(tmp_path / "threes")
    assert verdict.probability is None
    assert verdict.p_value > 0
    assert load_model(tmp_path / "m.model").classes == ("threes",)
    said = invoke("score", tmp_path / "m.model", verdict.path).stdout.split()
    assert said == [verdict.verdict, "p", f"{verdict.p_value:.3g}", verdict.path]
    assert evaluate_model(model, tmp_path / "threes").right is None


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
