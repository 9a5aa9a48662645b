import csv
import dataclasses
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
import tomllib

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from attractor_ae import Augmentation, ExperimentConfig, ImageSet, fit_detector, train
from attractor_ae._errors import AttractorError
from attractor_ae._files import read_tensors, write_tensors
from attractor_ae._reporter import Reporter
from attractor_ae.core.autoencoder import Autoencoder
from attractor_ae.data.image_set import first_rows
from attractor_ae.training import loop, training_augmentation, training_part
from attractor_ae.training.preparation import balanced_rows

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


class Steps(Reporter):
    """Records each step, and interrupts as Ctrl-C does after a number of them."""

    def __init__(self, stop_after=None):
        self.seen, self.stop_after = [], stop_after

    def progress(self, task, done, total, detail="", seconds_left=None):
        assert task == "training"
        self.seen.append((done, total, detail, seconds_left))
        if done == self.stop_after:
            raise KeyboardInterrupt

    @property
    def steps(self):
        return [done for done, *_ in self.seen]


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["Adam", "AdamW", "SGD"])
def test_an_interrupted_run_resumes_to_bitwise_the_same_weights(digits, tmp_path, optimizer):
    # SGD's momentum and the schedule are state too; SGD needs a small rate for summed pixels.
    settings = config(
        optimizer=optimizer,
        schedule="onecycle",
        learning_rate=1e-5 if optimizer == "SGD" else 1e-3,
        class_weight=0.5,
        balanced=optimizer == "SGD",
    )
    whole = train(settings, digits, tmp_path / "whole")
    # Step 8 of 3 an epoch is in the middle of epoch 3; a checkpoint of epoch 2 is written.
    with pytest.raises(KeyboardInterrupt):
        train(settings, digits, tmp_path / "cut", reporter=Steps(8))
    assert not (tmp_path / "cut" / "weights.safetensors").exists()
    reporter = Steps()
    resumed = train(settings, digits, tmp_path / "cut", resume=True, reporter=reporter)
    assert reporter.steps == list(range(7, 13))
    assert same(weights(whole), weights(resumed))
    for a, b in zip(rows_of(whole), rows_of(resumed), strict=True):
        assert a["loss"] == b["loss"]
    assert not resumed.checkpoint_file.exists()


@pytest.mark.slow
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
    reporter = Steps()
    resumed = train(settings, digits, tmp_path / "cut", resume=True, reporter=reporter)
    assert not reporter.seen
    assert same(weights(whole), weights(resumed))
    assert [row["loss"] for row in rows_of(whole)] == [row["loss"] for row in rows_of(resumed)]


