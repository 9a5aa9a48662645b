"""Sources of images: they list a split, choose, and only then decode, once, into the cache."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from attractor_ae.data.cache import prepare
from attractor_ae.data.image_set import ImageSet, Wanted


@runtime_checkable
class Source(Protocol):
    """Origin of the images of a set. ``split`` is always one that the set has."""

    def expected(self, split: str, root: Path, factor: str = "") -> tuple[str, ...]:
        """Return where the images of a split are expected: packages, files or folders."""
        ...

    def missing(self, split: str, root: Path, factor: str = "") -> tuple[str, ...]:
        """Return what a split needs and is not there, without reading images."""
        ...

    def load(self, split: str, root: Path, wanted: Wanted) -> ImageSet:
        """Return the wanted images of a split, in the set's own order."""
        ...


@runtime_checkable
class Downloadable(Protocol):
    """A source that can fetch its official files."""

    def download(self, root: Path) -> None:
        """Fetch the files of every split below the data root, and check their sums."""
        ...


def is_there(path: Path) -> bool:
    """Return whether a file or folder exists and can be reached."""
    try:
        return path.is_file() or path.is_dir()
    except OSError:  # a folder that may not be searched
        return False


def load_files(
    name: str,
    split: str,
    paths: Sequence[Path],
    labels: NDArray[np.int64],
    classes: tuple[str, ...],
    wanted: Wanted,
) -> ImageSet:
    """Prepare the wanted ones of n image files with labels (n,); only these are decoded."""
    rows = wanted.rows(labels)
    chosen = [paths[row] for row in rows]
    return prepare(
        name,
        split,
        chosen,
        lambda: (chosen, labels[rows]),
        classes,
        key=(labels[rows].tobytes(), wanted.selection),
        wanted=wanted,
    )


def load_arrays(
    name: str,
    split: str,
    read: Callable[[], tuple[NDArray[np.uint8], NDArray[np.int64]]],
    classes: tuple[str, ...],
    wanted: Wanted,
    source_files: Sequence[Path],
) -> ImageSet:
    """Prepare the wanted ones of images in memory, which ``read`` reads if nothing is prepared.

    ``read`` returns uint8 images (n, height, width) or (n, height, width, 3) and labels (n,).
    """

    def chosen() -> tuple[Sequence[NDArray[np.uint8]], NDArray[np.int64]]:
        images, labels = read()
        rows = wanted.rows(labels)
        return [images[row] for row in rows], labels[rows]

    return prepare(
        name, split, source_files, chosen, classes, key=(wanted.selection,), wanted=wanted
    )
