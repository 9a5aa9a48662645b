"""Fuzzing of everything that people bring, and of processes that are killed (``make fuzz``).

Each round damages files at random, or kills a process at a random moment, and checks that what
follows is a result or one line of error: nothing uncaught, nothing lost, nothing silently changed.
The seed and the number of a round determine it: ``--seed 0 --round 17`` repeats one. A killed
process is an exception, as its moment depends on the machine.
"""

import argparse
import csv
import dataclasses
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from unittest.mock import patch

import numpy as np
from PIL import Image

from attractor_ae import (
    AttractorError,
    EvaluationResult,
    ExperimentConfig,
    load_detector,
    load_model,
)
from attractor_ae._files import read_tensors
from attractor_ae.cli import app
from attractor_ae.data import ImageFormat, load
from attractor_ae.data.decode import decode
from attractor_ae.experiment.suites import read_suite

FORM = ImageFormat(size=16)
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "ICO", "TGA", "JPEG2000", "PCX")
SUFFIXES = (".png", ".jpg", "", "_w=1", ".TIF", ".heic")
SETTINGS = {
    "dataset": {"name": "mnist5k", "nbr_of_samples_per_class": 4, "image_size": 16},
    "training": {"epochs": 40, "loss": "mse", "device": "cpu", "checkpoint_interval": 3},
    "evaluation": {
        **{"recursions": 2, "recursion": 1, "trials": 2, "nbr_of_samples_per_class": 2},
        "out_datasets": ["faces"],
    },
}
NUMBERS = ("probability", "confidence", "uncertainty", "ood_score", "p_value")
WORDS = ["", "nan", "-1", "a", "b", "ü", "train", "TEST", "valid", '"', "'", "\0", "\r", "x" * 300]
WORDS += ["1e999", "[", "{", "\ufeff", "../1.png", "9" * 30, "true", "=", "#", "\t", ";", "~0", "."]


def check(good, what):
    """Raise an AssertionError, also under ``python -O``."""
    if not good:
        raise AssertionError(what)


def damaged(data, rng):
    """Return bytes that differ from ``data`` in one or several ways."""
    result = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        place, length = rng.randrange(len(result) + 1), rng.choice([1, 1, 4, 40, 400])
        match rng.randrange(6):
            case 0:
                result[place : place + 1] = bytes([rng.randrange(256)])
            case 1:
                del result[place:]
            case 2:
                del result[place : place + length]
            case 3:
                result[place:place] = rng.randbytes(length)
            case 4:
                result[place : place + length] = bytes(length)
            case 5:
                result[place:place] = result[: rng.randrange(len(result) + 1)]
    return bytes(result)


def invoked(*arguments):
    """Run a command in this process; return its exit code after a check of its error."""
    from typer.testing import CliRunner

    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    check(result.exit_code in {0, 2}, f"exit code {result.exit_code}: {arguments}")
    if result.exit_code == 2:
        lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        check(len(lines) == 1 and lines[0].isprintable(), f"not one line: {result.stderr!r}")
    return result.exit_code


def refused(action):
    """Return the result of an action, or None if it is refused in one line."""
    try:
        return action()
    except AttractorError as error:
        check(len(str(error).splitlines()) == 1, f"not one line: {error}")
        return None


