"""The sets that torchvision reads, from their official files and in its layout.

torchvision's own classes fetch the files, check their sums and know their formats. Torchvision
takes seconds to import, so it is imported when a split is read.

CIFAR-10's batches are pickled. torchvision reads them after it has compared each file with the
published checksum, and a file that is another one is refused before it is opened.
"""

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attractor_ae._errors import AttractorError
from attractor_ae.data.imageset import ImageSet
from attractor_ae.data.source import Wanted, is_there, load_arrays, load_files

Arrays = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Pictures of shape (n, height, width, 3), and labels of shape (n,)."""

Files = tuple[list[Path], NDArray[np.int64], tuple[str, ...]]
"""Paths of n image files, labels of shape (n,), and the names of the classes."""

_KEPT_SIGNS = range(10, 20)  # PROTOCOL section 6
_SIGNS = 43


@dataclass(frozen=True)
class TorchvisionSet:
    """What is common to the sets that torchvision reads.

    Attributes
    ----------
    name
        Name of the set in the catalogue.
    folder
        What torchvision calls the root of the set, below the data root; empty for the data root.
    parts
        Files and folders that a split needs, below ``folder``, by split.
    fetch
        Names the constructions of torchvision's class that fetch every split, as
        ``(class, arguments)``.
    """

    name: str
    folder: str
    parts: Mapping[str, tuple[str, ...]]
    fetch: tuple[tuple[str, Mapping[str, Any]], ...]

    def expected(self, split: str, root: Path, factor: str = "") -> tuple[str, ...]:
        """Return the files and folders of a split."""
        return tuple(str(root / self.folder / part) for part in self.parts[split])

    def missing(self, split: str, root: Path, factor: str = "") -> tuple[str, ...]:
        """Return the files and folders of a split that are not there."""
        return tuple(place for place in self.expected(split, root) if not is_there(Path(place)))

    def download(self, root: Path) -> None:
        """Fetch the files of every split below the data root, and check their sums."""
        fetch(self.fetch, root / self.folder)


@dataclass(frozen=True)
class TorchvisionArrays(TorchvisionSet):
    """Source of a set that torchvision holds in memory.

    Attributes
    ----------
    read
        Function of the set's folder and a split that returns all pictures and labels.
    classes
        Names of the classes.
    """

    read: Callable[[Path, str], Arrays]
    classes: tuple[str, ...]

    def load(self, split: str, root: Path, wanted: Wanted) -> ImageSet:
        """Return the wanted images of a split.

        Raises
        ------
        AttractorError
            If a file is not the official one.
        """

        def read() -> Arrays:
            with _checked(self.name, self.expected(split, root)):
                return self.read(root / self.folder, split)

        files = [Path(place) for place in self.expected(split, root)]
        return load_arrays(self.name, split, read, self.classes, wanted, files)


@dataclass(frozen=True)
class TorchvisionFolders(TorchvisionSet):
    """Source of a set of image files that torchvision lists.

    Attributes
    ----------
    read
        Function of the set's folder and a split that returns paths, labels and class names.
    """

    read: Callable[[Path, str], Files]

    def load(self, split: str, root: Path, wanted: Wanted) -> ImageSet:
        """Return the wanted images of a split.

        Raises
        ------
        AttractorError
            If a file is not the official one.
        """
        with _checked(self.name, self.expected(split, root)):
            paths, labels, classes = self.read(root / self.folder, split)
        return load_files(self.name, split, paths, labels, classes, wanted)


def fetch(constructions: tuple[tuple[str, Mapping[str, Any]], ...], folder: Path) -> None:
    """Let torchvision fetch sets into a folder, and check their sums.

    Parameters
    ----------
    constructions
        Names of classes in ``torchvision.datasets``, with the arguments of each.
    folder
        What torchvision calls the root.

    Raises
    ------
    OSError, RuntimeError
        If there is no network, the folder cannot be written to, or a sum is wrong.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, arguments in constructions:
        _construct(name, folder, **arguments, download=True)


def read_svhn(folder: Path, split: str) -> Arrays:
    """Read SVHN's .mat file of a split; its label 10, the digit 0, becomes 0."""
    found = _construct("SVHN", folder, split=split)
    return found.data.transpose(0, 2, 3, 1), found.labels.astype(np.int64)  # (n, 32, 32, 3)


def read_cifar10(folder: Path, split: str) -> Arrays:
    """Read CIFAR-10's pickled batches, once torchvision has checked their sums."""
    found = _construct("CIFAR10", folder, train=split == "train")
    return found.data, np.asarray(found.targets, dtype=np.int64)


def list_gtsrb(folder: Path, split: str) -> Files:
    """List traffic signs: the classes 10..19, relabelled 0..9, or, as ``"ood"``, the others.

    ``"train"`` and ``"test"`` are the official ones. ``"ood"`` is what the official test images
    show beside the ten classes: the other 33, in their order, relabelled 0..32.
    """
    training = split == "train"
    found = _construct("GTSRB", folder, split="train" if training else "test")
    kept = [sign for sign in range(_SIGNS) if (sign in _KEPT_SIGNS) == (split != "ood")]
    new = {sign: label for label, sign in enumerate(kept)}
    paths, labels = [], []
    for place, sign in found._samples:
        path = Path(place)
        # torchvision counts the folders of the training images; their names are the classes.
        label = new.get(int(path.parent.name) if training else sign)
        if label is not None:
            paths.append(path)
            labels.append(label)
    return paths, np.array(labels, dtype=np.int64), tuple(f"sign {sign}" for sign in kept)


def list_omniglot(folder: Path, split: str) -> Files:
    """List characters: the background alphabets as ``"train"``, the evaluation ones as ``"test"``.

    A class is a character of an alphabet. torchvision lists folders in the order of the disk;
    here they are sorted, so that the first n of a class are the same ones everywhere.
    """
    # A "loader" that returns the path that it is given: torchvision's list without its pictures.
    found = _construct("Omniglot", folder, background=split == "train", loader=Path)
    paths = sorted(found[i][0] for i in range(len(found)))
    names = [f"{path.parent.parent.name}/{path.parent.name}" for path in paths]
    classes, labels = np.unique(names, return_inverse=True)
    return paths, labels.astype(np.int64), tuple(str(name) for name in classes)


def list_places365(folder: Path, split: str) -> Files:
    """List the validation images of 256 x 256 pixels, which are the set's ``"test"``."""
    found = _construct("Places365", folder, split="val", small=True)
    paths = [Path(path) for path, _ in found.imgs]
    by_label = sorted(found.class_to_idx, key=found.class_to_idx.__getitem__)
    # "/a/airfield" and "/a/apartment_building/outdoor" -> "airfield", "apartment_building/outdoor"
    classes = tuple(name.split("/", 2)[-1] for name in by_label)
    return paths, np.asarray(found.targets, dtype=np.int64), classes


def _construct(name: str, folder: Path, **arguments: Any) -> Any:  # noqa: ANN401
    return getattr(importlib.import_module("torchvision.datasets"), name)(folder, **arguments)


@contextmanager
def _checked(name: str, places: tuple[str, ...]) -> Iterator[None]:
    """Say in one line what torchvision refuses to read."""
    try:
        yield
    except (RuntimeError, OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise AttractorError(
            f"data set {name!r}: incomplete or not the official files ({reason}); remove "
            f"{' and '.join(places[:3])}{' and the others' if places[3:] else ''}, "
            f"then: attractor-ae data download {name}"
        ) from error
