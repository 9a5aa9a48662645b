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
from attractor_ae.data.imageset import ImageSet, first_rows
from attractor_ae.data.prepare import Item, no_progress, prepare, prepare_arrays

_CHUNK = 256  # pictures that are held undecoded at a time


@dataclass(frozen=True)
class Wanted:
    """What is wanted of a split.

    Attributes
    ----------
    per_class
        The first so many images of each class in the set's own order; -1: all.
    factor
        Variation of a set that has several, e.g. a car; empty: the set's default.
    form
        Size and channels of the images.
    cache
        Folder of prepared images; None: the user's.
    on_progress
        Called with the numbers of images that are prepared and of all.
    """

    per_class: int = -1
    factor: str = ""
    form: ImageFormat = field(default_factory=ImageFormat)
    cache: Path | None = None
    on_progress: Callable[[int, int], None] = no_progress


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
    rows = first_rows(labels, wanted.per_class)
    return prepare(
        name,
        split,
        [Item(paths[row], int(labels[row])) for row in rows],
        classes,
        wanted.form,
        variant=selection(wanted),
        cache=wanted.cache,
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
        _chunks(read, wanted.per_class),
        lambda: _chosen(read()[1], wanted.per_class),
        classes,
        wanted.form,
        source_files=list(source_files),
        variant=selection(wanted),
        cache=wanted.cache,
        on_progress=wanted.on_progress,
    )


def selection(wanted: Wanted) -> str:
    """Return what tells the wanted images of a split apart from others of it, for the cache."""
    chosen = f"first {wanted.per_class} of each class" if wanted.per_class >= 0 else ""
    return ", ".join(part for part in (wanted.factor, chosen) if part)


def _chunks(
    read: Callable[[], tuple[NDArray[np.uint8], NDArray[np.int64]]], per_class: int
) -> Iterator[NDArray[np.uint8]]:
    """Read when the first is asked for: not at all if the images are prepared already."""
    pictures, labels = read()
    rows = first_rows(labels, per_class)
    for start in range(0, len(rows), _CHUNK):
        yield np.ascontiguousarray(pictures[rows[start : start + _CHUNK]])


def _chosen(labels: NDArray[np.int64], per_class: int) -> NDArray[np.int64]:
    return labels[first_rows(labels, per_class)]
