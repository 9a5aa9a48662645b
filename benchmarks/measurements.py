"""The measurements; each returns what goes into the JSON file."""

import dataclasses
import functools
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import floor
import memory
import numpy as np
import plain
import torch
from common import (
    Way,
    alternate,
    check_same,
    fresh_model,
    image_files,
    new_detector,
    resized,
    spread,
    timed,
    training_config,
)
from sizes import Sizes, scalar_options

from attractor_ae import Autoencoder, ImageSet, evaluate, load, train
from attractor_ae._devices import mixed_precision
from attractor_ae._files import load_weights, read_tensors
from attractor_ae._reporter import Reporter
from attractor_ae.core.heads import MLPHead
from attractor_ae.data import ImageFormat
from attractor_ae.experiment.config import preset
from attractor_ae.training import build_network, training_part, with_features

OUTS = ("faces", "textures", "photos", "digits8")
CPU = torch.device("cpu")
WARM_UP = 2
"""Training steps that are done before the clock starts."""


MEASUREMENTS = (
    "training",
    "feature_training",
    "scoring",
    "evaluation",
    "heads",
    "predicting",
    "preparing",
    "opening",
    "start_up",
    "memory",
    "growth",
)


class Ticks(Reporter):
    """Calls a function after each step of a training."""

    def __init__(self, tick: Callable[[], None]) -> None:
        self.tick = tick

    def progress(self, *_: object) -> None:
        """Call the function."""
        self.tick()


