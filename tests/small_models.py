"""Small models of real digits, without training: the scores are poor, but they are scores."""

import numpy as np
import pytest
import torch
from PIL import Image

from attractor_ae import (
    AttractorDetector,
    Autoencoder,
    ExperimentConfig,
    Model,
    load,
    run_evaluation,
    train,
)
from attractor_ae.data import ImageFormat
from attractor_ae.deploy.model import codes_of, described
from attractor_ae.experiment import evaluate as evaluation

FORM = ImageFormat(16)
# Settings of trainings and evaluations on few images.
FEW = (
    "training.batch_size=16",
    "training.loss=mse",
    "evaluation.trials=2",
    "evaluation.recursions=2",
    "evaluation.recursion=1",
    "evaluation.nbr_of_samples_per_class=2",
)
# Settings of trainings that take seconds.
SHORT = (
    "dataset.image_size=16",
    "model.dropout=0.1",
    "training.loss=",
    "training.class_weight=1",
    "training.dropout_warmup=0",
    "training.precision=float32",
    "evaluation.precision=float32",
    "evaluation.recursions=2",
    "evaluation.trials=4",
    "evaluation.head_masks=1",
)

_RUN = {
    "dataset": {
        "name": "mnist5k",
        "nbr_of_samples_per_class": 4,
        "calibration_fraction": 0.5,
        "image_size": 16,
    },
    "model": {"dimension": 8},
    "training": {"epochs": 1, "batch_size": 16, "loss": "mse"},
    "evaluation": {
        "recursions": 2,
        "recursion": 1,
        "trials": 2,
        "mask_scope": "trial",
        "nbr_of_samples_per_class": 3,
        "out_datasets": ["faces"],
        "score": "ood_score",
    },
}


def make_model(images, calibration, alpha=0.05, network=None, **settings):
    """A calibrated model of an untrained network."""
    if network is None:
        network = Autoencoder(8, image_size=16, generator=torch.Generator().manual_seed(0))
    settings = {"recursions": 2, "recursion": 1, "trials": 3, "precision": "float32"} | settings
    detector = AttractorDetector(network, **settings)
    detector.fit(images.images, images.labels, least_classes=1)
    codes = codes_of(detector, torch.tensor(images.images))
    names = [f"{images.classes[label]}/{i}.png" for i, label in enumerate(images.labels)]
    facts = {
        "environment": {"created": "2026-01-01", "packages": {"attractor-ae": "0"}},
        "space": "pixels",
        "self_check": {"self_check": "passed"},
        "training": described(images),
    }
    values = torch.zeros(1, len(detector.ood_.components), len(calibration))
    predicted = torch.zeros(1, len(calibration), dtype=torch.int64)
    parts = (images.classes, FORM, codes, names, alpha, values, predicted, (1.0, 0.0), facts)
    return Model(detector, *parts).calibrated(calibration)


def make_run(folder):
    """A trained and evaluated run of a very small network, without figures."""
    images = load("mnist5k", "train", per_class=4, image_format=FORM)
    run = train(ExperimentConfig.from_dict(_RUN), images, folder)
    with pytest.MonkeyPatch.context() as patch:  # figures take longer than the rest
        patch.setattr(evaluation, "_write_figures", lambda *_: None)
        run_evaluation(run.path)
    return run


def write_images(folder, images, names=None):
    """Write images as PNG files; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for i, image in enumerate(images):
        path = folder / (names[i] if names else f"{i:03}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = image[0] if len(image) == 1 else np.moveaxis(image, 0, 2)
        Image.fromarray(pixels).save(path)
        paths.append(str(path))
    return paths
