"""Audit of images before training: broken and blank images, duplicates, small classes."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from attractor_ae._reporter import SILENT, Reporter
from attractor_ae.data import ImageSet
from attractor_ae.data.decode import displayed

_SIDE = 16  # of the thumbnails that are compared
_ALIKE = 0.995  # correlation of thumbnails above which images are near duplicates
_MOST = 20_000  # images compared for near duplicates
_BLANK = 2 / 255  # standard deviation of grey levels
_COLOURFUL = 16 / 255  # difference of channels; JPEG causes smaller ones in grey images
_FEW = 20  # images of a class
_SHOWN = 3
_FLATTERS = "so that results on them are too good"
_AT_ONCE = 512  # images

Names = tuple[str, ...]


@dataclass(frozen=True)
class Audit:
    """Findings about images; none of them stops the training.

    Attributes:
        images, classes: Numbers of images and of classes.
        per_class: Smallest and largest number of images of a class.
        broken: Files that cannot be read, with reasons.
        few: Classes with fewer than 20 images, with their numbers.
        blank: Images of one grey level.
        exact: Images that have the same pixels as another one.
        near: Images that look nearly the same as another one.
        leaked: Calibration images with a near duplicate among the others.
        conflicting: Images with a near duplicate in another class.
        compared: Number of images among which near duplicates were looked for.
        coloured: Fraction of images that are not grey.
        tested: Number of test images, which are not among ``images``.
        tested_exact: Test images with the same pixels as one of the images.
        tested_near: Test images that look nearly the same as one of the images.
    """

    images: int
    classes: int
    per_class: tuple[int, int]
    broken: Names
    few: Names
    blank: Names
    exact: Names
    near: Names
    leaked: Names
    conflicting: Names
    compared: int
    coloured: float
    tested: int = 0
    tested_exact: Names = ()
    tested_near: Names = ()

    def lines(self) -> list[str]:
        """Return the findings, one per line."""
        low, high = self.per_class
        size = f"{low}" if low == high else f"{low} to {high}"
        kinds = f"{self.classes} {'class' if self.classes == 1 else 'classes'}"
        found = [f"audit: {self.images} images of {kinds}, {size} per class"]
        if self.tested:
            found[0] += f"; {self.tested} test images"
        problems = {
            "files that cannot be read and are left out": self.broken,
            f"classes with fewer than {_FEW} images": self.few,
            "blank images": self.blank,
            "exact duplicates of other images": self.exact,
            "near duplicates of other images": self.near,
            "calibration images that are near duplicates of training images, so expect more false "
            "alarms than stated, unless new images are such duplicates, too": self.leaked,
            "near duplicates of images of another class": self.conflicting,
            f"test images that are exact duplicates of others, {_FLATTERS}": self.tested_exact,
            f"test images that are near duplicates of others, {_FLATTERS}": self.tested_near,
        }
        for text, items in problems.items():
            if items:
                more = ", ..." if len(items) > _SHOWN else ""
                found.append(f"  {text} ({len(items)}): {', '.join(items[:_SHOWN])}{more}")
        if len(found) == 1:
            found.append("  nothing to report")
        if self.compared < self.images:
            found.append(f"  only {self.compared} images were compared for near duplicates")
        return found


def audit(
    images: ImageSet,
    held_out: NDArray[np.int64],
    test: ImageSet | None = None,
    reporter: Reporter = SILENT,
) -> Audit:
    """Return the findings about images.

    Args:
        images: The images, in grey or colour.
        held_out: Rows of those that are not trained on, ascending.
        test: Images of the same format to measure on, which are compared with the others.
        reporter: Receives the progress.
    """
    n, names = len(images), _names(images)
    looks = _Looks.of(images, reporter)
    places: dict[bytes, int] = {}
    exact = [row for row, key in enumerate(looks.keys) if places.setdefault(key, row) != row]
    compared = looks.compared()
    of_held_out = np.isin(compared, held_out)
    near, leaked, conflicting = _alike(
        looks.thumbnails[compared], of_held_out, images.labels[compared]
    )
    counts = np.bincount(images.labels[images.labels >= 0], minlength=len(images.classes))
    counts = counts if len(counts) else np.array([n])
    left_out, tested, tested_exact, tested_near = images.left_out, (), (), ()
    if test is not None:
        left_out, tested, others = left_out + test.left_out, _names(test), _Looks.of(test, reporter)
        tested_exact = [row for row, key in enumerate(others.keys) if key in places]
        rows, known = others.compared(), looks.thumbnails[compared].T
        near_known = [
            (block @ known > _ALIKE).any(1) for block in others.thumbnails[rows].split(_AT_ONCE)
        ]
        tested_near = np.setdiff1d(rows[torch.cat(near_known).numpy()], tested_exact)

    sizes = zip(images.classes, counts, strict=False)  # without classes, none

    def named(rows: Sequence[int] | NDArray[np.int64], names: Sequence[str] = names) -> Names:
        return tuple(names[row] for row in rows)

    return Audit(
        n,
        len(counts),
        (int(counts.min()), int(counts.max())),
        tuple(f"{path} ({reason})" for path, reason in left_out),
        tuple(f"{name} ({count})" for name, count in sizes if count < _FEW),
        named(np.flatnonzero(looks.blank)),
        named(exact),
        named(np.setdiff1d(compared[near], exact)),
        named(compared[leaked]),
        named(compared[conflicting]),
        min(n, _MOST),
        float((looks.colour > 0.01).mean()),
        len(tested),
        named(tested_exact, tested),
        named(tested_near, tested),
    )


@dataclass(frozen=True, eq=False)
class _Looks:
    """Properties for comparison: digests, thumbnails of length 1, blankness and colour."""

    keys: list[bytes]
    thumbnails: torch.Tensor  # (n, 256)
    blank: NDArray[np.bool_]
    colour: NDArray[np.float32]  # fraction of coloured pixels

    @classmethod
    def of(cls, images: ImageSet, reporter: Reporter) -> "_Looks":
        keys: list[bytes] = []
        parts: list[list[torch.Tensor]] = []
        for start in range(0, len(images), _AT_ONCE):
            some = images.images[start : start + _AT_ONCE]
            keys += [hashlib.blake2b(image.data, digest_size=16).digest() for image in some]
            x = torch.tensor(some).float().div_(255)
            grey = x.mean(1, keepdim=True)
            small = F.adaptive_avg_pool2d(grey, _SIDE).flatten(1)
            small = F.normalize(small - small.mean(1, keepdim=True), dim=1)
            colour = (x.amax(1) - x.amin(1) > _COLOURFUL).float().flatten(1).mean(1)
            parts.append([small, grey.flatten(1).std(1) <= _BLANK, colour])
            reporter.progress(f"auditing {images.split}", start + len(x), len(images))
        small, blank, colour = (torch.cat(column) for column in zip(*parts, strict=True))
        return cls(keys, small, blank.numpy(), colour.numpy())

    def compared(self) -> NDArray[np.int64]:
        """Return the rows among which near duplicates are looked for: at most ``_MOST``."""
        n = len(self.keys)
        rows = np.arange(min(n, _MOST)) * n // max(1, min(n, _MOST))
        return rows[~self.blank[rows]]


def _alike(
    thumbnails: torch.Tensor, held_out: NDArray[np.bool_], labels: NDArray[np.int64]
) -> tuple[NDArray[np.int64], ...]:
    """Return the rows with a near duplicate: earlier, in the other part, in another class."""
    flags, columns = np.zeros((3, len(labels)), dtype=bool), np.arange(len(labels))
    for start in range(0, len(labels), _AT_ONCE):
        rows = columns[start : start + _AT_ONCE]
        alike = (thumbnails[rows] @ thumbnails.T > _ALIKE).numpy()
        earlier = alike & (columns < rows[:, None])
        across = alike & held_out[rows, None] & ~held_out
        other = alike & (labels[rows, None] != labels)
        flags[:, rows] = [part.any(1) for part in (earlier, across, other)]
    return tuple(map(np.flatnonzero, flags))


def _names(images: ImageSet) -> Sequence[str]:
    if images.paths:
        return [displayed(path) for path in images.paths]
    return [f"image {row}" for row in range(len(images))]