class Benchmark:
    """The measurements, and what they share."""

    def __init__(self, sizes: Sizes, folder: Path) -> None:
        self.sizes = sizes
        self.folder = folder  # for what is thrown away

    @functools.cached_property
    def train_images(self) -> ImageSet:
        """What the network is trained on, and the heads are fitted on."""
        return load("mnist5k", per_class=self.sizes.per_class)

    @functools.cached_property
    def known(self) -> ImageSet:
        """D_in."""
        return load("mnist5k", "test", per_class=self.sizes.in_per_class)

    @functools.cached_property
    def outs(self) -> list[ImageSet]:
        """The four D_outs."""
        sets = (load(name, "test") for name in OUTS)
        return [spread(images, self.sizes.out_images) for images in sets]

    @functools.cached_property
    def model(self) -> Autoencoder:
        """A trained network: on an untrained one scikit-learn's heads would take longer."""
        epochs, seed = self.sizes.setup_epochs, self.sizes.seed
        config = preset(
            "quick", [f"training.epochs={epochs}", f"training.seed={seed}", "training.device=cpu"]
        )
        run = train(config, self.train_images, self.folder / "setup")
        network = build_network(config, len(self.train_images.classes))
        assert isinstance(network, Autoencoder)
        load_weights(network, read_tensors(run.weights_file)[0], run.weights_file)
        check_same(network)
        return network

    def training(self) -> dict:
        """Images a second of the published recipe, start-up excluded."""
        sizes = self.sizes
        images = spread(self.train_images, min(10 * sizes.batch_size, len(self.train_images)))
        # Full batches alone: every step is the same work.
        images = images.take(range(len(images) // sizes.batch_size * sizes.batch_size))
        per_epoch = len(images) // sizes.batch_size
        epochs = math.ceil((WARM_UP + sizes.steps) / per_epoch)
        seconds = functools.partial(self._seconds_of_steps, epochs * per_epoch)

        def plainly(workers: int) -> float:
            model = plain.PlainAutoencoder(fresh_model())
            return seconds(
                lambda tick: plain.train(
                    model, images, epochs, tick, batch_size=sizes.batch_size, workers=workers
                )
            )

        def ours() -> float:
            config = training_config(sizes, epochs)
            with tempfile.TemporaryDirectory(dir=self.folder) as folder:
                return seconds(lambda tick: train(config, images, folder, reporter=Ticks(tick)))

        floor_images = torch.from_numpy(images.images).float() / 255
        precision = mixed_precision(CPU, "auto")

        def at_floor() -> float:
            model = fresh_model()
            steps = functools.partial(
                floor.train, model, floor_images, batch_size=sizes.batch_size, precision=precision
            )
            steps(WARM_UP)
            return timed(lambda: steps(sizes.steps))()

        tried = {workers: plainly(workers) for workers in (0, 2)}
        workers = min(tried, key=tried.__getitem__)
        ways = {"plain": lambda: plainly(workers), "ours": ours, "floor": at_floor}
        return {
            "work": f"{sizes.steps} steps of {sizes.batch_size} images",
            "images": sizes.steps * sizes.batch_size,
            "note": f"the plain DataLoader has {workers} workers, which is the faster of 0 and 2",
            "seconds": alternate(ways, sizes.repeats),
        }

    def feature_training(self) -> dict:
        """Seconds of a whole training on features, which are computed before."""
        sizes = self.sizes
        form = ImageFormat(32, 3)  # the number of features is the same for every size
        settings = ["dataset.image_size=32", "training.device=cpu"]
        settings += [f"training.epochs={sizes.feature_epochs}", "dataset.calibration_fraction=0.2"]
        config = preset("photographs", settings)
        images = load("mnist5k", per_class=sizes.per_class, image_format=form)
        images = with_features(config, images)
        trained, _ = training_part(config, images)
        features, labels = torch.tensor(trained.features), torch.from_numpy(trained.labels)
        points = (features - features.mean(0)) / features.std(0).clamp_min(1e-3)

        def ours() -> None:
            with tempfile.TemporaryDirectory(dir=self.folder) as folder:
                train(config, images, folder)

        plainly = functools.partial(
            plain.train_on_features,
            points,
            labels,
            sizes.feature_epochs,
            batch_size=config.training.batch_size,
        )
        ways = {"plain": timed(plainly), "ours": timed(ours)}
        return {
            "work": f"{sizes.feature_epochs} epochs of {len(trained)} images",
            "images": sizes.feature_epochs * len(trained),
            "note": "the training on features includes the self-check, which the plain way lacks",
            "seconds": alternate(ways, sizes.evaluation_repeats),
        }

    def _seconds_of_steps(self, steps: int, work: Callable[[Callable[[], None]], object]) -> float:
        """Return the seconds of the wanted steps, at the pace between warm-up and the last one."""
        ticks: list[float] = []
        work(lambda: ticks.append(time.perf_counter()))
        assert len(ticks) == steps
        pace = (ticks[-1] - ticks[WARM_UP - 1]) / (steps - WARM_UP)
        return pace * self.sizes.steps

    def scoring(self) -> dict:
        """Images a second of the uncertainty, the heads being fitted."""
        sizes = self.sizes
        images = spread(load("mnist5k", "test"), sizes.images).images
        ways = self._scoring_ways(self.model, images, sizes.recursions, sizes.trials)
        passes = f"{sizes.recursions} of the encoder and {sizes.recursions - 1} of the decoder"
        return {
            "work": f"{sizes.images} images, {sizes.trials} trials, {sizes.recursions} recursions",
            "images": sizes.images,
            "note": f"the floor's passes are {passes}, for each trial",
            "seconds": alternate(ways, sizes.repeats),
        }

    def _scoring_ways(
        self, model: Autoencoder, images: np.ndarray, recursions: int, trials: int
    ) -> dict[str, Way]:
        """Return the ways to score images, warmed up. Their heads are fitted on few images."""
        sizes, few = self.sizes, spread(load("mnist5k"), 100)
        size = model.image_shape[-1]
        if size != few.images.shape[-1]:
            few = dataclasses.replace(few, images=resized(few.images, size))
        detector = new_detector(sizes, model, recursions, trials).fit(few.images, few.labels)
        plain_model = plain.PlainAutoencoder(model)
        heads = plain.fit_heads(plain.latents(plain_model, few, recursions), few.labels)
        floor_images = torch.from_numpy(images).float() / 255
        passes = functools.partial(
            floor.score,
            detector.networks[0],
            trials=trials,
            recursions=recursions,
            precision=mixed_precision(CPU, detector.precision),
        )
        size = detector.batch_size
        detector.predict(images[:size])
        plain.score(plain_model, heads, images[:size], 1)
        return {
            "plain": timed(lambda: plain.score(plain_model, heads, images, trials)),
            "ours": timed(lambda: detector.predict(images)),
            "floor": timed(lambda: passes(floor_images, batch_size=size)),
        }

    def evaluation(self) -> dict:
        """One D_in against four D_outs, the fit of the heads included."""
        sizes = self.sizes
        recursion = min(2, sizes.recursions - 1)  # the published one
        quality: dict[str, dict[str, float]] = {}

        def plainly() -> None:
            quality["plain"] = plain.evaluate(
                plain.PlainAutoencoder(self.model),
                self.train_images,
                self.known,
                self.outs,
                recursions=sizes.recursions,
                recursion=recursion,
                trials=sizes.trials,
            )

        def ours() -> None:
            detector = new_detector(
                sizes, self.model, sizes.recursions, sizes.trials, recursion=recursion
            ).fit(self.train_images.images, self.train_images.labels)
            metrics = evaluate(detector, self.known, self.outs).metrics()
            aurocs = {f"AUROC {name}": row["auroc"] for name, row in metrics["out"].items()}
            quality["ours"] = {**aurocs, "accuracy": metrics["accuracy"]}

        _ = self.model, self.known, self.outs  # made before the clock starts
        ways = {"plain": timed(plainly), "ours": timed(ours)}
        return {
            "work": f"heads on {len(self.train_images)} images; {len(self.known)} images of D_in, "
            f"{', '.join(str(len(images)) for images in self.outs)} of the D_outs; {sizes.trials} "
            f"trials, {sizes.recursions} recursions",
            "seconds": alternate(ways, sizes.evaluation_repeats),
            "quality": quality,
        }

    def heads(self) -> dict:
        """Fit the heads alone, on the same codes."""
        sizes = self.sizes
        model = plain.PlainAutoencoder(self.model)
        codes, held_out = (
            plain.latents(model, images, sizes.recursions)
            for images in (self.train_images, self.known)
        )
        labels = self.train_images.labels
        fitted: dict = {}

        def plainly() -> None:
            fitted["plain"] = plain.fit_heads(codes, labels)

        def ours() -> None:
            latents, targets = torch.from_numpy(codes), torch.from_numpy(labels)
            fitted["ours"] = MLPHead().fit(latents, targets, 10, sizes.seed)

        seconds = alternate({"plain": timed(plainly), "ours": timed(ours)}, sizes.repeats)
        predicted = {
            "plain": [h.predict(z) for h, z in zip(fitted["plain"], held_out, strict=True)],
            "ours": fitted["ours"]
            .predict_proba(torch.from_numpy(held_out), range(sizes.recursions))
            .argmax(-1)
            .numpy(),
        }
        return {
            "work": f"{sizes.recursions} heads on {len(labels)} codes",
            "seconds": seconds,
            "quality": {
                way: {
                    f"accuracy, recursion {r}": float((found == self.known.labels).mean())
                    for r, found in enumerate(rows)
                }
                for way, rows in predicted.items()
            },
        }

    def predicting(self) -> dict:
        """The OOD score at one of six recursions, against every score at every recursion."""
        sizes, images = self.sizes, spread(load("mnist5k", "test"), self.sizes.images).images
        few = spread(load("mnist5k"), 100)
        detector = new_detector(sizes, self.model, 6, sizes.trials, recursion=1)
        detector.fit(few.images, few.labels).calibrate(self.known.images, self.known.labels)
        detector.predict(images[: detector.batch_size])
        ways = {
            "plain": timed(lambda: detector.predict_scores(images)),
            "ours": timed(lambda: detector.predict(images)),
        }
        return {
            "work": f"{sizes.images} images, {sizes.trials} trials, recursion 1 of 6",
            "images": sizes.images,
            "note": "the plain way computes every score at every recursion, and takes one",
            "seconds": alternate(ways, sizes.repeats),
        }

    def preparing(self) -> dict:
        """Image files for the first time."""
        folder = self.folder / "files"
        image_files(folder, self.sizes.files)
        return {
            "work": f"{self.sizes.files} JPEG files of 256 x 256 pixels",
            "images": self.sizes.files,
            "seconds": alternate(
                {"plain": self._prepared_plainly(folder), "ours": lambda: self._load_cold(folder)},
                self.sizes.repeats,
            ),
        }

    def opening(self) -> dict:
        """Image files that were prepared before."""
        folder = self.folder / "files"
        image_files(folder, self.sizes.files)
        cache = self.folder / "warm"
        load(str(folder), "all", cache=cache)
        ours = timed(lambda: load(str(folder), "all", cache=cache))
        return {
            "work": f"the same {self.sizes.files} files, prepared before",
            "images": self.sizes.files,
            "seconds": alternate(
                {"plain": self._prepared_plainly(folder), "ours": ours}, self.sizes.repeats
            ),
        }

    def _prepared_plainly(self, folder: Path) -> Way:
        return timed(lambda: plain.prepare(sorted(folder.iterdir())))

    def _load_cold(self, folder: Path) -> float:
        with tempfile.TemporaryDirectory(dir=self.folder) as cache:
            return timed(lambda: load(str(folder), "all", cache=cache))()

    def start_up(self) -> dict:
        """How long the command line makes one wait."""
        script = Path(sys.executable).with_name("attractor-ae")
        commands = {
            "import torch": [sys.executable, "-c", "import torch"],
            "ours": [str(script), "--help"],
            "config error": [str(script), "train", "quick", "--set", "training.epoch=1"],
            "python": [sys.executable, "-c", "pass"],
        }
        ways = {
            name: timed(functools.partial(subprocess.run, command, capture_output=True))
            for name, command in commands.items()
        }
        return {
            "work": "attractor-ae --help and a config error, against a Python that imports torch",
            "seconds": alternate(ways, max(5, self.sizes.repeats)),
        }

    def memory(self) -> dict:
        """Each peak is that of a process of its own, above that of its imports."""
        flags = [f"--{name}={value}" for name, value in scalar_options(self.sizes).items()]
        peaks = {}
        for kind in memory.KINDS:
            command = [sys.executable, memory.__file__, *flags, kind]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
            peaks[kind] = json.loads(done.stdout)
        return {"megabytes": peaks}

    def growth(self) -> dict:
        """How the seconds of scoring grow with each of the sizes alone."""
        sizes = self.sizes
        grey = load("mnist5k", "test")
        base = {
            "images": sizes.growth_base_images,
            "trials": sizes.growth_base_trials,
            "recursions": sizes.recursions,
            "image size": grey.images.shape[-1],
        }
        curves: dict[str, dict[str, dict[str, list[float]]]] = {}
        for axis in base:
            curves[axis] = {}
            for value in getattr(sizes, f"growth_{axis.replace(' ', '_')}"):
                here = {**base, axis: value}
                images = spread(grey, here["images"]).images
                model = self.model
                if here["image size"] != images.shape[-1]:
                    images = resized(images, here["image size"])
                    model = fresh_model(here["image size"])
                ways = self._scoring_ways(model, images, here["recursions"], here["trials"])
                curves[axis][str(value)] = alternate(ways, sizes.growth_repeats)
        return {"base": base, "seconds": curves}
