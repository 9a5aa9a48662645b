"""The interface that every method of measuring uncertainty shares."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from attractor_ae._errors import AttractorError, unknown_name
from attractor_ae.conformal import FusedScore, halves, score_name
from attractor_ae.core.scores import DISTRIBUTION_SCORES, OOD_SCORE, Scores, distribution_scores

Images = Tensor | NDArray[Any]
Batches = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class ScoredImages:
    """What an detector says of images at every recursion.

    Attributes
    ----------
    probabilities
        The members' mean class distribution, float32.
    scores
        Name of a score -> its values, float64, of shape (recursions, n); larger is more unknown.
    """

    probabilities: Float[Tensor, "recursions n classes"]
    scores: Scores


class Detector(ABC):
    """Members that each read a class distribution off an image, and how much they disagree.

    The uncertainty is one of the scores of `attractor_ae.core.scores`, by default the normalised entropy
    of the members' mean distribution (PROTOCOL section 1), or after `calibrate` the fused one;
    larger is more out of distribution. Images are given as uint8 in 0..255 or as floats in
    [0, 1], of shape (n, channels, height, width), as NumPy arrays or tensors on any device; every
    result is a tensor on the CPU.

    Attributes
    ----------
    classes_
        The distinct labels that were fitted, ascending, int64 of shape (classes,).
    fused_
        The calibrated combination of scores, once `calibrate` was called.
    """

    method: ClassVar[str]
    """Name of the method in tables and files."""
    reference: ClassVar[str]
    """The paper that the method comes from."""

    classes_: Tensor
    fused_: FusedScore
    components: tuple[str, ...] = DISTRIBUTION_SCORES
    """What the fused score is made of."""
    score: str = "entropy"
    """Which score `predict` gives."""
    seed: int = 0
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
        """(channels, height, width) of the images that the detector takes."""

    @abstractmethod
    def fit(
        self, data: Images | Batches, labels: Tensor | NDArray[Any] | None = None
    ) -> "Detector":
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
        """Return (recursions, trials, n, classes) for float images on the detector's device."""

    @property
    def score_names(self) -> tuple[str, ...]:
        """The scores that this detector can give; the fused one after `calibrate` alone."""
        return (*self._member_scores, *((OOD_SCORE,) if hasattr(self, "fused_") else ()))

    _member_scores: tuple[str, ...] = DISTRIBUTION_SCORES

    def _score(self, x: Tensor, first_index: int, names: Sequence[str]) -> ScoredImages:
        """Return scores of float images on the detector's device, all but the fused one."""
        p = self._sample(x, first_index)
        scores = distribution_scores(p.double())
        return ScoredImages(p.mean(1), {name: scores[name] for name in names})

    @abstractmethod
    def save(self, path: str | Path) -> None:
        """Write the fitted detector to one safetensors file, atomically."""

    @classmethod
    @abstractmethod
    def load(cls, path: str | Path) -> "Detector":
        """Read an detector that `save` wrote."""

    @abstractmethod
    def to(self, device: torch.device | str) -> "Detector":
        """Compute on another device from now on, and return self."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """The device that is computed on."""

    def calibrate(
        self,
        images: Images,
        labels: Tensor | NDArray[Any],
        on_progress: Callable[[int, int], None] = lambda _done, _all: None,
    ) -> "Detector":
        """Calibrate on known images that neither network nor heads have seen, and return self.

        Afterwards there is the fused score, and `predict` gives it.

        Parameters
        ----------
        images, labels
            As for `fit`, but no loader; one class is enough.
        on_progress
            Called with the number of images that are done and of all, after every batch.

        Raises
        ------
        AttractorError
            If images or labels have another form, or are too few.
        """
        self._check_fitted()
        known = check_images(images, self.image_shape)
        targets = check_labels(labels, len(known))
        known, targets = known[targets >= 0], targets[targets >= 0]
        strange = targets[~torch.isin(targets, self.classes_)]
        if len(strange):
            raise AttractorError(
                f"label {int(strange[0])} was not fitted; calibrate on images of the fitted classes"
            )
        # Heads on the first half alone, so that the second is new to everything.
        first, _ = halves(len(known), self.seed)
        self._calibrate_heads(known[first], torch.searchsorted(self.classes_, targets[first]))
        names = list(dict.fromkeys(map(score_name, self.components)))
        scored = self.predict_scores(known, names, on_progress)
        self.fused_ = FusedScore.calibrate(scored.scores, self.components, self.seed)
        self.score = OOD_SCORE
        return self

    def _forget_calibration(self) -> None:
        """Be as before `calibrate`: for those who fit again."""
        if hasattr(self, "fused_"):
            del self.fused_
        if self.score == OOD_SCORE:
            self.score = "entropy"

    def _calibrate_heads(self, images: Tensor, targets: Tensor) -> None:  # noqa: B027
        """Calibrate class probabilities on known images; targets index ``classes_``."""

    def predict(self, x: Images) -> Float[Tensor, " n"]:
        """Return the uncertainty of each image, float64: the chosen ``score``.

        Raises
        ------
        AttractorError
            If the images have another dtype, shape or range, or nothing was fitted.
        """
        return self.predict_scores(x, [self.score]).scores[self.score][self.recursion].double()

    @torch.no_grad()
    def predict_scores(
        self,
        x: Images,
        names: Sequence[str] | None = None,
        on_progress: Callable[[int, int], None] = lambda _done, _all: None,
    ) -> ScoredImages:
        """Return the class distribution and any number of scores, from one pass of sampling.

        Parameters
        ----------
        x
            Images.
        names
            Some of ``score_names``; all by default.
        on_progress
            Called with the number of images that are done and of all, after every batch.

        Raises
        ------
        AttractorError
            As `predict`; if a score is unknown, or is the fused one before `calibrate`.
        """
        self._check_fitted()
        wanted = self.score_names if names is None else tuple(names)
        for name in wanted:
            if name == OOD_SCORE and OOD_SCORE not in self.score_names:
                raise AttractorError(
                    "the fused score needs a calibration; call calibrate with known images that "
                    "nothing was fitted on, or choose another score"
                )
            if name not in self.score_names:
                raise unknown_name("score", name, self.score_names)
        fused = self.fused_.names if OOD_SCORE in wanted else ()
        parts = [*wanted, *map(score_name, fused)]
        members = [name for name in dict.fromkeys(parts) if name != OOD_SCORE]
        batches = [self._score(x, i, members) for x, i in self._batches(x, on_progress)]
        empty = torch.zeros(self.recursions, 0)
        probabilities = torch.cat(
            [empty.new_zeros(self.recursions, 0, len(self.classes_))]
            + [batch.probabilities.cpu() for batch in batches],
            dim=1,
        )
        scores = {
            name: torch.cat(
                [empty.double(), *(batch.scores[name].cpu().double() for batch in batches)], dim=1
            )
            for name in members
        }
        if OOD_SCORE in wanted:
            scores[OOD_SCORE] = self.fused_(scores)
        return ScoredImages(probabilities, {name: scores[name] for name in wanted})

    def predict_label(self, x: Images) -> Int[Tensor, " n"]:
        """Return the most probable label of each image, int64, one of ``classes_``."""
        index = self.predict_proba(x).argmax(-1)
        return self.classes_[index]

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
        return self.predict_scores(x, (), on_progress).probabilities

    @torch.no_grad()
    def sample_proba(self, x: Images) -> Float[Tensor, "trials n classes"]:
        """Return the class distribution of every member at the reported recursion."""
        self._check_fitted()
        empty = torch.zeros(self.trials, 0, len(self.classes_))
        sampled = (self._sample(batch, i)[self.recursion].cpu() for batch, i in self._batches(x))
        return torch.cat([empty, *sampled], dim=1)

    def _batches(
        self, x: Images, on_progress: Callable[[int, int], None] = lambda _done, _all: None
    ) -> Iterator[tuple[Tensor, int]]:
        """Yield float images on the detector's device, and the index of the first of them."""
        images = check_images(x, self.image_shape)
        for start in range(0, len(images), self.batch_size):
            batch = to_unit_range(images[start : start + self.batch_size], self.device)
            yield batch, start
            on_progress(start + len(batch), len(images))

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
            targets.append(check_labels(batch[1], len(images[-1])))
        if not images:
            raise AttractorError("fit was given a loader without batches; give labelled images")
        images, targets = torch.cat(images), torch.cat(targets)
    else:
        images = check_images(data, image_shape)  # type: ignore[arg-type]
        targets = check_labels(labels, len(images))
    known = targets >= 0
    if len(torch.unique(targets[known])) < 2:
        raise AttractorError("fit needs images of at least 2 classes with labels of 0 or more")
    return images[known], targets[known]


def check_labels(labels: Tensor | NDArray[Any], count: int) -> Tensor:
    """Return labels as int64 on the CPU, after a check of type and number.

    Raises
    ------
    AttractorError
        If they are no integers of shape (count,).
    """
    values = labels.cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if values.dtype.kind not in "iu" or values.shape != (count,):
        raise AttractorError(
            f"labels must be integers of shape ({count},), got {values.dtype} {values.shape}"
        )
    return torch.from_numpy(values.astype(np.int64))
