"""Detectors as those of pytorch-ood."""

from typing import Any

from torch import Tensor

from attractor_ae._detector import Detector
from attractor_ae._errors import optional_package
from attractor_ae.core.spaces import Features
from attractor_ae.extractors import Extractor, make_extractor


def as_pytorch_ood(detector: Detector) -> Any:  # noqa: ANN401  a class of an optional package
    """Return a ``pytorch_ood.api.Detector``, for pytorch-ood's ``Benchmark`` and metrics.

    Images are floats in [0, 1]. ``predict`` returns the score of `Detector.predict`, on the device
    of the images. ``fit(loader)`` is `Detector.fit`: it ignores labels below zero, is not needed if
    the detector is fitted, and discards the calibration. If the network works on features, the
    result is a ``FeaturesDetector``, and its ``encoder`` computes them.

    Raises:
        AttractorError: If pytorch-ood is not installed; in its methods, as those of `Detector`.
    """
    api = optional_package("pytorch_ood", "ood", "as_pytorch_ood").api
    space = detector.networks[0].space

    class Adapter(api.FeaturesDetector if isinstance(space, Features) else api.Detector):
        requires_fit = True
        device = property(lambda _: detector.device)

        def to(self, device: Any) -> "Adapter":  # noqa: ANN401
            detector.to(device)
            return self

        def fit(self, data_loader: Any) -> "Adapter":  # noqa: ANN401
            detector.fit(data_loader)
            return self

        def predict(self, x: Tensor) -> Tensor:
            if not hasattr(detector, "classes_"):
                raise api.RequiresFittingException
            return detector.predict(x).to(x.device)

        # For detectors on features only.

        @property
        def encoder(self) -> Extractor:
            return make_extractor(space.name).to(detector.device)

        def fit_features(self, x: Tensor, y: Tensor) -> "Adapter":
            detector.fit(x, y)
            return self

        def predict_features(self, x: Tensor) -> Tensor:
            return self.predict(x)

    return Adapter()
