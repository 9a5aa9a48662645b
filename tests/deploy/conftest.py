"""Small models of real digits."""

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from small_models import FORM, SHORT, make_model

from attractor_ae import AttractorClassifier, load


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


@pytest.fixture(scope="session")
def digit_classifier():
    """A classifier of scikit-learn's digits, with a calibrated detector; trained for seconds."""
    digits, labels = load_digits(return_X_y=True)
    classifier = AttractorClassifier((8, 8), epochs=4, overrides=SHORT)
    return classifier.fit(digits[:500], labels[:500])


@pytest.fixture(scope="session")
def digits_and_noise():
    """Other digits for its detector, in [0, 1], their labels, and digits under noise."""
    digits, labels = load_digits(return_X_y=True)
    images = digits[500:700].reshape(-1, 1, 8, 8).repeat(2, 2).repeat(2, 3) / 16
    noise = np.random.default_rng(0).random((100, 1, 16, 16))
    strange = 0.7 * images[:100] + 0.3 * noise  # digits, so that detection is not perfect
    known, unknown = (torch.from_numpy(x).float() for x in (images, strange))
    return known, torch.from_numpy(labels[500:700]), unknown
