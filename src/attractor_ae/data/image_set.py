"""Sets of labelled images in memory, and the choice of images from a split."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from attractor_ae._errors import AttractorError, check_at_least
from attractor_ae._random import Stream, generator
from attractor_ae._reporter import SILENT, Reporter
from attractor_ae.data.decode import ImageFormat

if TYPE_CHECKING:
    Labels = NDArray[np.int64]
else:  # a list or tensor is converted
    Labels = Any


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images with labels.

    Attributes:
        name: Name of the data set, as in the catalogue.
        split: Name of the split, e.g. ``"train"``.
        images: uint8 array of shape (n, channels, height, width), values 0..255, C-contiguous.
        labels: int64 array of shape (n,), an index into ``classes``; -1 where there is no label. A
            list or tensor of integers is converted.
        classes: Distinct names of the classes; empty for a set without labels.
        left_out: Files of the split that cannot be used, each with the reason.
        paths: File of each image; empty if the images are not read from one file each.
        features: Features of the images (docs/features.md), float32 of shape (n, features), if they
            are computed.

    Raises:
        AttractorError: If an array has another dtype or shape, a label is not an index into
            ``classes``, or two classes have the same name.
    """

    name: str
    split: str
    images: NDArray[np.uint8]
    labels: Labels
    classes: tuple[str, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()
    paths: tuple[str, ...] = ()
    features: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.labels, np.ndarray):
            labels = np.asarray(self.labels)
            integers = labels.dtype.kind in "iu" or not labels.size
            object.__setattr__(self, "labels", labels.astype(np.int64) if integers else labels)
        images, labels, n = self.images, self.labels, len(self.images)
        problem = ""
        if images.dtype != np.uint8 or images.ndim != 4:
            form = "images must be a uint8 array of shape (n, channels, height, width)"
            problem = f"{form}, got {images.dtype} {images.shape}"
        elif not images.flags.c_contiguous:
            problem = "images must be C-contiguous; use numpy.ascontiguousarray"
        elif labels.dtype != np.int64 or labels.shape != (n,):
            form = f"labels must be an int64 array of shape ({n},)"
            problem = f"{form}, got {labels.dtype} {labels.shape}"
        elif n and not -1 <= labels.min() <= labels.max() < len(self.classes):
            problem = f"labels must be in -1..{len(self.classes) - 1}"
            problem += f", got {labels.min()}..{labels.max()}"
        elif len(set(self.classes)) < len(self.classes):
            problem = f"classes must have distinct names, got {list(self.classes)}"
        elif self.paths and len(self.paths) != n:
            problem = f"{len(self.paths)} paths for {n} images; give one per image"
        elif self.features is not None and (self.features.ndim, len(self.features)) != (2, n):
            problem = f"features must have shape ({n}, features), got {self.features.shape}"
        if problem:
            raise AttractorError(f"image set {self.name!r} ({self.split}): {problem}")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def inputs(self) -> NDArray[np.uint8] | NDArray[np.float32]:
        """What a network is applied to: the features, if they are computed, or the images."""
        return self.images if self.features is None else self.features

    @property
    def digest(self) -> str:
        """SHA-256 of images, labels and classes."""
        digest = hashlib.sha256(repr((self.images.shape, self.classes)).encode())
        digest.update(self.images.data)
        digest.update(np.ascontiguousarray(self.labels).data)
        return digest.hexdigest()

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> "ImageSet":
        """Return the images at ``indices`` (integers, shape (m,)), in that order."""
        rows = np.asarray(indices, dtype=np.int64)
        return replace(
            self,
            images=np.ascontiguousarray(self.images[rows]),
            labels=np.ascontiguousarray(self.labels[rows]),
            paths=tuple(self.paths[row] for row in rows) if self.paths else (),
            features=None if self.features is None else self.features[rows],
        )

    def at_most(self, count: int) -> "ImageSet":
        """Return at most ``count`` images, evenly spaced over the set."""
        count = min(count, len(self))
        return self.take(np.arange(count) * len(self) // max(1, count))

    def relabelled(self, classes: Sequence[str]) -> "ImageSet":
        """Return the images with labels of other classes; -1 for a class that is not among them."""
        index = [classes.index(c) if c in classes else -1 for c in self.classes]
        labels = np.array([*index, -1])[self.labels]  # the last one is for images without a label
        return replace(self, labels=labels, classes=tuple(classes))

    def open_set(self, split: int) -> tuple["ImageSet", "ImageSet"]:
        """Divide the classes at random into known and unknown ones; return the images of each.

        Of K classes, ``round(0.6 K)`` are known. ``split``, at least 0, is the seed. Both parts
        keep the order of the set; unknown images get no labels; unlabelled ones are in neither.

        Raises:
            AttractorError: If there are fewer than 3 classes.
        """
        count = len(self.classes)
        if count < 3:
            raise AttractorError(
                f"data set {self.name!r} has {count} classes; an open-set split needs at least 3"
            )
        drawn = generator(split, Stream.OPEN_SET).permutation(count)[: round(0.6 * count)]
        found = self.relabelled([self.classes[label] for label in np.sort(drawn)])
        known = found.take(np.flatnonzero(found.labels >= 0))
        unknown = found.take(np.flatnonzero((found.labels < 0) & (self.labels >= 0)))
        return known, replace(unknown, classes=())

    def divided(self, fraction: float, seed: int) -> tuple["ImageSet", "ImageSet"]:
        """Split off ``fraction``, in [0, 1), of each class; return the rest and this part.

        From a class with n images, ``round(fraction * n)`` are drawn at random with ``seed``. Both
        parts keep the order of the set.
        """
        left_out = divided_rows(self.labels, fraction, seed)
        return self.take(np.setdiff1d(np.arange(len(self)), left_out)), self.take(left_out)


def divided_rows(labels: NDArray[np.int64], fraction: float, seed: int) -> NDArray[np.int64]:
    """Return the indices of the images that `ImageSet.divided` splits off, ascending."""
    return drawn_rows(
        labels,
        lambda count: round(fraction * count),
        lambda label: generator(seed, Stream.CALIBRATION, label + 2),
    )


def first_rows(labels: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Return the indices of the first ``n`` images of each class, ascending."""
    return drawn_rows(labels, lambda _: n)


def random_rows(labels: NDArray[np.int64], n: int, seed: int) -> NDArray[np.int64]:
    """Return the indices of ``n`` random images of each class, ascending."""
    return drawn_rows(
        labels, lambda _: n, lambda label: generator(seed, Stream.SUBSET, 0, label + 1)
    )


def drawn_rows(
    labels: NDArray[np.int64],
    number: Callable[[int], int],
    stream: Callable[[int], np.random.Generator] | None = None,
) -> NDArray[np.int64]:
    """Draw a number of images of each class with its stream; return their indices, ascending.

    Without streams, they are the first images of each class.
    """
    chosen = [np.empty(0, dtype=np.int64)]
    order = np.argsort(labels, kind="stable")
    classes, starts = np.unique(labels[order], return_index=True)
    for label, rows in zip(classes.tolist(), np.split(order, starts)[1:], strict=True):
        drawn = rows if stream is None else stream(label).permutation(rows)
        chosen.append(drawn[: number(len(rows))])
    return np.sort(np.concatenate(chosen))


@dataclass(frozen=True)
class Wanted:
    """Choice of images from a split, and how they are prepared.

    ``per_class``: number of images per class, -1: all (PROTOCOL section 6); ``subset_seed``: seed
    of their random choice, None: the first of each class in the set's order; ``factor``: variant of
    the set, e.g. one of SVIRO's cars, empty: its default; ``cache``: folder of prepared images,
    None: the user's; ``max_broken``: fraction of broken files, in [0, 1], up to which they are left
    out; ``reporter``: receives progress, and the files that are left out.
    """

    per_class: int = -1
    subset_seed: int | None = None
    factor: str = ""
    image_format: ImageFormat = field(default_factory=ImageFormat)
    cache: Path | None = None
    max_broken: float = 0.01
    reporter: Reporter = SILENT

    def __post_init__(self) -> None:
        if self.per_class < 1 and self.per_class != -1:
            raise AttractorError(
                f"{self.per_class} images per class: give 1 or more, or -1 for all"
            )
        check_at_least(0, subset_seed=self.subset_seed or 0)

    def rows(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the indices of the wanted images among those with these labels, ascending."""
        if self.per_class < 0:
            return np.arange(len(labels))
        if self.subset_seed is None:
            return first_rows(labels, self.per_class)
        return random_rows(labels, self.per_class, self.subset_seed)

    @property
    def selection(self) -> str:
        """Description of the choice of images, part of the cache key."""
        return f"{self.factor}, {self.per_class} per class, seed {self.subset_seed}"
