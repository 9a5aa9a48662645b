"""Detectors in pytorch-ood's benchmark, whose metrics are the other side."""

import copy
import math
import sys

import numpy as np
import pytest
import torch
from pytorch_ood.api import FeaturesDetector, RequiresFittingException
from pytorch_ood.benchmark import Benchmark
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, TensorDataset

from attractor_ae import AttractorDetector, AttractorError, as_pytorch_ood
from attractor_ae.core.autoencoder import FeatureAutoencoder
from attractor_ae.extractors import _BLOCK, Extractor, register
from attractor_ae.metrics import detection_metrics


class Digits(Benchmark):
    """Known images with their labels, unknown ones with the label -1."""

    ood_names = ("strange",)

    def __init__(self, known, labels, unknown):
        self.known = TensorDataset(known, labels)
        self.unknown = TensorDataset(unknown, torch.full((len(unknown),), -1))

    def train_set(self):
        return self.known

    def test_sets(self, known=True, unknown=True):
        return [ConcatDataset([self.known, self.unknown])]


@pytest.mark.slow  # the training of the detector
def test_the_metrics_of_its_benchmark_are_ours(digit_classifier, digits_and_noise):
    detector, (known, labels, unknown) = digit_classifier.detector_, digits_and_noise
    adapter = as_pytorch_ood(detector)
    (found,) = Digits(known, labels, unknown).evaluate(adapter, {"batch_size": 64})
    expected = detection_metrics(detector.predict(known), detector.predict(unknown))
    assert 0.5 < expected.auroc < 1
    assert found["AUROC"] == pytest.approx(expected.auroc, abs=1e-6)
    assert found["FPR95TPR"] == pytest.approx(expected.fpr95_out, abs=1e-6)


def test_fit_and_predict_are_those_of_the_detector(shared_model, small_digits):
    fitted, digits = shared_model.detector, small_digits[0]
    unfitted = AttractorDetector(
        fitted.network, recursions=2, recursion=1, trials=3, precision="float32"
    )
    adapter = as_pytorch_ood(unfitted)
    images = torch.from_numpy(digits.images) / 255
    with pytest.raises(RequiresFittingException):
        adapter.predict(images)
    labels = torch.from_numpy(np.append(digits.labels, -1))
    pairs = TensorDataset(torch.cat([images, images[:1]]), labels)
    assert adapter.to("cpu").fit(DataLoader(pairs, batch_size=7)) is adapter
    assert adapter.device == torch.device("cpu")
    expected = copy.copy(fitted)
    expected.score = "entropy"  # a fit forgets the calibration
    torch.testing.assert_close(adapter(images), expected.predict(images), rtol=1e-4, atol=1e-6)


def test_features_are_computed_once_by_its_benchmark(small_digits):
    class Rows(nn.Module):
        calls = 0

        def forward(self, x):
            Rows.calls += 1
            return x.mean((1, 3))

    extractor = Extractor("rows", Rows())
    register("rows", lambda: extractor)
    network = FeatureAutoencoder(4, image_size=16, channels=1, extractor="rows")
    digits = small_digits[0]
    images, labels = torch.from_numpy(digits.images) / 255, torch.from_numpy(digits.labels)
    features = extractor(images)
    network.space.fit(features)
    adapter, other = (as_pytorch_ood(AttractorDetector(network, trials=2)) for _ in range(2))
    assert isinstance(adapter, FeaturesDetector)
    assert adapter.fit_features(features, labels) is adapter
    other.fit(DataLoader(TensorDataset(images, labels), batch_size=7))
    expected = adapter.predict(images)
    torch.testing.assert_close(adapter.predict_features(features), expected, rtol=1e-4, atol=1e-6)
    calls = Rows.calls
    benchmark = Digits(images[:40], labels[:40], images[40:])
    found = benchmark.evaluate([adapter, other], {"batch_size": 60})
    assert Rows.calls == calls + math.ceil(60 / _BLOCK)
    metrics = detection_metrics(expected[:40], expected[40:])
    for of_one in found:
        assert of_one["AUROC"] == pytest.approx(metrics.auroc, abs=1e-6)


def test_without_pytorch_ood_the_extra_is_named(shared_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_ood", None)
    with pytest.raises(AttractorError, match=r"attractor-ae\[ood\]"):
        as_pytorch_ood(shared_model.detector)
