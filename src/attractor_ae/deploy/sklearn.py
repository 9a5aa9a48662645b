"""A classifier for scikit-learn."""

from collections.abc import Sequence
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import RandomState
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from attractor_ae._errors import AttractorError
from attractor_ae._reporter import SILENT
from attractor_ae.data import ImageSet
from attractor_ae.experiment.config import preset
from attractor_ae.experiment.fit import fit_detector
from attractor_ae.training import train, with_features

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
else:  # whatever scikit-learn converts or refuses
    ArrayLike = Any

_validated: Any = validate_data  # its types are inferred from its defaults
_AT_ONCE = 1_024  # images that are resized at once


class InputError(AttractorError, ValueError):
    """Images or labels that cannot be used; scikit-learn expects a ValueError."""


class AttractorClassifier(ClassifierMixin, BaseEstimator):
    """Classifier of images that also scores how normal they are; ``fit`` trains a network.

    X are images of shape (n, h, w) or (n, channels, h, w), or rows (n, features) if ``image_shape``
    is set, with 1 or 3 channels. They are resized to the network's input. Black and white are 0 and
    255 in uint8. In other arrays they are 0 and 1 if the values in ``fit`` are in [0, 1], otherwise
    the least and the greatest of these; values outside are clipped.

    `predict` returns labels, unlike that of a `Detector`, which returns the OOD score. Here
    `score_samples` separates known from unknown images.

    Args:
        image_shape: Shape (h, w) or (channels, h, w) of the images in the rows of X; as in
            ``numpy.reshape``, one number can be -1.
        preset: "default", "quick", "photographs" or "paper" (docs/recipe.md).
        epochs: Epochs of the training; by default those of the preset.
        overrides: Any number of ``"section.key=value"`` of the config (docs/config.md).
        random_state: Seed of everything random.

    Attributes:
        classes_: Labels, ascending, shape (classes,).
        detector_: The fitted `Detector`; its labels are indices of ``classes_``.
        pixel_range_: Black and white in arrays other than uint8.
    """

    def __init__(
        self,
        image_shape: Sequence[int] | None = None,
        preset: str = "default",
        epochs: int | None = None,
        overrides: Sequence[str] = (),
        random_state: int | RandomState | None = 0,
    ) -> None:
        self.image_shape, self.preset, self.epochs = image_shape, preset, epochs
        self.overrides, self.random_state = overrides, random_state

    def fit(self, X: ArrayLike, y: ArrayLike) -> "AttractorClassifier":
        """Train a network on labelled images, fit and calibrate a detector, and return self.

        Raises:
            AttractorError: If X or y has a wrong shape, there is one class, or as
                `attractor_ae.train`; it is a ValueError if X or y is wrong.
        """
        checked, y = _validated(self, X, y, allow_nd=True, ensure_min_samples=2)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise InputError("y has 1 class; give images of at least 2 classes")
        shaped = self._shaped(checked)
        low, high = float(shaped.min()), float(shaped.max())
        usual = shaped.dtype == np.uint8 or (low >= 0 and high <= 1)
        self.pixel_range_ = (0.0, 1.0) if usual else (low, high)
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        settings = [f"dataset.channels={shaped.shape[1]}", f"training.seed={seed}"]
        settings += [] if self.epochs is None else [f"training.epochs={self.epochs}"]
        config = preset(self.preset, [*settings, *self.overrides])
        names = tuple(map(str, range(len(self.classes_))))
        images = self._resized(shaped, config.dataset.image_size)
        found = ImageSet("X", "train", images, labels.astype(np.int64), names)
        found = with_features(config, found, SILENT)
        with TemporaryDirectory() as folder:
            train(config, found, folder)
            self.detector_ = fit_detector(folder, found)
        return self

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the label of each image, one of ``classes_``: not how unknown it is."""
        columns = self.predict_proba(X).argmax(-1)
        return self.classes_[columns]

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the probability of each of ``classes_``, shape (n, classes)."""
        images = self._checked(X)
        p = self.detector_.predict_proba(images).double()
        return (p / p.sum(1, keepdim=True)).numpy()  # in float32 the sum differs from 1 by rounding

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return scores of the classes, as classifiers of scikit-learn do; not of outliers.

        They are log probabilities, shape (n, classes); of 2 classes, the log odds of the second,
        shape (n,).
        """
        p = np.log(np.maximum(self.predict_proba(X), np.finfo(np.float32).tiny))
        return p[:, 1] - p[:, 0] if p.shape[1] == 2 else p

    def score_samples(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return how normal each image is: minus the score of `Detector.predict`, shape (n,).

        Larger is more normal, as for outlier detectors of scikit-learn. Of a calibrated detector,
        1 + score is a conformal p-value.
        """
        images = self._checked(X)
        return -self.detector_.predict(images).numpy()

    def __sklearn_tags__(self) -> Any:  # noqa: ANN401
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    def _checked(self, X: ArrayLike) -> NDArray[np.uint8]:
        """Return the network's images of X after a check."""
        check_is_fitted(self)
        shaped = self._shaped(_validated(self, X, reset=False, allow_nd=True))
        return self._resized(shaped, self.detector_.image_shape[-1])

    def _shaped(self, X: NDArray[Any]) -> NDArray[Any]:
        """Return X as images (n, channels, h, w)."""
        shape = X.shape[1:] if X.ndim > 2 or self.image_shape is None else (*self.image_shape,)
        try:
            images = X.reshape(len(X), *([1] if len(shape) == 2 else []), *shape)
        except ValueError:
            raise InputError(
                f"X has {X.shape[1]} features, which are not an image of shape {shape}; set "
                "image_shape to that of the images"
            ) from None
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise InputError(
                f"X has shape {X.shape}; give images (n, h, w) or (n, channels, h, w) with 1 or 3 "
                "channels, or set image_shape to the shape of the image in a row"
            )
        return images

    def _resized(self, images: NDArray[Any], side: int) -> NDArray[np.uint8]:
        """Return images with values from black to white as uint8 (n, channels, side, side)."""
        low, high = (0, 255) if images.dtype == np.uint8 else self.pixel_range_
        parts = []
        for start in range(0, len(images), _AT_ONCE):
            some = images[start : start + _AT_ONCE].astype(np.float64)
            some = np.clip((some - low) / (high - low or 1), 0, 1).astype(np.float32)
            x = F.interpolate(torch.from_numpy(some), (side, side), mode="bilinear", antialias=True)
            parts.append((255 * x).round().byte().numpy())
        return np.concatenate(parts)
