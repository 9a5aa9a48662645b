import csv
import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
import tomllib

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from attractor_ae import Augmentation, ExperimentConfig, ImageSet, train
from attractor_ae._errors import AttractorError
from attractor_ae.core.autoencoder import Autoencoder
from attractor_ae.training import loop, training_augmentation, training_part

SETTINGS = {
    "dataset": {"name": "mnist5k", "nbr_of_samples_per_class": 4},
    "training": {
        "epochs": 4,
        "batch_size": 16,
        "loss": "mse",
        "learning_rate": 1e-3,
        "checkpoint_interval": 2,
    },
}


def config(**training):
    settings = {**SETTINGS, "training": {**SETTINGS["training"], **training}}
    return ExperimentConfig.from_dict(settings)


def weights(run):
    return load_file(run.weights_file)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


class StopAfter:
    """Interrupts as Ctrl-C does, after a number of steps."""

    def __init__(self, steps):
        self.steps = steps

    def __call__(self, progress):
        if progress.step == self.steps:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("optimizer", "further"),
    [
        ("Adam", {}),
        ("AdamW", {}),
        ("SGD", {}),
        ("Adam", {"feedback": 0.5}),
        ("Adam", {"weight_averaging": 0.9}),
    ],
)
def test_an_interrupted_run_resumes_to_bitwise_the_same_weights(
    digits, tmp_path, optimizer, further
):
    # SGD's momentum, the schedule, the fed back outputs and the average are state too; SGD needs a
    # small rate for summed pixels.
    settings = config(
        **further,
        optimizer=optimizer,
        schedule="onecycle",
        learning_rate=1e-5 if optimizer == "SGD" else 1e-3,
    )
    whole = train(settings, digits, tmp_path / "whole")
    # Step 8 of 3 an epoch is in the middle of epoch 3; a checkpoint of epoch 2 is written.
    with pytest.raises(KeyboardInterrupt):
        train(
            settings,
            digits,
            tmp_path / "cut",
            on_progress=StopAfter(8),
        )
    assert not (tmp_path / "cut" / "weights.safetensors").exists()
    steps = []
    resumed = train(
        settings,
        digits,
        tmp_path / "cut",
        resume=True,
        on_progress=lambda at: steps.append(at.step),
    )
    assert steps == list(range(7, 13))
    assert same(weights(whole), weights(resumed))
    for a, b in zip(rows_of(whole), rows_of(resumed), strict=True):
        assert a["loss"] == b["loss"]
    assert not resumed.checkpoint_file.exists()


@pytest.mark.parametrize("ended", [KeyboardInterrupt, AttractorError("disk: is full")])
def test_what_ends_the_last_write_costs_no_epoch(digits, tmp_path, monkeypatch, ended):
    """Fewer epochs than lie between two checkpoints, and no place for the weights."""
    settings = config(checkpoint_interval=50)
    whole = train(settings, digits, tmp_path / "whole")

    def fails(*_):
        raise ended

    with monkeypatch.context() as patch:
        patch.setattr(loop, "write_tensors", fails)
        with pytest.raises(ended if isinstance(ended, type) else AttractorError):
            train(settings, digits, tmp_path / "cut")
    steps = []
    resumed = train(
        settings, digits, tmp_path / "cut", resume=True, on_progress=lambda at: steps.append(at)
    )
    assert not steps
    assert same(weights(whole), weights(resumed))
    assert [row["loss"] for row in rows_of(whole)] == [row["loss"] for row in rows_of(resumed)]


