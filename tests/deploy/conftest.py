"""Small models of real digits."""

import dataclasses

import numpy as np
import pytest
from small_models import FORM, make_model

from attractor_ae import load


@pytest.fixture(scope="session")
def small_digits():
    """Six digits of each class to fit on, six to calibrate on, and others."""
    images = load("mnist5k", "train", per_class=18, image_format=FORM)
    rows = np.arange(len(images)).reshape(10, 18)
    return [images.take(rows[:, i : i + 6].ravel()) for i in (0, 6, 12)]


@pytest.fixture(scope="session")
def shared_model(small_digits):
    return make_model(*small_digits[:2])


@pytest.fixture
def model(small_digits):
    return make_model(*small_digits[:2])


@pytest.fixture(scope="session")
def one_class_model(small_digits):
    images, calibration, _ = (
        dataclasses.replace(part, labels=np.zeros_like(part.labels), classes=("digit",))
        for part in small_digits
    )
    return make_model(images, calibration)
