"""The space is chosen by measurement. Few steps suffice: the features decide, or nothing does."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from attractor_ae import AttractorError, load, preset
from attractor_ae._reporter import Reporter, percent
from attractor_ae.data import ImageFormat
from attractor_ae.experiment import choose
from attractor_ae.experiment.choose import (
    features_are_better,
    features_will_be_better,
    run_chosen_training,
    space_is_open,
)
from attractor_ae.extractors import Extractor, _lite0, register

OVERRIDES = ["training.epochs=2", "training.batch_size=16", "dataset.calibration_fraction=0.25"]


class Patches(nn.Module):
    """Means and deviations of 16 patches, or nothing of the image."""

    def __init__(self, blind):
        super().__init__()
        self.blind = blind

    def forward(self, x):
        patches = x.unflatten(3, (4, -1)).unflatten(2, (4, -1))
        found = torch.cat([patches.mean((3, 5)), patches.std((3, 5))], dim=1).flatten(1)
        return torch.rand(found.shape) if self.blind else found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Forty images of each of two built-in classes as files."""
    root = tmp_path_factory.mktemp("own") / "pets"
    images = load("specimens", "train", per_class=40, image_format=ImageFormat(32, 3))
    for i, (image, label) in enumerate(zip(images.images, images.labels, strict=True)):
        path = root / images.classes[label] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.moveaxis(image, 0, 2)).save(path)
    return root


@pytest.fixture
def extractor(request):
    register("efficientnet-lite0", lambda: Extractor("efficientnet-lite0", Patches(request.param)))
    yield
    register("efficientnet-lite0", _lite0)


def train(folder, target, overrides=OVERRIDES, **settings):
    experiment = preset("default", [f"dataset.name={folder}", *overrides])
    return run_chosen_training(experiment, target, overrides=overrides, **settings)


@pytest.mark.slow
@pytest.mark.parametrize("extractor", [False], indirect=True)
def test_features_are_chosen_where_they_tell_the_classes_apart(folder, extractor, tmp_path):
    more = [text.replace("epochs=2", "epochs=12") for text in OVERRIDES]
    run = train(folder, tmp_path / "run", more)
    assert run.config().model.space == "features"
    assert run.self_check()["accuracy"] > 0.6
    assert "the run is on the features" in run.log_file.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    with pytest.raises(AttractorError, match="run"):
        train(folder, tmp_path / "run", more)
    assert train(folder, tmp_path / "run", more, resume=True).finished


@pytest.mark.slow
@pytest.mark.parametrize("extractor", [False], indirect=True)
def test_the_training_on_pixels_stops_once_it_is_decided(folder, extractor, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(choose, "features_will_be_better", lambda *of: not seen.append(of))
    monkeypatch.setattr("attractor_ae.training.loop.plateau", lambda *_: ())  # no second start
    run = train(folder, tmp_path / "run")
    assert run.config().model.space == "features"
    ((features, pixels, images),) = seen  # after one of two epochs
    check = run.self_check()
    assert (features, images) == (check["accuracy"], check["images"])
    assert f"pixels: {percent(pixels)} when their training was stopped" in run.log_file.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.slow
@pytest.mark.parametrize("extractor", [True], indirect=True)
def test_pixels_are_chosen_where_features_are_not_clearly_better(
    folder, extractor, tmp_path, monkeypatch
):
    # Equal within the standard error, 0.11 for 40 images: nothing is gained by features.
    checks = {
        "features": {"accuracy": 0.5, "images": 40},
        "standardised": {"accuracy": 0.4, "images": 40},
    }
    monkeypatch.setattr(
        choose.Run, "self_check", lambda run: checks[run.config().model.space], raising=True
    )
    run = train(folder, tmp_path / "run")
    assert run.config().model.space == "standardised"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.slow
def test_without_the_extra_a_line_says_what_it_would_bring(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(choose, "find_spec", lambda _: None)
    notes = []

    class Notes(Reporter):
        def note(self, line):
            notes.append(line)

        def progress(self, *_):
            pass

    run = train(folder, tmp_path / "run", reporter=Notes())
    assert run.config().model.space == "standardised"
    assert any("attractor-ae[features]" in line for line in notes)


@pytest.mark.parametrize(
    ("overrides", "left_open"),
    [
        (["training.epochs=2"], True),
        (["model.space=pixels"], False),
        (["training.loss=mse"], False),
    ],
)
def test_a_named_space_is_not_chosen(overrides, left_open):
    assert space_is_open(overrides) is left_open


def test_features_must_be_better_by_more_than_the_standard_error():
    # Of the difference of 0.5 and 0.6 over 100 images: sqrt((0.25 + 0.24) / 100) = 0.07.
    assert features_are_better(0.6, 0.5, 100)
    assert not features_are_better(0.56, 0.5, 100)
    assert not features_are_better(0.6, 0.5, 48)
    assert not features_are_better(1.0, 239 / 240, 240)  # one image more
    assert features_are_better(1.0, 230 / 240, 240)


def test_pixels_may_halve_their_errors_until_the_end():
    # 0.6 may become 0.8, with a standard error of sqrt((0.09 + 0.16) / 100) = 0.05 to 0.9.
    assert features_will_be_better(0.9, 0.6, 100)
    assert not features_will_be_better(0.9, 0.72, 100)
    assert not features_will_be_better(1.0, 1.0, 100)


@pytest.mark.parametrize("there", ["a/1.png", ""])
def test_a_folder_of_other_files_is_refused_before_the_training(folder, tmp_path, there):
    """Also a file; there is nothing next to it afterwards."""
    target = tmp_path / "run"
    path = target / there
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    with pytest.raises(AttractorError, match="not a run folder"):
        train(folder, target)
    assert list(tmp_path.iterdir()) == [target]
