"""Audit of a folder of images before training: what is broken, blank, rare, or there twice."""

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
_ALIKE = 0.995  # correlation of thumbnails from which images are near duplicates
_MOST = 20_000  # images among which near duplicates are looked for
_BLANK = 2 / 255  # standard deviation of grey levels
_COLOURFUL = 16 / 255  # difference of channels; JPEG causes smaller ones in grey images
_FEW = 20  # images of a class
_SHOWN = 3


@dataclass(frozen=True)
class Audit:
    """Findings about images; nothing of it stops a training.

    Attributes:
        images, classes: Numbers of images and of classes.
        per_class: Smallest and largest number of images of a class.
        broken: Files that cannot be read, with reasons.
        few: Classes with fewer than 20 images, with their numbers.
        blank: Images of one grey level.
        exact: Images that have the same pixels as another one.
        near: Images that look nearly the same as another one.
        leaked: Held-out images, for calibration or test, with a near duplicate among the others.
        conflicting: Images with a near duplicate in another class.
        compared: Number of images among which near duplicates were looked for.
        coloured: Fraction of images that are not grey.
    """

    images: int
    classes: int
    per_class: tuple[int, int]
    broken: tuple[str, ...]
    few: tuple[str, ...]
    blank: tuple[str, ...]
    exact: tuple[str, ...]
    near: tuple[str, ...]
    leaked: tuple[str, ...]
    conflicting: tuple[str, ...]
    compared: int
    coloured: float

    def lines(self) -> list[str]:
        """Return the findings, one per line."""
        low, high = self.per_class
        size = f"{low}" if low == high else f"{low} to {high}"
        kinds = f"{self.classes} {'class' if self.classes == 1 else 'classes'}"
        found = [f"audit: {self.images} images of {kinds}, {size} per class"]
        problems = {
            "files cannot be read and are left out": self.broken,
            f"classes have fewer than {_FEW} images": self.few,
            "images are blank": self.blank,
            "images are exact duplicates of others": self.exact,
            "images are near duplicates of others": self.near,
            "held-out images are near duplicates of training images: more false alarms than "
            "stated must be expected, unless new images are such duplicates, too": self.leaked,
            "images are near duplicates of images of another class": self.conflicting,
        }
        for text, items in problems.items():
            if items:
                more = ", ..." if len(items) > _SHOWN else ""
                found.append(f"  {len(items)} {text}: {', '.join(items[:_SHOWN])}{more}")
        if len(found) == 1:
            found.append("  nothing to report")
        if self.compared < self.images:
            found.append(f"  near duplicates were looked for among {self.compared} images")
        return found


def audit(images: ImageSet, held_out: NDArray[np.int64], reporter: Reporter = SILENT) -> Audit:
    """Return the findings about images.

    Args:
        images: The images, in grey or colour.
        held_out: Rows of those that are not trained on, ascending.
        reporter: Receives the progress.
    """
    n, names = len(images), _names(images)
    thumbnails = torch.empty(n, _SIDE * _SIDE)
    deviation, colour = torch.empty(n), torch.empty(n)
    places: dict[bytes, int] = {}
    exact: list[int] = []
    for start in range(0, n, 256):
        some = images.images[start : start + 256]
        for row, image in enumerate(some, start):
            key = hashlib.blake2b(image.data, digest_size=16).digest()
            if places.setdefault(key, row) != row:
                exact.append(row)
        x = torch.tensor(some).float().div_(255)
        rows = slice(start, start + len(x))
        grey = x.mean(1, keepdim=True)
        deviation[rows] = grey.flatten(1).std(1)
        colour[rows] = (x.amax(1) - x.amin(1) > _COLOURFUL).float().flatten(1).mean(1)
        small = F.adaptive_avg_pool2d(grey, _SIDE).flatten(1)
        thumbnails[rows] = F.normalize(small - small.mean(1, keepdim=True), dim=1)
        reporter.progress("auditing", start + len(x), n)
    compared = np.arange(min(n, _MOST)) * n // max(1, min(n, _MOST))
    compared = compared[(deviation[compared] > _BLANK).numpy()]
    of_held_out = np.isin(compared, held_out)
    near, leaked, conflicting = _alike(thumbnails[compared], of_held_out, images.labels[compared])
    counts = np.bincount(images.labels[images.labels >= 0], minlength=len(images.classes))
    counts = counts if len(counts) else np.array([n])

    def named(rows: Sequence[int] | NDArray[np.int64]) -> tuple[str, ...]:
        return tuple(names[row] for row in rows)

    return Audit(
        n,
        len(counts),
        (int(counts.min()), int(counts.max())),
        tuple(f"{path} ({reason})" for path, reason in images.left_out),
        tuple(
            f"{name} ({count})"
            for name, count in zip(images.classes, counts, strict=False)
            if count < _FEW
        ),
        named(np.flatnonzero((deviation <= _BLANK).numpy())),
        named(exact),
        named(np.setdiff1d(compared[near], exact)),
        named(compared[leaked]),
        named(compared[conflicting]),
        min(n, _MOST),
        float((colour > 0.01).float().mean()),
    )


def _alike(
    thumbnails: torch.Tensor, held_out: NDArray[np.bool_], labels: NDArray[np.int64]
) -> tuple[NDArray[np.int64], ...]:
    """Return the rows with a near duplicate: before them, in the other part, in another class."""
    found: list[list[NDArray[np.int64]]] = [[], [], []]
    columns = np.arange(len(labels))
    for start in range(0, len(labels), 1024):
        rows = columns[start : start + 1024]
        alike = (thumbnails[rows] @ thumbnails.T > _ALIKE).numpy()
        earlier = alike & (columns < rows[:, None])
        across = alike & held_out[rows, None] & ~held_out
        other = alike & (labels[rows, None] != labels)
        for kept, part in zip(found, (earlier, across, other), strict=True):
            kept.append(rows[part.any(1)])
    return tuple(np.concatenate([np.empty(0, np.int64), *kept]) for kept in found)


def _names(images: ImageSet) -> Sequence[str]:
    if images.paths:
        return [displayed(path) for path in images.paths]
    return [f"image {row}" for row in range(len(images))]