def test_a_run_is_not_continued_on_other_images(digits, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(config(), digits, tmp_path, reporter=Steps(8))
    inverted = dataclasses.replace(digits, images=255 - digits.images)
    fewer = digits.take(range(30))
    swapped = dataclasses.replace(digits, labels=digits.labels[::-1].copy())
    for other in (inverted, fewer, swapped):
        with pytest.raises(AttractorError, match="other images"):
            train(config(), other, tmp_path, resume=True)
    train(config(), digits, tmp_path, resume=True)


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
    few = digits.take(range(10, 26))
    with pytest.raises(AttractorError, match="8 of 16"):
        training_part(settings, few)


def test_a_share_that_is_too_small_is_answered_with_the_smallest_that_will_do(digits):
    def part(share):
        dataset = {"name": "mnist5k", "calibration_fraction": share}
        return training_part(ExperimentConfig.from_dict({"dataset": dataset}), digits)

    with pytest.raises(AttractorError, match="0.13"):
        part(0.1)
    assert len(part(0.13)[1]) == 10
    with pytest.raises(AttractorError):
        part(0.12)


def test_the_loss_on_the_way_is_the_mean_of_the_epoch_so_far(digits, tmp_path):
    """So that its last one is that of the history, though the last batch has eight images."""
    reporter = Steps()
    run = train(config(epochs=2), digits, tmp_path, reporter=reporter)
    at_the_end = [
        float(re.search(r"loss ([^,]+)", detail)[1]) for step, _, detail, _ in reporter.seen
        if step % 3 == 0
    ]  # fmt: skip
    expected = [float(row["loss"]) for row in rows_of(run)]
    assert at_the_end == pytest.approx(expected, rel=1e-3)
    assert len(reporter.seen) == 6


def rows_of(run):
    with run.history_file.open() as file:
        return list(csv.DictReader(file))


SCRIPT = """
import sys
import torch
from attractor_ae import ExperimentConfig, load, train
from attractor_ae._reporter import Reporter

class Printing(Reporter):
    def progress(self, task, done, total, detail="", seconds_left=None):
        print(done, flush=True)

config = ExperimentConfig.from_toml(sys.argv[1])
images = load("mnist5k", "train", per_class=4)
torch.set_num_threads(int(sys.argv[3]))
train(config, images, sys.argv[2], resume=True, reporter=Printing())
"""


@pytest.mark.soak
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
    reporter = Steps()
    resumed = train(settings, digits, tmp_path / "cut", resume=True, reporter=reporter)
    assert reporter.steps[0] > 1
    assert same(weights(whole), weights(resumed))


@pytest.mark.parametrize("finished", [False, True])
def test_what_a_killed_process_leaves_is_removed_at_the_next_start(digits, tmp_path, finished):
    settings = config(epochs=2)
    if finished:
        train(settings, digits, tmp_path)
        (tmp_path / "checkpoint.safetensors").touch()
    for name in ("checkpoint.safetensors", "history.csv"):
        (tmp_path / f".{name}.0123abcd.tmp").write_text("half")
    run = train(settings, digits, tmp_path, resume=True)
    assert run.finished
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert not run.checkpoint_file.exists()


def test_the_seed_decides_everything(digits, tmp_path, unchanged_random_state):
    a, b, c = (
        train(config(seed=seed, epochs=1), digits, tmp_path / name)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert same(weights(a), weights(b))
    assert not same(weights(a), weights(c))


@pytest.mark.slow
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
        "self_check.json",
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
    reporter = Steps()
    run = train(settings, digits, tmp_path / "conv", reporter=reporter)
    history = rows_of(run)
    for step, _, detail, _ in reporter.seen:
        shown = float(re.search(r"accuracy ([0-9.]+) %", detail)[1]) / 100
        count = 40 if step % 3 == 0 else 16 * (1 + (step - 1) % 3)
        assert shown * count == pytest.approx(round(shown * count), abs=0.001 * count)
        if step % 3 == 0:
            assert shown == pytest.approx(float(history[step // 3 - 1]["accuracy"]), abs=6e-4)
    assert "accuracy " in run.log_file.read_text()
    reporter = Steps()
    run = train(config(), digits, tmp_path / "autoencoder", reporter=reporter)
    assert not any("accuracy" in detail for _, _, detail, _ in reporter.seen)
    assert math.isnan(float(rows_of(run)[0]["accuracy"]))
    assert "accuracy" not in run.log_file.read_text()


def test_progress_counts_every_step_and_estimates_the_end(digits, tmp_path):
    reporter = Steps()
    train(config(), digits, tmp_path, reporter=reporter)
    assert reporter.steps == list(range(1, 13))
    assert {total for _, total, *_ in reporter.seen} == {12}
    assert reporter.seen[-1][3] == 0
    assert reporter.seen[0][3] > 0


def test_a_run_is_not_overwritten(digits, tmp_path):
    run = train(config(epochs=1), digits, tmp_path)
    before = run.weights_file.read_bytes()
    with pytest.raises(AttractorError, match="--resume"):
        train(config(epochs=1), digits, tmp_path)
    assert train(config(epochs=1), digits, tmp_path, resume=True).finished
    assert run.weights_file.read_bytes() == before


def test_another_experiment_is_not_resumed(digits, tmp_path):
    train(config(epochs=1), digits, tmp_path)
    with pytest.raises(AttractorError, match=r"training.learning_rate = 0.001, not 0.5"):
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
            train(settings, digits.take(first_rows(digits.labels, 1)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("keep", [0, 1, 2])
def test_a_history_that_does_not_reach_the_checkpoint_is_named(digits, tmp_path, keep):
    with pytest.raises(KeyboardInterrupt):
        train(config(), digits, tmp_path, reporter=Steps(8))
    history = tmp_path / "history.csv"
    lines = history.read_text().splitlines(keepends=True)
    assert len(lines) == 3  # the heading and two epochs
    history.write_text("".join(lines[:keep]))
    with pytest.raises(AttractorError, match=r"history\.csv"):
        train(config(), digits, tmp_path, resume=True)


@pytest.mark.parametrize("drop", ["optimizer.0.exp_avg", "optimizer.3.step", "optimizer"])
def test_a_checkpoint_without_all_of_the_optimiser_is_refused(digits, tmp_path, drop):
    with pytest.raises(KeyboardInterrupt):
        train(config(), digits, tmp_path, reporter=Steps(8))
    path = tmp_path / "checkpoint.safetensors"
    tensors, metadata = read_tensors(path)
    write_tensors(path, {k: t for k, t in tensors.items() if not k.startswith(drop)}, metadata)
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
    assert training_augmentation(config(augment=False), "natural") is None
    assert training_augmentation(config(), "grey") == Augmentation(("blur", "noise"))
    cars = training_augmentation(config(), "cars")
    assert cars == Augmentation(("blur", "brightness-contrast", "noise"))
    # Own images: colour counts as natural.
    assert training_augmentation(config(), None) == Augmentation()
    colour = ExperimentConfig.from_dict({"dataset": {"name": "own", "channels": 3}})
    natural = Augmentation(("brightness-contrast", "blur", "noise"))
    assert training_augmentation(colour, None) == natural


def test_a_training_can_be_stopped_on_its_way_and_continued(digits, tmp_path):
    dataset = {"name": "mnist5k", "calibration_fraction": 0.5}
    interval = {**SETTINGS["training"], "checkpoint_interval": 1}
    settings = ExperimentConfig.from_dict({"dataset": dataset, "training": interval})
    whole = train(settings, digits, tmp_path / "whole")
    looks = []

    def look(accuracy, images):
        looks.append((accuracy, images))
        return len(looks) == 2

    run = train(settings, digits, tmp_path / "run", stop=look)
    assert not run.finished
    # After one and two of four epochs, on the calibration images.
    assert len(run.history_file.read_text().splitlines()) == 1 + 2
    assert [images for _, images in looks] == [len(training_part(settings, digits)[1])] * 2
    assert all(0 <= accuracy <= 1 for accuracy, _ in looks)
    resumed = train(settings, digits, tmp_path / "run", resume=True)
    assert same(weights(resumed), weights(whole))


@pytest.mark.parametrize(("batch_size", "epochs"), [(64, 1080), (3, 78)])
def test_zero_epochs_are_1080_steps_for_any_number_of_images(digits, batch_size, epochs):
    build = config(epochs=0, batch_size=batch_size)  # of 40 images: 1 or 14 batches
    one = loop._Loop(build, digits, None, torch.device("cpu"), torch.float32)
    assert one.last_epoch == epochs


def test_image_and_target_are_shifted_together(digits, monkeypatch):
    seen = []

    def objective(config, network, class_layer):
        def pair(x, target, y, masks):
            seen.append((x.detach().clone(), target.clone()))
            return {"loss": next(network.parameters()).sum()}

        return pair

    monkeypatch.setattr(loop, "build_objective", objective)
    settings = {"epochs": 1, "batch_size": len(digits), "augment": False, "precision": "float32"}
    still = torch.tensor(digits.images).float() / 255
    for shift in (0, 0.125):
        build = config(**settings, shift=shift)
        one = loop._Loop(build, digits, None, torch.device("cpu"), torch.float32)
        next(one.epochs(1, Reporter()))
        x, target = seen.pop()
        assert torch.equal(x, target)
        # Up to 8 of 64 pixels: what is in the middle of an image stays in it.
        assert torch.isclose(x.sum(), still.sum(), rtol=1e-6) == (shift == 0)
        assert len(torch.unique(x.flatten(1), dim=0)) == len(digits)


def test_a_damaged_checkpoint_is_named(digits, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(config(), digits, tmp_path, reporter=Steps(8))
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(AttractorError, match="checkpoint.safetensors: is truncated or damaged"):
        train(config(), digits, tmp_path, resume=True)


def test_a_loss_that_is_no_number_ends_the_run_with_advice(digits, tmp_path):
    with pytest.raises(AttractorError, match=r"the loss is .* lower training.learning_rate"):
        train(config(optimizer="SGD", learning_rate=1e6), digits, tmp_path)


def test_what_cannot_be_trained_on_is_refused(digits, tmp_path):
    with pytest.raises(AttractorError, match="at least 2 classes"):
        train(config(), digits.take(np.arange(4)), tmp_path)
    gap = digits.take(np.flatnonzero(digits.labels != 7))
    classifier = config().model_dump()
    classifier["model"]["type"] = "conv"
    with pytest.raises(AttractorError, match="no images of the class '7'"):
        train(ExperimentConfig.from_dict(classifier), gap, tmp_path)
    assert not list(tmp_path.iterdir())


def test_attractors_need_no_images_of_every_class_that_is_named(digits, tmp_path):
    gap = digits.take(np.flatnonzero(digits.labels != 7))
    run = train(config(epochs=1), gap, tmp_path)
    detector = fit_detector(run.path, gap)
    assert detector.classes_.tolist() == [0, 1, 2, 3, 4, 5, 6, 8, 9]


def test_an_unknown_device_is_refused(digits, tmp_path):
    with pytest.raises(AttractorError, match=r"device 'cuda:99' cannot be used"):
        train(config(device="cuda:99"), digits, tmp_path)


def test_mixed_precision_trains_too(digits, tmp_path):
    run = train(config(precision="bfloat16", loss="ssim", epochs=1), digits, tmp_path)
    assert json.loads(run.environment_file.read_text())["precision"] == "bfloat16"
    assert all(t.dtype == torch.float32 for t in weights(run).values())


@pytest.mark.slow
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
    note, line = errors.splitlines()
    assert note.startswith("training on 40 images: 500 epochs, 1500 steps in all, about ")
    assert line.startswith("interrupted; to continue, run: attractor-ae train")
    assert errors.rstrip().endswith("--resume")
    assert not list((tmp_path / "run").glob(".*"))


def test_balanced_epochs_draw_every_class_equally_often():
    labels = np.repeat([0, 2, 5], [1, 10, 40])
    drawn = balanced_rows(labels, np.random.default_rng(0))
    per_class = np.bincount(labels[drawn])
    np.testing.assert_array_equal(per_class, [17, 0, 17, 0, 0, 17])
    per_image = np.bincount(drawn, minlength=51)
    assert per_image[0] == 17
    assert sorted(per_image[1:11]) == [1] * 3 + [2] * 7
    assert sorted(per_image[11:]) == [0] * 23 + [1] * 17
    assert len(np.unique(labels[drawn][:17])) > 1  # not class by class
    # Of 52 images, one class has one more, and not always the same one.
    most = {
        np.bincount(labels[balanced_rows(labels, np.random.default_rng(seed))]).argmax()
        for labels in [np.repeat([0, 1, 2], [2, 10, 40])]
        for seed in range(20)
    }
    assert most == {0, 1, 2}


def test_a_training_is_balanced_only_if_asked_to(tmp_path, digits):
    plain, balanced = (
        weights(train(config(epochs=1, balanced=wanted), digits, tmp_path / str(wanted)))
        for wanted in (False, True)
    )
    assert not same(plain, balanced)
    assert same(plain, weights(train(config(epochs=1), digits, tmp_path / "default")))