@dataclasses.dataclass
class Rounds:
    """The rounds, by name; ``home`` has what they have in common, made once."""

    home: Path

    def __post_init__(self):
        self.home.mkdir(parents=True, exist_ok=True)
        self.images = load("mnist5k", "train", per_class=2)
        self.config = ExperimentConfig.from_dict(SETTINGS)
        self.toml = self.home / "tiny.toml"
        self.toml.write_text(self.config.to_toml(), encoding="utf-8")
        self.reference = self.home / "runs" / "seed0"
        self.seconds = time.perf_counter()
        sweep = ("sweep", self.toml, "--seeds", "0,1", "--out", self.home / "runs")
        check(self.process(*sweep).wait() == 0, "the reference cannot be trained")
        # On many cores, the runs of a sweep have several threads, and other weights to the bit.
        self.alone = self.home / "alone"
        train = ("train", self.toml, "--out", self.alone)
        check(self.process(*train).wait() == 0, "the reference cannot be trained")
        self.seconds = time.perf_counter() - self.seconds
        check(invoked("evaluate", self.reference) == 0, "the reference cannot be evaluated")
        self.digits = self.home / "digits"
        digits = load("mnist5k", "train", per_class=200)
        for i in np.flatnonzero(digits.labels < 2):
            path = self.digits / str(digits.labels[i]) / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(digits.images[i, 0]).save(path)
        self.model, self.rows = self.home / "digits.model", self.home / "digits.csv"
        self.fit_seconds = self.timed(*self.fit, "--out", self.model)
        self.score_seconds = self.timed("score", self.model, self.digits, "--out", self.rows)

    @property
    def fit(self):
        """A call that trains on pixels, for some seconds."""
        settings = ("model.space=standardised", "training.device=cpu")
        settings += ("training.epochs=40", "training.checkpoint_interval=2")
        options = [word for setting in settings for word in ("--set", setting)]
        return "fit", self.digits, "--size", 16, *options, "--again"

    def timed(self, *arguments):
        """Run a command, and return the seconds that it takes."""
        start = time.perf_counter()
        check(self.process(*arguments).wait() == 0, f"failed: {arguments}")
        return time.perf_counter() - start

    def process(self, *arguments, **environment):
        """Start a command as a process of one thread."""
        return subprocess.Popen(
            [sys.executable, "-m", "attractor_ae", *map(str, arguments)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )

    def digit(self, rng, folder, name, form="PNG"):
        image = Image.fromarray(self.images.images[rng.randrange(20), 0])
        image = image.convert(rng.choice(["L", "RGB"]))
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(folder / name, form)

    # ---- files

    def images_of_all_formats(self, rng, folder):
        """Damaged images are left out with a reason, and the others are as before."""
        good = [f"{label}/{i}.png" for label in "ab" for i in range(3)]
        for name in good:
            self.digit(rng, folder / "x", name)
        before = load(str(folder / "x"), "all", image_format=FORM, cache=folder / "cache")
        for i in range(8):
            form = rng.choice(FORMATS)
            name = f"{rng.choice('abc')}/n{i}{rng.choice(SUFFIXES)}"
            self.digit(rng, folder / "x", name, form)
            path = folder / "x" / name
            path.write_bytes(damaged(path.read_bytes(), rng))
        args = {"image_format": FORM, "cache": folder / "cache", "max_broken": 1.0}
        after = load(str(folder / "x"), "all", **args)
        kept = dict(zip(after.paths, after.images, strict=True))
        for path, image in zip(before.paths, before.images, strict=True):
            check(np.array_equal(kept[path], image), f"{path} changed")
        again = load(str(folder / "x"), "all", **args)
        check(again.digest == after.digest, "the cache differs from the files")
        invoked("data", "prepare", folder / "x", "--size", 16)

    def tables(self, rng, folder):
        for i in range(4):
            self.digit(rng, folder, f"{i}.png")
        rows = [["path", "label", "split"]]
        for i in range(rng.randrange(9)):
            rows.append([f"{i % 4}.png", rng.choice(WORDS), rng.choice(WORDS)])
        rng.shuffle(rows) if rng.random() < 0.1 else None
        text = "\n".join(rng.choice(",;\t").join(row) for row in rows)
        if rng.random() < 0.7:
            text = "\n".join(",".join(row) for row in rows)
        path = folder / "t.csv"
        path.write_bytes(text.encode())
        if rng.random() < 0.5:
            path.write_bytes(damaged(path.read_bytes(), rng))
        if rng.random() < 0.3:
            import pyarrow
            import pyarrow.parquet

            columns = {"path": [f"{i}.png" for i in range(4)], "label": rng.choices(WORDS, k=4)}
            path = folder / "t.parquet"
            pyarrow.parquet.write_table(pyarrow.table(columns), path)
            if rng.random() < 0.8:
                path.write_bytes(damaged(path.read_bytes(), rng))
        args = {"image_format": FORM, "cache": folder / "cache", "max_broken": 1.0}
        found = refused(lambda: load(str(path), "all", **args))
        if found is not None:
            check(not {"nan", "-1", ""} & set(found.classes), f"classes {found.classes}")
        invoked("data", "prepare", path, "--size", 16)

    def arrays(self, rng, folder):
        numbers = np.random.default_rng(rng.randrange(2**32))
        shape = rng.choice(
            [(6, 9, 9), (6, 9, 9, 1), (6, 3, 9, 9), (6, 9, 9, 4), (6, 81), (0, 9, 9)]
        )
        kind = rng.choice(["u1", ">u2", "<f4", ">f8", "f2", "i8", "?", "c8", "S3", "U3"])
        images = (255 * numbers.random(shape)).astype(kind)
        if np.dtype(kind).kind == "f":
            images = (images / 255 * rng.choice([1, 1, 1.0001])).astype(kind)
        labels = rng.choice(
            [np.arange(6) % 2, np.full(6, -1), np.arange(6) / 2, np.array(rng.choices(WORDS, k=6))]
        )
        more = {} if rng.random() < 0.5 else {"split": np.array(rng.choices(WORDS, k=6))}
        more |= {} if rng.random() < 0.7 else {"classes": np.array(rng.choices(WORDS, k=3))}
        path = folder / rng.choice(["a.npz", "b.NPZ", "c.npy"])
        with path.open("wb") as file:
            if path.suffix == ".npy":
                np.save(file, images)
            else:
                np.savez(file, images=images, labels=labels, **more)
        if rng.random() < 0.5:
            path.write_bytes(damaged(path.read_bytes(), rng))
        args = {"image_format": FORM, "cache": folder / "cache", "max_broken": 1.0}
        refused(lambda: load(str(path), "all", **args))
        invoked("data", "prepare", path, "--size", 16)

    def configs(self, rng, folder):
        lines = self.toml.read_text(encoding="utf-8").splitlines()
        for _ in range(rng.choice([1, 1, 3])):
            i = rng.randrange(len(lines))
            key, equals, _ = lines[i].partition(" = ")
            value = rng.choice(
                [*WORDS, "-5", "0", "1e-300", "[]", "['a', 1]", '"ssim"', "2024-01-01"]
            )
            lines[i] = f"{key}{equals}{value}" if equals and rng.random() < 0.8 else value
        path = folder / "c.toml"
        path.write_bytes("\n".join(lines).encode())
        if rng.random() < 0.2:
            path.write_bytes(damaged(path.read_bytes(), rng))
        config = refused(lambda: ExperimentConfig.from_toml(path))
        if config is not None:
            path.write_text(config.to_toml(), encoding="utf-8")
            check(ExperimentConfig.from_toml(path) == config, "another config after writing")
        refused(lambda: read_suite(path))
        option = f"{rng.choice(['training.epochs', 'model', 'x.y', ''])}={rng.choice(WORDS)}"
        # Seeds that are refused: nothing is trained even if the config is valid.
        check(invoked("sweep", path, "--set", option, "--seeds", "x") == 2, "seeds were accepted")

    def run_folders(self, rng, folder):
        """What is read from a damaged run is refused, or as it was."""
        run = folder / "run"
        shutil.copytree(self.reference, run)
        files = sorted(path for path in run.rglob("*") if path.is_file())
        for path in rng.sample(files, rng.choice([1, 1, 2])):
            if rng.random() < 0.2:
                path.unlink()
            else:
                path.write_bytes(damaged(path.read_bytes(), rng))
        truth = EvaluationResult.load(self.reference / "evaluation")
        found = refused(lambda: EvaluationResult.load(run / "evaluation"))
        if found is not None:
            check(found.metrics() == truth.metrics(), "another result")
        invoked("table", run)
        invoked("train", self.toml, "--out", run, "--resume")
        if rng.random() < 0.2 and invoked("evaluate", run) == 0:
            check(invoked("table", run) == 0, "no table after an evaluation")

    def detector_files(self, rng, folder):
        for name in ("detector.safetensors", "weights.safetensors"):
            data = (self.reference / name).read_bytes()
            path = folder / name
            path.write_bytes(damaged(data, rng))
            same = path.read_bytes() == data
            found = refused(lambda path=path: read_tensors(path))
            check(same or found is None, f"a damaged {name} was read")
            if name.startswith("detector"):
                refused(lambda path=path: load_detector(path))

    def model_files(self, rng, folder):
        """One to three bytes changed, or the end cut: refused, by every command that reads it."""
        data = bytearray(self.model.read_bytes())
        for _ in range(rng.randrange(1, 4)):
            # Half of them in the header, which is small.
            place = rng.randrange(rng.choice([len(data), int.from_bytes(data[:8], "little") + 8]))
            data[place] = (data[place] + rng.randrange(1, 256)) % 256
        if rng.random() < 0.3:
            data = self.model.read_bytes()[: rng.randrange(len(data))]
        path = folder / "x.model"
        path.write_bytes(data)
        if bytes(data) != self.model.read_bytes():
            check(refused(lambda: load_model(path)) is None, "a damaged model was read")
        digits = self.digits / "0"
        command = rng.choice(
            [("score",), ("evaluate", "--known"), ("calibrate", "--out", folder / "y.model")]
        )
        code = invoked(command[0], path, *command[1:], digits)
        check(code == 2 or bytes(data) == self.model.read_bytes(), f"{command[0]} read it")

    def scored_images(self, rng, folder):
        """Damaged images are unscored with a reason, and the rows of the others as before."""
        with self.rows.open(newline="") as file:
            known = {Path(row["path"]).name: row for row in csv.DictReader(file)}
        names = rng.sample(sorted(known), 6)
        for name in names:
            shutil.copyfile(known[name]["path"], folder / name)
        for i in range(8):
            form = rng.choice(FORMATS)
            path = folder / f"n{i}{rng.choice(SUFFIXES)}"
            self.digit(rng, folder, path.name, form)
            path.write_bytes(damaged(path.read_bytes(), rng))
        out = folder / "verdicts" / "v.csv"
        check(invoked("score", self.model, folder, "--out", out) == 0, "not scored")
        with out.open(newline="") as file:
            rows = {Path(row["path"]).name: row for row in csv.DictReader(file)}
        for name in names:
            numbers = [[row[key] for key in NUMBERS] for row in (rows[name], known[name])]
            # Sums of other batches differ by rounding.
            good = np.allclose(*(np.array(row, float) for row in numbers), atol=0.05)
            check(good and rows[name]["verdict"] != "unscored", f"{name}: {numbers}")
        for name in rows.keys() - set(names):
            image = refused(lambda name=name: decode(folder / name, FORM))
            unscored = rows[name]["verdict"] == "unscored"
            check(unscored == (image is None), f"{name}: {rows[name]}")
            check(unscored == bool(rows[name]["reason"]), f"{name}: {rows[name]}")

    # ---- processes that are killed

    def killed(self, rng, folder, *arguments, last=None, **environment):
        """Kill a command at a random moment, the ``last`` second at most, twice, and finish it."""
        last = last or 0.7 * self.seconds
        for _ in range(2):
            process = self.process(*arguments, **environment)
            try:
                process.wait(rng.uniform(0.3, 1) * last)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
            process.wait()
        check(self.process(*arguments, **environment).wait() == 0, f"not finished: {arguments}")
        left = [path for path in folder.rglob("*") if path.suffix in {".tmp", ".part", ".training"}]
        check(not left, f"left: {left}")

    def killed_training(self, rng, folder):
        run = folder / "run"
        self.killed(rng, folder, "train", self.toml, "--out", run, "--resume")
        self.same_weights(run, self.alone)
        check(not (run / "checkpoint.safetensors").exists(), "the checkpoint is left")

    def killed_sweep(self, rng, folder):
        runs = folder / "runs"
        self.killed(rng, folder, "sweep", self.toml, "--seeds", "0,1", "--out", runs)
        for name in ("seed0", "seed1"):
            self.same_weights(runs / name, self.home / "runs" / name)

    def killed_preparation(self, rng, folder):
        for i in range(300):
            self.digit(rng, folder / "x", f"{i % 3}/{i}.png")
        cache = folder / "cache"
        self.killed(rng, folder, "data", "prepare", folder / "x", ATTRACTOR_AE_CACHE=str(cache))
        found = load(str(folder / "x"), "all", cache=cache)
        fresh = load(str(folder / "x"), "all", cache=folder / "other")
        check(found.digest == fresh.digest, "other images")

    def killed_fit(self, rng, folder):
        command = (*self.fit, "--out", folder / "x.model")
        self.killed(rng, folder, *command, last=self.fit_seconds)
        self.same_tensors(folder / "x.model", self.model)

    def killed_scoring(self, rng, folder):
        out = folder / "v.csv"
        command = ("score", self.model, self.digits, "--out", out, "--again")
        self.killed(rng, folder, *command, last=self.score_seconds)
        check(out.read_bytes() == self.rows.read_bytes(), "other rows")

    def same_weights(self, run, other):
        self.same_tensors(run / "weights.safetensors", other / "weights.safetensors")

    @staticmethod
    def same_tensors(file, other):
        ours, theirs = (read_tensors(path)[0] for path in (file, other))
        check(ours.keys() == theirs.keys(), "other tensors")
        for name, tensor in ours.items():
            check(tensor.equal(theirs[name]), f"{name} differs")


KINDS = (
    *("images_of_all_formats", "tables", "arrays", "configs") * 4,
    *("run_folders", "detector_files", "model_files", "scored_images") * 2,
    *("killed_training", "killed_sweep", "killed_preparation", "killed_fit", "killed_scoring"),
)
"""Names of the rounds; those that take seconds are rarer."""


def main(arguments=None):
    """Run rounds until the time is over; return the number of failures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=1200)
    parser.add_argument("--round", type=int, help="Run only this one.")
    parser.add_argument("--kinds", help="Run only these kinds, separated by commas.")
    options = parser.parse_args(arguments)
    kinds = tuple(options.kinds.split(",")) if options.kinds else KINDS
    counts, failures = dict.fromkeys(kinds, 0), []
    with (
        tempfile.TemporaryDirectory(prefix="attractor-ae-fuzz-") as home,
        patch.dict(os.environ, {"ATTRACTOR_AE_CACHE": str(Path(home) / "cache")}),
    ):
        rounds = Rounds(Path(home))
        start, number = time.monotonic(), options.round or 0
        while time.monotonic() - start < options.seconds:
            rng = random.Random(f"{options.seed} {number}")
            kind = rng.choice(kinds)
            folder = Path(home) / f"round{number}"
            folder.mkdir()
            try:
                getattr(rounds, kind)(rng, folder)
            except Exception:
                failures.append(number)
                sys.stdout.write(f"round {number}, {kind}:\n{traceback.format_exc()}\n")
            counts[kind] += 1
            shutil.rmtree(folder, ignore_errors=True)
            if options.round is not None:
                break
            number += 1
    sys.stdout.write(f"seed {options.seed}: {sum(counts.values())} rounds: {counts}\n")
    sys.stdout.write(f"failures: {failures or 'none'}\n")
    return len(failures)


if __name__ == "__main__":
    sys.exit(bool(main()))
