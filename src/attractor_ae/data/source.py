"""What every kind of source shares: what is wanted of a set, and the way from a list to images.

A source first lists a split - labels, and where its pictures are - which takes little, then
chooses, and only then decodes: once, into a cache that the next load opens.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from attractor_ae.data.decoding import ImageFormat
from attractor_ae.data.imageset import ImageSet, first_rows, random_rows
from attractor_ae.data.prepare import Item, no_progress, prepare, prepare_arrays

_CHUNK = 256  # pictures that are held undecoded at a time


@dataclass(frozen=True)
class Wanted:
    """What is wanted of a split.

    Attributes
    ----------
    per_class
        So many images of each class; -1: all.
    subset_seed
        None: the first of each class in the set's own order; else what draws them at random.
    factor
        Variation of a set that has several, e.g. a car; empty: the set's default.
    form
        Size and channels of the images.
    cache
        Folder of prepared images; None: the user's.
    max_broken
        In [0, 1], the share of broken files up to which they are left out.
    on_progress
        Called with the numbers of images that are prepared and of all.
    """

    per_class: int = -1
    subset_seed: int | None = None
    factor: str = ""
    form: ImageFormat = field(default_factory=ImageFormat)
    cache: Path | None = None
    max_broken: float = 0.01
    on_progress: Callable[[int, int], None] = no_progress

    def rows(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return which of the images with these labels are wanted, in ascending order."""
        if self.subset_seed is None:
            return first_rows(labels, self.per_class)
        return random_rows(labels, self.per_class, self.subset_seed)

    @property
    def selection(self) -> str:
        """What tells the wanted images of a split apart from others of it, for the cache."""
        chosen = f"first {self.per_class} of each class" if self.per_class >= 0 else ""
        if chosen and self.subset_seed is not None:
            chosen = f"{self.per_class} of each class by seed {self.subset_seed}"
        return ", ".join(part for part in (self.factor, chosen) if part)


@runtime_checkable
class Source(Protocol):
    """Where the images of a set come from. ``split`` is always one that the set has."""

    def expected(self, split: str, root: Path, factor: str = "") -> tuple[str, ...]:
        """Return where the images of a split are expected: packages, files or folders."""
        ...

    def missing(self, split: str, root: Path, factor: str = "") -> tuple[str, ...]:
        """Return what is needed to load a split and is not there, without reading images."""
        ...

    def load(self, split: str, root: Path, wanted: Wanted) -> ImageSet:
        """Return the images of a split that are wanted, in the set's own order."""
        ...


@runtime_checkable
class Downloadable(Protocol):
    """A source that can fetch its official files."""

    def download(self, root: Path) -> None:
        """Fetch the files of every split below the data root, and check their sums."""
        ...


def is_there(path: Path) -> bool:
    """Return whether a file or folder is there and can be reached."""
    try:
        return path.is_file() or path.is_dir()
    except OSError:  # a folder that may not be searched
        return False


def load_files(
    name: str,
    split: str,
    paths: list[Path],
    labels: NDArray[np.int64],
    classes: tuple[str, ...],
    wanted: Wanted,
) -> ImageSet:
    """Prepare the wanted ones of image files: only these are decoded.

    Parameters
    ----------
    name, split, classes
        As in `ImageSet`.
    paths
        One file an image, in the set's own order.
    labels
        int64 array of shape (n,).
    wanted
        What is wanted of the split.
    """
    rows = wanted.rows(labels)
    return prepare(
        name,
        split,
        [Item(paths[row], int(labels[row])) for row in rows],
        classes,
        wanted.form,
        variant=wanted.selection,
        cache=wanted.cache,
        max_broken=wanted.max_broken,
        on_progress=wanted.on_progress,
    )


def load_arrays(
    name: str,
    split: str,
    read: Callable[[], tuple[NDArray[np.uint8], NDArray[np.int64]]],
    classes: tuple[str, ...],
    wanted: Wanted,
    source_files: Iterable[Path],
) -> ImageSet:
    """Prepare the wanted ones of pictures in memory: only these are resized.

    Parameters
    ----------
    name, split, classes
        As in `ImageSet`.
    read
        Reads the pictures, a uint8 array of shape (n, height, width) or (n, height, width, 3),
        and their labels, int64 of shape (n,).
    wanted
        What is wanted of the split.
    source_files
        The files that are read: when these change, the cache is stale.
    """
    read = lru_cache(maxsize=1)(read)
    return prepare_arrays(
        name,
        split,
        _chunks(read, wanted),
        lambda: _chosen(read()[1], wanted),
        classes,
        wanted.form,
        source_files=list(source_files),
        variant=wanted.selection,
        cache=wanted.cache,
        on_progress=wanted.on_progress,
    )


def _chunks(
    read: Callable[[], tuple[NDArray[np.uint8], NDArray[np.int64]]], wanted: Wanted
) -> Iterator[NDArray[np.uint8]]:
    """Read when the first is asked for: not at all if the images are prepared already."""
    pictures, labels = read()
    rows = wanted.rows(labels)
    for start in range(0, len(rows), _CHUNK):
        yield np.ascontiguousarray(pictures[rows[start : start + _CHUNK]])


def _chosen(labels: NDArray[np.int64], wanted: Wanted) -> NDArray[np.int64]:
    return labels[wanted.rows(labels)]
