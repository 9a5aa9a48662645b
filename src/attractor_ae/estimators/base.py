"""The interface that every method of measuring uncertainty shares."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from attractor_ae.errors import AttractorError
from attractor_ae.metrics import entropy

Images = Tensor | NDArray[Any]
Batches = Iterable[tuple[Tensor, Tensor]]


class UncertaintyEstimator(ABC):
    """Members that each read a class distribution off an image, and how much they disagree.

    The uncertainty is the normalised entropy of the members' mean distribution (PROTOCOL section
    1); larger is more out of distribution. Images are given as uint8 in 0..255 or as floats in
    [0, 1], of shape (n, channels, height, width), as NumPy arrays or tensors on any device; every
    result is a tensor on the CPU.

    Attributes
    ----------
    classes_
        The distinct labels that were fitted, ascending, int64 of shape (classes,).
    """

    method: ClassVar[str]
    """Name of the method in tables and files."""
    reference: ClassVar[str]
    """The paper that the method comes from."""

    classes_: Tensor
    batch_size: int = 128
    recursions: int = 1
    """How many recursions are evaluated."""
    recursion: int = 0
    """Which of them `predict` and its kin report."""
    trials: int = 1
    """How many members there are."""

    @property
    @abstractmethod
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the images that the estimator takes."""

    @abstractmethod
    def fit(
        self, data: Images | Batches, labels: Tensor | NDArray[Any] | None = None
    ) -> "UncertaintyEstimator":
        """Fit on labelled images and return self.

        Parameters
        ----------
        data
            Images, or a loader that yields batches of (images, labels).
        labels
            Integer labels of shape (n,) if ``data`` is images. Rows with a label below zero are
            out of distribution by convention and are ignored.
        """

    @abstractmethod
    def _sample(self, x: Tensor, first_index: int) -> Tensor:
        """Return (recursions, trials, n, classes) for float images on the estimator's device."""

    @abstractmethod
    def save(self, path: str | Path) -> None:
        """Write the fitted estimator to one safetensors file, atomically."""

    @classmethod
    @abstractmethod
    def load(cls, path: str | Path) -> "UncertaintyEstimator":
        """Read an estimator that `save` wrote."""

    @abstractmethod
    def to(self, device: torch.device | str) -> "UncertaintyEstimator":
        """Compute on another device from now on, and return self."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """The device that is computed on."""

    def predict(self, x: Images) -> Float[Tensor, " n"]:
        """Return the uncertainty of each image, float64 in [0, 1].

        Raises
        ------
        AttractorError
            If the images have another dtype, shape or range, or nothing was fitted.
        """
        return torch.from_numpy(entropy(self.predict_proba(x).numpy()))

    def predict_label(self, x: Images) -> Int[Tensor, " n"]:
        """Return the most probable label of each image, int64, one of ``classes_``."""
        return self.classes_[self.predict_proba(x).argmax(-1)]

    def predict_proba(self, x: Images) -> Float[Tensor, "n classes"]:
        """Return the members' mean class distribution of each image at the reported recursion."""
        return self.predict_proba_recursions(x)[self.recursion]

    def predict_proba_recursions(
        self, x: Images, on_progress: Callable[[int, int], None] = lambda _done, _all: None
    ) -> Float[Tensor, "recursions n classes"]:
        """Return the members' mean class distribution at every recursion.

        Parameters
        ----------
        x
            Images.
        on_progress
            Called with the number of images that are done and of all, after every batch.
        """
        return self._batched(x, lambda sampled: sampled.mean(1), on_progress)

    def sample_proba(self, x: Images) -> Float[Tensor, "trials n classes"]:
        """Return the class distribution of every member at the reported recursion."""
        return self._batched(x, lambda sampled: sampled[self.recursion])

    def _batched(
        self,
        x: Images,
        reduce: Callable[[Tensor], Tensor],
        on_progress: Callable[[int, int], None] = lambda _done, _all: None,
    ) -> Tensor:
        """Return ``reduce`` of the samples of each batch, joined along the images."""
        self._check_fitted()
        images = check_images(x, self.image_shape)
        if not len(images):
            return reduce(torch.zeros(self.recursions, self.trials, 0, len(self.classes_)))
        results = []
        with torch.no_grad():
            for start in range(0, len(images), self.batch_size):
                batch = to_unit_range(images[start : start + self.batch_size], self.device)
                results.append(reduce(self._sample(batch, start)).cpu())
                on_progress(start + len(batch), len(images))
        return torch.cat(results, dim=-2)

    def _check_fitted(self) -> None:
        if not hasattr(self, "classes_"):
            raise AttractorError(
                f"this {type(self).__name__} is not fitted; call fit with labelled images first"
            )


