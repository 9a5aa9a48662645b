"""Sources of images: they list a split, choose images, and decode only these into the cache."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from attractor_ae.data.cache import prepare
from attractor_ae.data.image_set import ImageSet, Wanted


@runtime_checkable
class Source(Protocol):
    """Origin of the images of a set. ``split`` is always one of its splits.

    A source with a method ``download(root)`` can download its official files to the data root.
    """

    def expected(self, split: str, root: Path, factor: str = "") -> tuple[str, ...]:
        """Return the packages, files or folders in which the images of a split are expected."""
        ...

    def missing(self, split: str, root: Path, factor: str = "") -> tuple[str, ...]:
        """Return the missing packages, files or folders of a split, without reading images."""
        expected = self.expected(split, root, factor)
        return tuple(place for place in expected if not is_there(Path(place)))

    def load(self, split: str, root: Path, wanted: Wanted) -> ImageSet:
        """Return the wanted images of a split, in the order of the set."""
        ...


@dataclass(frozen=True)
class Layouts:
    """Source that reads the first of ``sources``, all of one class, whose files are present.

    They may be in torchvision's layout, or that of the released code. Attributes that do not depend
    on the files (``classes``, ``download``) are those of the first.
    """

    sources: tuple[Any, ...]

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self.sources[0], name)

    def expected(self, split: str, root: Path, factor: str = "") -> tuple[str, ...]:
        """Return the expected files and folders of the layout that is used."""
        return self.used(split, root, factor).expected(split, root, factor)

    def missing(self, split: str, root: Path, factor: str = "") -> tuple[str, ...]:
        """Return the missing files and folders of the layout that is used."""
        return self.used(split, root, factor).missing(split, root, factor)

    def load(self, split: str, root: Path, wanted: Wanted) -> ImageSet:
        """Return the wanted images of a split."""
        return self.used(split, root, wanted.factor).load(split, root, wanted)

    def used(self, split: str, root: Path, factor: str = "") -> Any:  # noqa: ANN401
        """Return the first source without missing files, or the first of all."""
        complete = (s for s in self.sources if not s.missing(split, root, factor))
        return next(complete, self.sources[0])


def is_there(path: Path) -> bool:
    """Return whether a file or folder exists and is accessible."""
    try:
        return path.is_file() or path.is_dir()
    except OSError:  # no permission to search a folder
        return False


def load_files(
    name: str,
    split: str,
    paths: Sequence[Path],
    labels: NDArray[np.int64],
    classes: tuple[str, ...],
    wanted: Wanted,
) -> ImageSet:
    """Prepare the wanted images among n files with labels (n,); only these are decoded."""
    rows = wanted.rows(labels)
    chosen, of_chosen = [paths[row] for row in rows], labels[rows]
    key = (of_chosen.tobytes(), wanted.selection)
    images = chosen, of_chosen
    return prepare(name, split, chosen, lambda: images, classes, key=key, wanted=wanted)


def load_arrays(
    name: str,
    split: str,
    read: Callable[[], tuple[NDArray[np.uint8], NDArray[np.int64]]],
    classes: tuple[str, ...],
    wanted: Wanted,
    source_files: Sequence[Path],
) -> ImageSet:
    """Prepare the wanted images among arrays; ``read`` is called if they are not in the cache.

    ``read`` returns uint8 images (n, height, width) or (n, height, width, 3) and labels (n,).
    """

    def chosen() -> tuple[Sequence[NDArray[np.uint8]], NDArray[np.int64]]:
        images, labels = read()
        rows = wanted.rows(labels)
        return [images[row] for row in rows], labels[rows]

    return prepare(
        name, split, source_files, chosen, classes, key=(wanted.selection,), wanted=wanted
    )
