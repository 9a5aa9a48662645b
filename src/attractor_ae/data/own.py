"""Everybody's own images: a folder, a table of paths and labels, or an array.

What may be given as a path:

* a folder with one sub-folder a class, or with such folders as splits (``train/``, ``test/``, and
  others beside them), or of images without labels;
* a table of paths, labels and splits (`attractor_ae.data.own_tables`);
* an array of images, with labels and splits where there are any (`attractor_ae.data.own_arrays`).

Images stand in the order of their names, or of the table or array. Where no splits are given,
images with labels are divided into "train" and "test" at random, each class by itself, always the
same way for one seed. The split "all" is everything; without labels and splits it is the only one.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attractor_ae._errors import AttractorError
from attractor_ae._random import Stream, generator
from attractor_ae.data.cache import Broken
from attractor_ae.data.decoding import displayed, image_suffixes
from attractor_ae.data.own_arrays import ARRAYS, in_array
from attractor_ae.data.own_found import Found
from attractor_ae.data.own_tables import TABLES, in_table

ALL = "all"
"""The split that holds every image."""

SUFFIXES = (*TABLES, *ARRAYS)
"""Suffixes of the files that hold own images, or list them."""

_SPLITS = ("train", "test")


@dataclass(frozen=True)
class OwnImages:
    """What was found at a path.

    Attributes
    ----------
    path
        The folder or file, without symbolic links.
    splits
        By name of the split, where its images are among all.
    labels
        int64 array of shape (n,), of all images; -1 without a label.
    classes
        Names of the classes of all images, those of the split "train" first.
    paths
        The files of the images; empty for an array, which holds them itself.
    unusable
        Files that look like images and cannot be used, each with the reason.
    ignored
        Images that lie where none belong, each with the reason.
    seeded
        Whether the splits "train" and "test" were drawn at random.
    fixed_classes
        Whether the classes were given, not gathered from the labels.
    """

    path: Path
    splits: Mapping[str, NDArray[np.int64]]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    paths: tuple[str, ...] = ()
    unusable: tuple[Broken, ...] = ()
    ignored: tuple[Broken, ...] = ()
    seeded: bool = False
    fixed_classes: bool = False

    @property
    def name(self) -> str:
        """Name of the set: of the folder, or of the file without its suffix."""
        return displayed(self.path.name if self.path.is_dir() else self.path.stem) or "images"

    def rows(self, split: str) -> NDArray[np.int64]:
        """Return where the images of a split are among all.

        Raises
        ------
        AttractorError
            If there is no such split.
        """
        if split not in self.splits:
            raise AttractorError(
                f"{displayed(self.path)} has no split {split!r}; "
                f"available: {', '.join(map(displayed, self.splits))}"
            )
        return self.splits[split]

    def split_classes(self, split: str) -> tuple[str, ...]:
        """Return the classes up to the last one that the split or "train" has.

        So a set is not said to have classes that only another split has, e.g. one of unknown
        objects. Classes that were given are those of every split.
        """
        if self.fixed_classes:
            return self.classes
        rows = [self.rows(split), self.splits.get("train", self.splits[ALL])]
        last = max((int(self.labels[part].max()) for part in rows if len(part)), default=-1)
        return self.classes[: last + 1]


def find_images(path: Path, *, seed: int = 0, test_share: float = 0.2) -> OwnImages:
    """Look what images, splits and classes are at a path, without decoding an image.

    Folders are searched in depth. Names that begin with a dot, and files without the suffix of an
    image format, are passed over; what has such a suffix and is no image is found out when it is
    decoded, and listed. A folder is divided into splits if it has ``train/`` and ``test/``, or one
    of them with folders inside; in it, each folder with images is a class, whatever its name.

    Parameters
    ----------
    path
        The folder or file.
    seed
        Non-negative; decides the random split.
    test_share
        In (0, 1), the share of each class that the random split puts into "test", rounded; of two
        or more images, each part gets at least one.

    Raises
    ------
    AttractorError
        If the path holds no images, a table or an array is not as the module describes it, or an
        argument is out of range.
    """
    if seed < 0:
        raise AttractorError(f"seed must be at least 0, got {seed}")
    if not 0 < test_share < 1:
        raise AttractorError(f"test_share must lie in (0, 1), got {test_share}")
    try:
        path = Path(os.path.realpath(path.expanduser()))
        folder, there = path.is_dir(), path.exists()
    except (OSError, ValueError, RuntimeError) as error:
        raise AttractorError(f"{displayed(path)}: cannot be read ({error})") from None
    suffix = path.suffix.lower()
    if folder:
        found = _in_folder(path)
    elif not there:
        raise AttractorError(f"{displayed(path)}: no such file or folder; give one of images")
    elif suffix in TABLES:
        found = in_table(path)
    elif suffix in ARRAYS:
        found = in_array(path)
    else:
        raise AttractorError(
            f"{displayed(path)}: is no folder, and no file of "
            f"{', '.join(SUFFIXES)}; give one of these"
        )
    return _arranged(found, seed, test_share)


def _arranged(found: Found, seed: int, test_share: float) -> OwnImages:
    """Give classes their numbers, and find the splits or draw them."""
    classes = found.classes
    if classes is None:
        train = {
            label
            for label, split in zip(found.labels, found.splits, strict=True)
            if split == "train"
        } - {""}
        others = set(found.labels) - train - {""}
        classes = (*_in_order(train), *_in_order(others))
    index = {name: place for place, name in enumerate(classes)} | {"": -1}
    labels = np.fromiter(
        (index[label] for label in found.labels), dtype=np.int64, count=len(found.labels)
    )
    splits: dict[str, NDArray[np.int64]] = {}
    given = dict.fromkeys(split for split in found.splits if split)
    if ALL in given:
        raise AttractorError(
            f"{displayed(found.path)}: a split is called {ALL!r}, which is the name of all images; "
            "call it otherwise"
        )
    # With "train" alone there would be nothing to test on.
    seeded = bool(classes) and set(given) <= {"train"}
    if seeded:
        test = _drawn(labels, seed, test_share)
        splits = {"train": np.flatnonzero(~test), "test": np.flatnonzero(test)}
    else:
        names = np.array(found.splits, dtype=object)
        splits = {name: np.flatnonzero(names == name) for name in given}
    splits.setdefault(ALL, np.arange(len(labels)))
    return OwnImages(
        found.path,
        splits,
        labels,
        tuple(map(displayed, classes)),
        found.paths,
        found.unusable,
        found.ignored,
        seeded,
        fixed_classes=found.classes is not None,
    )


def _drawn(labels: NDArray[np.int64], seed: int, share: float) -> NDArray[np.bool_]:
    """Return which images are for testing: of each class the same share, at random."""
    test = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        count = min(max(round(share * len(rows)), 1), len(rows) - 1)
        random = generator(seed, Stream.SUBSET, 1, int(label) + 1)
        test[random.permutation(rows)[:count]] = True
    return test


def _in_order(names: set[str]) -> list[str]:
    """Sort names of classes: by number if all are numbers, else as text, as torchvision does."""
    if all(name.isascii() and name.removeprefix("-").isdecimal() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


# Folders, as text: a Path costs many times as much, and there may be very many images.


def _in_folder(root: Path) -> Found:
    unusable: list[Broken] = []
    top = os.fspath(root)
    folders, beside = _listed(top, unusable)
    inner = {name: _listed(path, unusable)[0] for name, path in folders.items() if _is_split(name)}
    divided = len({name.lower() for name in inner}) == len(_SPLITS) or any(inner.values())
    ignored: list[Broken] = []
    paths: list[str] = []
    labels: list[str] = []
    splits: list[str] = []
    if divided:
        for split in sorted(folders, key=_place_of_split):
            for label, files in _labelled(folders[split], unusable, ignored):
                paths += files
                labels += [label] * len(files)
                splits += [split.lower() if _is_split(split) else split] * len(files)
        ignored += [(displayed(path), "lies beside the folders of the splits") for path in beside]
    else:
        for label, files in _labelled(top, unusable, ignored):
            paths += files
            labels += [label] * len(files)
            splits += [""] * len(files)
    if not paths and not unusable:
        raise AttractorError(
            f"{displayed(root)}: no images in this folder; it should have one sub-folder a class"
        )
    return Found(root, labels, splits, tuple(paths), tuple(dict.fromkeys(unusable)), tuple(ignored))


def _is_split(name: str) -> bool:
    return name.lower() in _SPLITS


def _place_of_split(name: str) -> tuple[int, str]:
    """Order splits: "train" first, as its classes come first, then "test", then the others."""
    return _SPLITS.index(name.lower()) if _is_split(name) else len(_SPLITS), name


def _labelled(
    root: str, unusable: list[Broken], ignored: list[Broken]
) -> list[tuple[str, list[str]]]:
    """Return the images of one sub-folder a class, or those of a folder without any."""
    folders, beside = _listed(root, unusable)
    try:
        here = _identity(root)
    except OSError:  # listed already
        return []
    found = [(name, _below(folder, unusable, (here,))) for name, folder in folders.items()]
    if not any(files for _, files in found):
        return [("", beside)]
    ignored += [(displayed(path), "lies beside the folders of the classes") for path in beside]
    return found


def _below(folder: str, unusable: list[Broken], above: tuple[tuple[int, int], ...]) -> list[str]:
    """Return the images in a folder and below, sorted by folder, then by name."""
    try:
        here = _identity(folder)
    except OSError as error:
        unusable.append((displayed(folder), error.strerror or str(error)))
        return []
    if here in above:  # a symbolic link that leads back
        return []
    folders, files = _listed(folder, unusable)
    for inner in folders.values():
        files += _below(inner, unusable, (*above, here))
    return files


def _identity(folder: str) -> tuple[int, int]:
    """Return what tells a folder from others, whatever it is called."""
    status = Path(folder).stat()
    return status.st_dev, status.st_ino


def _listed(folder: str, unusable: list[Broken]) -> tuple[dict[str, str], list[str]]:
    """Return the folders in a folder, by name, and what has the suffix of an image, in order."""
    folders: dict[str, str] = {}
    files: list[str] = []
    suffixes = image_suffixes()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                if name.startswith("."):
                    continue
                _, dot, suffix = name.rpartition(".")
                if f"{dot}{suffix}".lower() in suffixes:
                    files.append(entry.path)
                elif _is_folder(entry):
                    folders[name] = entry.path
    except OSError as error:
        unusable.append((displayed(folder), error.strerror or str(error)))
    return dict(sorted(folders.items())), sorted(files)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
