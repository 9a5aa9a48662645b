"""Preparation of training images: calibration part, augmentation, checks."""

import json

import numpy as np
from numpy.typing import NDArray

from attractor_ae._errors import AttractorError
from attractor_ae.conformal import SMALLEST_CALIBRATION
from attractor_ae.data import ImageSet
from attractor_ae.data.augmentation import Augmentation
from attractor_ae.data.info import STEPS, AugmentationKind
from attractor_ae.experiment.config import ExperimentConfig


def training_part(config: ExperimentConfig, images: ImageSet) -> tuple[ImageSet, ImageSet]:
    """Return the training images and the calibration images of an experiment.

    Images without a label (-1) are in neither part. ``dataset.calibration_fraction`` of each class
    is for calibration, drawn with ``dataset.split_seed``.
    """
    if (labelled := images.labels >= 0).sum() < len(images):
        images = images.take(np.flatnonzero(labelled))
    if not config.dataset.calibration_fraction:
        return images, images.take([])
    trained, kept = images.divided(config.dataset.calibration_fraction, config.dataset.split_seed)
    if len(kept) < SMALLEST_CALIBRATION:
        # Reported now rather than after the training.
        sizes, needed = np.unique(images.labels, return_counts=True)[1], SMALLEST_CALIBRATION
        enough = [p / 100 for p in range(1, 51) if np.round(p / 100 * sizes).sum() >= needed]
        more = f"set dataset.calibration_fraction={enough[0]}" if enough else "use more images"
        raise AttractorError(
            f"data set {images.name!r} ({images.split}): calibration needs {SMALLEST_CALIBRATION} "
            f"images, but only {len(kept)} of {len(images)} are reserved for it; {more}, or set "
            "dataset.calibration_fraction=0 and evaluation.score=entropy"
        )
    return trained, kept


def training_augmentation(
    config: ExperimentConfig, kind: AugmentationKind | None
) -> Augmentation | None:
    """Return the augmentation of a config; by default, colour images count as natural."""
    if not config.training.augment:
        return None
    kind = kind or ("natural" if config.dataset.channels == 3 else "grey")
    return Augmentation(STEPS[kind])


def balanced_rows(labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Return as many rows as there are labels, in random order, each class equally often.

    Numbers of draws differ by at most 1 between classes, and between images of one class.
    """
    present = rng.permutation(np.unique(labels))  # which classes get one more
    parts = np.array_split(np.empty(len(labels), np.int64), len(present))
    for label, part in zip(present, parts, strict=True):
        part[:] = np.resize(rng.permutation(np.flatnonzero(labels == label)), len(part))
    return rng.permutation(np.concatenate(parts))


def trained_on(images: ImageSet) -> dict[str, str]:
    """Return the metadata stored with the weights: the training set and its classes."""
    return {"dataset": images.name, "classes": json.dumps(images.classes)}


def check_trainable(config: ExperimentConfig, images: ImageSet) -> None:
    """Raise an AttractorError if the network of a config cannot be trained on images."""
    where = f"data set {images.name!r} ({images.split})"
    side, channels = config.dataset.image_size, config.dataset.channels
    if images.images.shape[1:] != (channels, side, side):
        raise AttractorError(
            f"{where} has images of shape {images.images.shape[1:]}, but the config makes a "
            f"network for ({channels}, {side}, {side}); set dataset.channels and "
            "dataset.image_size to those of the images"
        )
    present = np.unique(images.labels)
    compared = config.model.metric or config.training.class_weight or config.model.type == "conv"
    if len(present) < (2 if compared else min(2, len(images.classes))):
        raise AttractorError(f"{where} must contain labelled images of at least 2 classes")
    missing = np.setdiff1d(np.arange(len(images.classes)), present)
    # Attractors need no images of every class, but a classifier has an output for each.
    if config.model.type == "conv" and len(missing):
        raise AttractorError(
            f"{where} has no images of the class {images.classes[missing[0]]!r}; add some, or "
            "remove it from the classes"
        )