def check_images(x: Images, image_shape: tuple[int, int, int]) -> Tensor:
    """Return images as a tensor, unchanged, after a check of dtype, shape and range.

    Parameters
    ----------
    x
        Array or tensor.
    image_shape
        (channels, height, width) that are wanted.

    Raises
    ------
    AttractorError
        If ``x`` is anything else than uint8 in 0..255 or floats in [0, 1] of the wanted shape.
    """
    if not isinstance(x, np.ndarray | Tensor):
        raise AttractorError(
            f"images must be a NumPy array or a tensor, got {type(x).__name__}; "
            "uint8 in 0..255 or float in 0..1"
        )
    if isinstance(x, np.ndarray):
        if x.dtype.kind not in "fu" or x.dtype.itemsize > 8:
            raise _wrong_dtype(x.dtype)
        # PyTorch takes no reversed, byte-swapped or read-only arrays: those are copied.
        native = np.ascontiguousarray(x, dtype=x.dtype.newbyteorder("="))
        images = torch.from_numpy(native if native.flags.writeable else native.copy())
    else:
        images = x
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise _wrong_dtype(x.dtype)
    if images.ndim != 4 or tuple(images.shape[1:]) != image_shape:
        wanted = ", ".join(str(side) for side in image_shape)
        raise AttractorError(f"images have shape {tuple(images.shape)}; give (n, {wanted})")
    if images.is_floating_point() and images.numel():
        low, high = images.min().item(), images.max().item()
        if not (low >= 0 and high <= 1):  # also catches NaN
            raise AttractorError(
                f"float images must lie in [0, 1], got {low:g}..{high:g}; "
                "divide by 255, or give uint8"
            )
    return images


def _wrong_dtype(dtype: object) -> AttractorError:
    return AttractorError(f"images have dtype {dtype}; give uint8 in 0..255 or float in 0..1")


def to_unit_range(images: Tensor, device: torch.device) -> Tensor:
    """Return checked images as float32 in [0, 1] on a device."""
    moved = images.detach().to(device)
    return moved.float().div_(255) if moved.dtype == torch.uint8 else moved.float()


def gather(
    data: Images | Batches,
    labels: Tensor | NDArray[Any] | None,
    image_shape: tuple[int, int, int],
) -> tuple[Tensor, Tensor]:
    """Return the images (n, channels, height, width) and labels (n,) that `fit` was given.

    Rows with a label below zero are left out.

    Raises
    ------
    AttractorError
        If images or labels have another form, or fewer than two classes are left.
    """
    if labels is None:
        if isinstance(data, np.ndarray | Tensor):
            raise AttractorError("fit needs labels: fit(images, labels), or a loader of both")
        images, targets = [], []
        for batch in data:
            if not isinstance(batch, tuple | list) or len(batch) != 2:
                raise AttractorError(
                    f"fit needs a loader of pairs (images, labels), got a {type(batch).__name__}"
                )
            images.append(check_images(batch[0], image_shape))
            targets.append(_check_labels(batch[1], len(images[-1])))
        if not images:
            raise AttractorError("fit was given a loader without batches; give labelled images")
        images, targets = torch.cat(images), torch.cat(targets)
    else:
        images = check_images(data, image_shape)  # type: ignore[arg-type]
        targets = _check_labels(labels, len(images))
    known = targets >= 0
    if len(torch.unique(targets[known])) < 2:
        raise AttractorError("fit needs images of at least 2 classes with labels of 0 or more")
    return images[known], targets[known]


def _check_labels(labels: Tensor | NDArray[Any], count: int) -> Tensor:
    """Return labels as int64 on the CPU, after a check of type and number."""
    values = labels.cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if values.dtype.kind not in "iu" or values.shape != (count,):
        raise AttractorError(
            f"labels must be integers of shape ({count},), got {values.dtype} {values.shape}"
        )
    return torch.from_numpy(values.astype(np.int64))
