"""What of a data set is trained on, how it is augmented, and whether it can be."""

import json

import numpy as np

from attractor_ae._errors import AttractorError
from attractor_ae.conformal import SMALLEST_CALIBRATION
from attractor_ae.data import ImageSet
from attractor_ae.data.augmentation import Augmentation
from attractor_ae.experiment.config import ExperimentConfig, TrainingConfig


def training_part(config: ExperimentConfig, images: ImageSet) -> tuple[ImageSet, ImageSet]:
    """Return the images that an experiment trains on, and those that it keeps for calibration.

    Images without a label (-1) are left out of both.

    Parameters
    ----------
    config
        The experiment; ``dataset.calibration_fraction`` of each class is kept, drawn from
        ``dataset.split_seed``.
    images
        All the images of its training split.

    Raises
    ------
    AttractorError
        If images are to be kept, but are too few for a calibration.
    """
    if (labelled := images.labels >= 0).sum() < len(images):
        images = images.take(np.flatnonzero(labelled))
    if not config.dataset.calibration_fraction:
        return images, images.take([])
    trained, kept = images.divided(config.dataset.calibration_fraction, config.dataset.split_seed)
    if len(kept) < SMALLEST_CALIBRATION:
        # Now: nobody should learn of it after the training.
        sizes = np.unique(images.labels, return_counts=True)[1]
        enough = (
            percent / 100
            for percent in range(1, 51)
            if sum(round(percent / 100 * n) for n in sizes.tolist()) >= SMALLEST_CALIBRATION
        )
        share = next(enough, None)
        higher = (
            "use more images" if share is None else f"set dataset.calibration_fraction to {share}"
        )
        raise AttractorError(
            f"data set {images.name!r} ({images.split}) keeps {len(kept)} of {len(images)} images "
            f"for calibration, which needs {SMALLEST_CALIBRATION}; {higher}, or set "
            'dataset.calibration_fraction to 0 and evaluation.score to "entropy"'
        )
    return trained, kept


def training_augmentation(settings: TrainingConfig, natural: bool) -> Augmentation | None:
    """Return how a config augments images; natural ones in brightness and contrast as well."""
    if not settings.augment:
        return None
    return Augmentation(brightness_contrast=0.33 if natural else 0.0)


def trained_on(images: ImageSet) -> dict[str, str]:
    """Return what weights are stored with, to be known again: the trained set and its classes."""
    return {"dataset": images.name, "classes": json.dumps(images.classes)}


def check_trainable(config: ExperimentConfig, images: ImageSet) -> None:
    """Raise an AttractorError if the network of a config cannot be trained on images."""
    where = f"data set {images.name!r} ({images.split})"
    if config.training.make_scene_impossible:
        raise AttractorError(
            f"{where} does not show the same scene in variations; "
            "set training.make_scene_impossible to false"
        )
    side, channels = config.dataset.image_size, config.dataset.channels
    if images.images.shape[1:] != (channels, side, side):
        raise AttractorError(
            f"{where} has images of shape {images.images.shape[1:]}, but the config makes a "
            f"network for ({channels}, {side}, {side}); set dataset.channels and "
            "dataset.image_size to those of the images"
        )
    if len(np.unique(images.labels)) < 2:
        raise AttractorError(f"{where} must hold labelled images of at least 2 classes to train on")