def test_a_run_is_not_continued_on_other_images(digits, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(config(), digits, tmp_path, on_progress=StopAfter(8))
    inverted = dataclasses.replace(digits, images=255 - digits.images)
    fewer = digits.take(range(30))
    swapped = dataclasses.replace(digits, labels=digits.labels[::-1].copy())
    for other in (inverted, fewer, swapped):
        with pytest.raises(AttractorError, match="begun on other images of data set 'mnist5k'"):
            train(config(), other, tmp_path, resume=True)
    train(config(), digits, tmp_path, resume=True)


def test_feedback_begins_where_the_config_says(digits, tmp_path):
    """Up to there the weights are those of a training without it; from there on they are not."""
    plain, late, early = (
        weights(train(config(**settings), digits, tmp_path / f"{i}"))
        for i, settings in enumerate(
            [{}, {"feedback": 0.9, "feedback_start": 1.0}, {"feedback": 0.9}]
        )
    )
    assert same(plain, late)
    assert not same(plain, early)


def test_a_run_keeps_the_moving_average_of_its_weights(digits, tmp_path):
    """Of the weights after each step: those that trainings of fewer epochs end with, at one a step.

    The weights themselves are trained as without it, and the first ones are taken as they are.
    """
    steps = [
        weights(train(config(epochs=epochs, batch_size=40), digits, tmp_path / f"{epochs}"))
        for epochs in (1, 2, 3)
    ]
    averaged = config(epochs=3, batch_size=40, weight_averaging=0.75)
    found = weights(train(averaged, digits, tmp_path / "averaged"))
    for name, tensor in found.items():
        first, second, third = (step[name] for step in steps)
        assert not torch.equal(tensor, third)
        expected = 0.75 * (0.75 * first + 0.25 * second) + 0.25 * third
        torch.testing.assert_close(tensor, expected, rtol=1e-5, atol=1e-6)


def test_a_share_of_each_class_is_kept_for_calibration(digits):
    settings = ExperimentConfig.from_dict(
        {"dataset": {"name": "mnist5k", "calibration_fraction": 0.5}}
    )
    unlabelled = ImageSet("d", "train", digits.images, digits.labels.copy(), digits.classes)
    unlabelled.labels[0] = -1
    used, kept = training_part(settings, unlabelled)
    assert (len(used), len(kept)) == (19, 20)  # a class of 3 gives round(1.5) = 2 as well
    assert np.bincount(kept.labels).tolist() == [2] * 10
    together = {image.tobytes() for image in (*used.images, *kept.images)}
    assert together == {image.tobytes() for image in unlabelled.images[1:]}
    again = training_part(settings, unlabelled)[1]
    assert np.array_equal(again.images, kept.images)
    other = settings.model_copy(
        update={"dataset": settings.dataset.model_copy(update={"split_seed": 1})}
    )
    assert not np.array_equal(training_part(other, unlabelled)[1].images, kept.images)
    few = digits.take(range(10, 30))
    with pytest.raises(AttractorError, match="keeps 10 of 20 images .* use more images, or set"):
        training_part(settings, few)


def test_a_share_that_is_too_small_is_answered_with_the_smallest_that_will_do(digits):
    def part(share):
        dataset = {"name": "mnist5k", "calibration_fraction": share}
        return training_part(ExperimentConfig.from_dict({"dataset": dataset}), digits)

    with pytest.raises(AttractorError, match="set dataset.calibration_fraction to 0.38, or set"):
        part(0.25)
    assert len(part(0.38)[1]) == 20
    with pytest.raises(AttractorError):
        part(0.37)


def test_the_loss_on_the_way_is_the_mean_of_the_epoch_so_far(digits, tmp_path):
    """So that its last one is that of the history, though the last batch has eight images."""
    told = []
    run = train(config(epochs=2), digits, tmp_path, on_progress=told.append)
    at_the_end = [at.loss for at in told if at.report is not None]
    assert at_the_end == pytest.approx([float(row["loss"]) for row in rows_of(run)])
    assert len(told) == 6


def rows_of(run):
    with run.history_file.open() as file:
        return list(csv.DictReader(file))


SCRIPT = """
import sys
import torch
from attractor_ae import ExperimentConfig, load, train

config = ExperimentConfig.from_toml(sys.argv[1])
images = load("mnist5k", "train", per_class=4)
torch.set_num_threads(int(sys.argv[3]))
train(config, images, sys.argv[2], resume=True, on_progress=lambda at: print(at.step, flush=True))
"""


def test_a_killed_run_resumes_to_bitwise_the_same_weights(digits, tmp_path):
    """SIGKILL: no handler runs, and the file of the last checkpoint is what there is."""
    settings = config(epochs=12)
    whole = train(settings, digits, tmp_path / "whole")
    toml = tmp_path / "config.toml"
    toml.write_text(settings.to_toml())
    threads = torch.get_num_threads()
    process = subprocess.Popen(
        # To the bit with as many threads; a cluster of another test may have told processes fewer.
        [sys.executable, "-c", SCRIPT, str(toml), str(tmp_path / "cut"), str(threads)],
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        for line in process.stdout:
            if int(line) == 20:  # in epoch 7; the checkpoint of epoch 6 is there
                process.kill()
                break
    assert process.returncode == -signal.SIGKILL
    assert (tmp_path / "cut" / "checkpoint.safetensors").exists()
    steps = []
    resumed = train(
        settings,
        digits,
        tmp_path / "cut",
        resume=True,
        on_progress=lambda at: steps.append(at.step),
    )
    assert steps[0] > 1
    assert same(weights(whole), weights(resumed))


def test_the_seed_decides_everything(digits, tmp_path, unchanged_random_state):
    a, b, c = (
        train(config(seed=seed, epochs=1), digits, tmp_path / name)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert same(weights(a), weights(b))
    assert not same(weights(a), weights(c))


def test_training_learns_real_digits(digits, tmp_path):
    # Without dropout and augmentation, which would need more steps than a test should take.
    values = config(epochs=20, batch_size=8, augment=False).model_dump()
    values["model"]["dropout"] = 0.0
    run = train(ExperimentConfig.from_dict(values), digits, tmp_path)
    losses = [float(row["loss"]) for row in rows_of(run)]
    # Better than the best constant image, which knows nothing of the input.
    pixels = digits.images.astype(float) / 255
    constant = ((pixels - pixels.mean(0)) ** 2).sum((1, 2, 3)).mean()
    assert losses[-1] < constant < losses[0]


def test_the_run_folder_tells_how_it_was_made(digits, tmp_path):
    run = train(config(), digits, tmp_path / "run")
    assert ExperimentConfig.from_toml(run.config_file) == config()
    assert tomllib.loads(run.config_file.read_text())["evaluation"]["trials"] == 20
    environment = json.loads(run.environment_file.read_text())
    assert environment["packages"]["torch"] == torch.__version__
    assert environment["device"] == "cpu"
    assert environment["precision"] in {"float32", "bfloat16"}
    history = rows_of(run)
    assert [int(row["epoch"]) for row in history] == [1, 2, 3, 4]
    assert all(float(row["images_per_second"]) > 0 for row in history)
    assert "training is finished" in run.log_file.read_text()
    model = Autoencoder()
    model.load_state_dict(weights(run))
    assert sorted(p.name for p in run.path.iterdir()) == [
        "config.toml",
        "environment.json",
        "history.csv",
        "log.txt",
        "weights.safetensors",
    ]


def test_a_classifier_trains_in_the_same_loop(digits, tmp_path):
    settings = ExperimentConfig.from_dict({**SETTINGS, "model": {"type": "conv", "dropout": 0.0}})
    run = train(settings, digits, tmp_path)
    history = rows_of(run)
    assert float(history[-1]["cross_entropy"]) < math.log(10) < float(history[0]["loss"]) + 0.1
    assert math.isnan(float(history[0]["reconstruction"]))


def test_a_classifier_shows_its_accuracy(digits, tmp_path):
    """Of the epoch so far; at its end it is that of the whole, which history and log keep."""
    settings = ExperimentConfig.from_dict({**SETTINGS, "model": {"type": "conv", "dropout": 0.0}})
    seen = []
    run = train(settings, digits, tmp_path / "conv", on_progress=seen.append)
    history = rows_of(run)
    for at in seen:
        count = 40 if at.report else 16 * (1 + (at.step - 1) % 3)
        assert 0 <= at.accuracy <= 1
        assert at.accuracy * count == pytest.approx(round(at.accuracy * count), abs=1e-4)
        if at.report:
            assert at.accuracy == at.report.accuracy == float(history[at.epoch - 1]["accuracy"])
    log = run.log_file.read_text()
    assert f"accuracy {seen[-1].accuracy:.1%}, " in log
    seen.clear()
    run = train(config(), digits, tmp_path / "autoencoder", on_progress=seen.append)
    assert all(math.isnan(at.accuracy) for at in seen)
    assert math.isnan(float(rows_of(run)[0]["accuracy"]))
    assert "accuracy" not in run.log_file.read_text()


def test_progress_counts_every_step_and_estimates_the_end(digits, tmp_path):
    seen = []
    train(config(), digits, tmp_path, on_progress=seen.append)
    assert [at.step for at in seen] == list(range(1, 13))
    assert {at.steps for at in seen} == {12}
    assert seen[-1].seconds_left == 0
    assert seen[0].seconds_left > 0
    assert [at.report is not None for at in seen] == [at.step % 3 == 0 for at in seen]


def test_a_run_is_not_overwritten(digits, tmp_path):
    run = train(config(epochs=1), digits, tmp_path)
    before = run.weights_file.read_bytes()
    with pytest.raises(AttractorError, match="holds a run already; continue it with --resume"):
        train(config(epochs=1), digits, tmp_path)
    assert train(config(epochs=1), digits, tmp_path, resume=True).finished
    assert run.weights_file.read_bytes() == before


def test_another_experiment_is_not_resumed(digits, tmp_path):
    train(config(epochs=1), digits, tmp_path)
    with pytest.raises(AttractorError, match=r"begun with training.learning_rate = 0.001, not 0.5"):
        train(config(epochs=1, learning_rate=0.5), digits, tmp_path, resume=True)


def test_a_run_that_failed_before_its_first_checkpoint_starts_over(digits, tmp_path):
    """The advice of the error can be followed: no folder has to be deleted by hand."""
    with pytest.raises(AttractorError, match="the loss is"):
        train(config(optimizer="SGD", learning_rate=1e6), digits, tmp_path)
    run = train(config(epochs=1), digits, tmp_path)
    assert run.config() == config(epochs=1)


def test_what_is_refused_leaves_no_folder(digits, tmp_path):
    for settings in (config(device="cuda:99"), config(make_instance_impossible=True)):
        with pytest.raises(AttractorError):
            train(settings, digits.first_per_class(1), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("keep", [0, 1, 2])
def test_a_history_that_does_not_reach_the_checkpoint_is_named(digits, tmp_path, keep):
    with pytest.raises(KeyboardInterrupt):
        train(config(), digits, tmp_path, on_progress=StopAfter(8))
    history = tmp_path / "history.csv"
    lines = history.read_text().splitlines(keepends=True)
    assert len(lines) == 3  # the heading and two epochs
    history.write_text("".join(lines[:keep]))
    with pytest.raises(AttractorError, match="a row for each of the epochs 1 to 2"):
        train(config(), digits, tmp_path, resume=True)


@pytest.mark.parametrize("drop", ["optimizer.0.exp_avg", "optimizer.3.step", "optimizer"])
def test_a_checkpoint_without_all_of_the_optimiser_is_refused(digits, tmp_path, drop):
    with pytest.raises(KeyboardInterrupt):
        train(config(), digits, tmp_path, on_progress=StopAfter(8))
    path = tmp_path / "checkpoint.safetensors"
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    kept = {k: t for k, t in load_file(path).items() if not k.startswith(drop)}
    save_file(kept, path, metadata)
    with pytest.raises(AttractorError, match="does not fit this network"):
        train(config(), digits, tmp_path, resume=True)


def test_images_of_another_shape_are_refused(digits, tmp_path):
    small = ImageSet(
        "small",
        "train",
        np.ascontiguousarray(digits.images[..., :32, :32]),
        digits.labels,
        digits.classes,
    )
    with pytest.raises(AttractorError, match=r"\(1, 32, 32\), but .* a network for \(1, 64, 64\)"):
        train(config(), small, tmp_path)


def test_the_config_decides_the_augmentation():
    assert training_augmentation(config(augment=False).training, natural=True) is None
    assert training_augmentation(config().training, natural=False) == Augmentation()
    natural = training_augmentation(config().training, natural=True)
    assert natural.brightness_contrast == 0.33


def test_a_damaged_checkpoint_is_named(digits, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(config(), digits, tmp_path, on_progress=StopAfter(8))
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(AttractorError, match="checkpoint.safetensors: is truncated or damaged"):
        train(config(), digits, tmp_path, resume=True)


def test_a_loss_that_is_no_number_ends_the_run_with_advice(digits, tmp_path):
    with pytest.raises(AttractorError, match=r"the loss is .* lower training.learning_rate"):
        train(config(optimizer="SGD", learning_rate=1e6), digits, tmp_path)


def test_what_cannot_be_trained_on_is_refused(digits, tmp_path):
    with pytest.raises(AttractorError, match="does not show the same scene in variations"):
        train(config(make_scene_impossible=True), digits, tmp_path)
    with pytest.raises(AttractorError, match="at least 2 classes"):
        train(config(), digits.take(np.arange(4)), tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_unknown_device_is_refused(digits, tmp_path):
    with pytest.raises(AttractorError, match=r"device 'cuda:99' cannot be used"):
        train(config(device="cuda:99"), digits, tmp_path)


def test_mixed_precision_trains_too(digits, tmp_path):
    run = train(config(precision="bfloat16", loss="ssim", epochs=1), digits, tmp_path)
    assert json.loads(run.environment_file.read_text())["precision"] == "bfloat16"
    assert all(t.dtype == torch.float32 for t in weights(run).values())


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_on_the_command_line(tmp_path, sent):
    """A real signal to a real process: one line, exit code 130, and the run resumes.

    SIGTERM is what a batch system sends at its time limit.
    """
    toml = tmp_path / "c.toml"
    toml.write_text(config(epochs=500).to_toml())
    command = [sys.executable, "-c", "from attractor_ae.cli import main; main()"]
    arguments = ["train", str(toml), "--out", str(tmp_path / "run")]
    process = subprocess.Popen(
        [*command, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )
    checkpoint = tmp_path / "run" / "checkpoint.safetensors"
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(sent)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert errors.count("\n") == 1
    assert "interrupted; nothing is lost, go on with: attractor-ae train" in errors
    assert errors.rstrip().endswith("--resume")
    assert not list((tmp_path / "run").glob(".*"))
