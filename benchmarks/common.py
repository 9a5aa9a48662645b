"""What the measurements share: the clock, images and models."""

import copy
import time
from collections.abc import Callable
from pathlib import Path

import floor
import numpy as np
import plain
import torch
from PIL import Image
from sizes import Sizes
from torch import nn

from attractor_ae import AttractorDetector, Autoencoder, ImageSet, load
from attractor_ae.data import ImageFormat
from attractor_ae.experiment.config import ExperimentConfig
from attractor_ae.training import training_augmentation

Way = Callable[[], float]
"""Does the work once and returns the seconds it took."""


def timed(work: Callable[[], object]) -> Way:
    """Return a way that times all of ``work``."""

    def way() -> float:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    return way


def alternate(ways: dict[str, Way], repeats: int) -> dict[str, list[float]]:
    """Take the times of the ways in turn, so that a slow minute of the machine is everyone's."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            seconds[name].append(way())
    return seconds


def training_config(sizes: Sizes, epochs: int) -> ExperimentConfig:
    """Return the published recipe (PROTOCOL section 3), shortened."""
    settings = {"epochs": epochs, "batch_size": sizes.batch_size, "device": "cpu"}
    return ExperimentConfig.model_validate({"dataset": {"name": "mnist5k"}, "training": settings})


def new_detector(
    sizes: Sizes, model: Autoencoder, recursions: int, trials: int, *, recursion: int | None = None
) -> AttractorDetector:
    """Return a detector that is not fitted; by default it reports the last recursion."""
    return AttractorDetector(
        model,
        recursions=recursions,
        recursion=recursions - 1 if recursion is None else recursion,
        trials=trials,
        seed=sizes.seed,
        augmentation=training_augmentation(training_config(sizes, 1), "grey"),
    )


def spread(images: ImageSet, count: int) -> ImageSet:
    """Return ``count`` images from all over a set, some of them twice if it has fewer."""
    return images.take(np.arange(count) * len(images) // count)


def resized(images: np.ndarray, size: int) -> np.ndarray:
    """Return grey images in another size."""
    pictures = (Image.fromarray(image).resize((size, size)) for image in images[:, 0])
    return np.stack([np.asarray(picture) for picture in pictures])[:, None]


def fresh_model(image_size: int = 64) -> Autoencoder:
    """Return an untrained autoencoder with the channels last, as in training."""
    model = Autoencoder(image_size=image_size, generator=torch.Generator().manual_seed(0))
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


@torch.no_grad()
def check_same(model: Autoencoder) -> None:
    """Raise unless all the ways compute the same where they should."""
    x = torch.from_numpy(spread(load("mnist5k"), 4).images).float() / 255
    twin = plain.PlainAutoencoder(model)
    for module in twin.modules():
        if isinstance(module, plain.HeldDropout):
            module.rate = 0.0
    expected = model(x).reconstruction
    torch.testing.assert_close(twin(x)[0], expected, rtol=1e-3, atol=1e-4)
    linear = copy.deepcopy(model)
    linear.activation = nn.Identity()
    passed = floor.decode(linear, floor.encode(linear, x))
    torch.testing.assert_close(passed, linear(x).reconstruction, rtol=1e-3, atol=1e-4)


def image_files(folder: Path, count: int) -> list[Path]:
    """Write ``count`` photographs as JPEG files to a folder, unless they are there."""
    if not folder.exists():
        folder.mkdir(parents=True)
        photos = load("photos", "test", image_format=ImageFormat(256)).images
        for i in range(count):
            picture = Image.fromarray(photos[i % len(photos), 0]).convert("RGB")
            picture.save(folder / f"{i:06}.jpg")
    return sorted(folder.iterdir())
