"""A network that has learned passes its self-check, and one that has not is reported."""

import csv
import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import r2_score

from attractor_ae import ExperimentConfig, evaluate, fit_detector, load, preset, train
from attractor_ae._reporter import Reporter, percent
from attractor_ae.data import ImageFormat
from attractor_ae.reporting import compare
from attractor_ae.training import build_network, loop
from attractor_ae.training.self_check import check_network, plateau

LEARNING = [
    "model.space=standardised",
    "model.weight_gain=1.7",
    "model.dimension=16",
    "training.mse_weight=5",
    "training.dropout_warmup=60",
    "training.shift=0",  # needs more steps than a test should take
    "training.precision=float32",
    "evaluation.head=knn",
    "evaluation.trials=2",
    "evaluation.recursions=2",
]


class Notes(Reporter):
    def __init__(self):
        self.lines = []

    def note(self, line):
        self.lines.append(line)


@pytest.fixture(scope="module")
def many():
    return load("mnist5k", "train", per_class=30)


@pytest.mark.slow
def test_colour_pictures_are_learned_by_the_quick_recipe(tmp_path):
    """The only training in colour: few pictures, which are hard to reconstruct."""
    settings = ["dataset.name=specimens", "dataset.channels=3", "dataset.image_size=32"]
    config = preset("quick", [*settings, "training.precision=float32", "training.batch_size=16"])
    images = load("specimens", image_format=ImageFormat(32, 3))
    check = train(config, images, tmp_path / "run").self_check()
    assert check["accuracy"] > 0.75 > check["chance"]


def shuffled(images):
    labels = np.random.default_rng(0).permutation(images.labels)
    return dataclasses.replace(images, labels=labels)


def constant(network, value=0.5):
    """Return the network with one code and one output for all images."""
    with torch.no_grad():
        for weights in network.parameters():
            weights.zero_()
        network.latent.bias.fill_(1)
        network.output.bias.fill_(value)
    return network


@pytest.mark.slow
def test_digits_are_learned_and_shuffled_labels_are_reported(many, tmp_path):
    """Trains twice: only a training shows that both ends are told apart."""
    config = preset(
        "default",
        [
            *LEARNING,
            "training.epochs=28",
            "training.batch_size=16",
            "dataset.calibration_fraction=0.2",
        ],
    )
    notes = Notes()
    run = train(config, many, tmp_path / "learned", reporter=notes)
    found = run.self_check()
    assert found["self_check"] == "passed", found
    assert found["accuracy"] > 0.5
    assert found["r2"] > 0
    assert found["images"] == 60
    assert f"accuracy {percent(found['accuracy'])}" in notes.lines[-1]
    assert not run.self_check_failure()

    notes = Notes()
    failed = train(config, shuffled(many), tmp_path / "shuffled", reporter=notes)
    found = failed.self_check()
    assert found["self_check"] == "failed", found
    assert "guessing" in notes.lines[-1]
    # Every later use reports it: fit, evaluation and table.
    notes = Notes()
    detector = fit_detector(failed.path, shuffled(many), reporter=notes)
    assert notes.lines == [failed.self_check_failure()]
    result = evaluate(
        detector, many, [load("digits8", "test", per_class=2)], provenance={"self_checks": [found]}
    )
    assert any("1 of 1 failed" in note for note in compare({"m": [result]}).detection.notes)


def test_r2_and_accuracy_are_those_of_scikit_learn(many):
    config = preset("default", LEARNING)
    network = build_network(config, 10)
    trained, kept = many.divided(0.2, 0)
    found = check_network(config, network, trained, kept)

    def points(images):
        return network.space.points(torch.from_numpy(images.images).float() / 255)

    with torch.no_grad():
        output = network(torch.from_numpy(kept.images).float() / 255).reconstruction
    # r2_score compares with the mean of the test images; with weights of one, that of training.
    mean = points(trained).mean(0, keepdim=True)
    expected = r2_score((points(kept) - mean).flatten(), (output - mean).flatten())
    total = (points(kept) - mean).square().sum()
    around = (points(kept) - mean - (points(kept) - mean).mean()).square().sum()
    assert found.r2 == pytest.approx(1 - (1 - expected) * (around / total).item(), abs=1e-3)
    assert found.chance == pytest.approx(0.1)


@pytest.mark.parametrize("loss", ["ssim", "ms-ssim", "mse", "l1", "huber", "bce"])
def test_one_code_and_one_picture_for_all_images_fail(many, loss):
    config = ExperimentConfig.from_dict({"dataset": {"name": "m"}, "training": {"loss": loss}})
    network = constant(build_network(config, 10), -2.0 if loss == "bce" else 0.13)
    reasons = plateau(config, network, many)
    assert len(reasons) == 2
    found = check_network(config, network, many, many.take([]))
    assert found.failures == tuple(reasons)
    assert (found.accuracy, found.part, found.images) == (None, "training", 300)


def test_a_plateau_starts_the_training_again_once(digits, tmp_path, monkeypatch):
    """Few steps on few images are a plateau."""
    config = preset(
        "default", [*LEARNING, "training.epochs=9", "training.dropout_warmup=6",
        "training.checkpoint_interval=1", "dataset.calibration_fraction=0.5"],
    )  # fmt: skip
    assert digits.images.shape[0] == 40  # one step per epoch, so a warm-up of 3 steps
    seen = []
    step = loop._Loop._step

    def recorded(self, rows, rate, dropout, rng):
        seen.append(dropout)
        return step(self, rows, rate, dropout, rng)

    monkeypatch.setattr(loop._Loop, "_step", recorded)
    monkeypatch.setattr(loop, "plateau", lambda *_: ["nothing moves"])
    notes = Notes()
    run = train(config, digits, tmp_path / "whole", reporter=notes)
    # 3 epochs, then 9 more, of which 6 = 2/3 are the longer warm-up.
    assert seen == pytest.approx([0, 0, 0.11, 0, 0, 0, 0, 0.11, 0.22, 0.33, 0.33, 0.33])
    assert run.self_check()["restarted"]
    assert sum("after epoch 3, nothing moves" in line for line in notes.lines) == 1
    assert "6 steps of dropout warm-up" in run.log_file.read_text()
    with run.history_file.open() as file:
        assert [int(row["epoch"]) for row in csv.DictReader(file)] == list(range(1, 10))

    class Interrupted(Reporter):
        def progress(self, *_):
            if len(seen) == 12 + 3 + 5:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, digits, tmp_path / "cut", reporter=Interrupted())
    resumed = train(config, digits, tmp_path / "cut", resume=True)
    assert len(seen) == 24  # the second attempt goes on where it stopped
    ours, theirs = load_file(resumed.weights_file), load_file(run.weights_file)
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)
    assert json.loads(resumed.self_check_file.read_text()) == run.self_check()


def test_a_classifier_that_guesses_fails(many):
    config = preset("default", ["model.type=conv", "model.metric=''", "evaluation.head_input=code"])
    network = build_network(config, 10)
    with torch.no_grad():
        for weights in network.parameters():
            weights.zero_()
    trained, kept = many.divided(0.2, 0)
    found = check_network(config, network, trained, kept)
    assert found.r2 is None
    assert found.accuracy == pytest.approx(0.1)
    assert len(found.failures) == 1
