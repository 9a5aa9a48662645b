"""Your own images: a folder, a table of paths and labels, or an array.

A folder contains one sub-folder per class, or folders of splits (``train/``, ``test/``, ``val/``
and others) that do, or images without labels; `own_files` reads tables and arrays. Images are in
the order of their names, or of the table or array. If no splits are given, labelled images are
divided into "train" and "test" at random, class by class and reproducibly for a seed. The split
"all" contains all images; without labels and splits it is the only one.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attractor_ae._errors import AttractorError
from attractor_ae._files import user_path
from attractor_ae._random import Stream, generator
from attractor_ae.data.cache import Broken, prepare
from attractor_ae.data.decode import displayed, is_text
from attractor_ae.data.image_set import ImageSet, Wanted, drawn_rows
from attractor_ae.data.info import ALL, DatasetInfo, SplitInfo
from attractor_ae.data.sources.own_files import (
    ARRAYS,
    TABLES,
    Found,
    array_images,
    in_array,
    in_table,
    is_split,
    split_name,
)
from attractor_ae.data.walk import walk

SUFFIXES = (*TABLES, *ARRAYS)
"""Suffixes of files that contain or list images."""

_TEST_FRACTION = 0.2


@dataclass(frozen=True, eq=False)
class OwnImages:
    """Source of your own images.

    ``splits``: indices of the images of each split; ``labels``: labels of all images, -1 if there
    is none; ``classes``: names of all classes, those of "train" first; ``seed``: seed of random
    splits, None if the splits were given.
    """

    found: Found
    splits: Mapping[str, NDArray[np.int64]]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    seed: int | None = None

    @property
    def name(self) -> str:
        """Name of the set: name of the folder, or of the file without its suffix."""
        path = self.found.path
        return displayed(path.name if path.is_dir() else path.stem) or "images"

    def split_classes(self, split: str) -> tuple[str, ...]:
        """Return the classes up to the last one of the split or "train"; all if they were given.

        Classes that only another split has, e.g. unknown objects, are thus not listed.
        """
        if self.found.classes is not None:
            return self.classes
        rows = [self.splits[split], self.splits.get("train", self.splits[ALL])]
        last = max((int(self.labels[part].max()) for part in rows if len(part)), default=-1)
        return self.classes[: last + 1]

    def expected(self, split: str, root: Path, factor: str = "") -> tuple[str, ...]:
        """Return the folder or file."""
        return (displayed(self.found.path),)

    def missing(self, split: str, root: Path, factor: str = "") -> tuple[str, ...]:
        """Return nothing: the images were found."""
        return ()

    def load(self, split: str, root: Path, wanted: Wanted) -> ImageSet:
        """Return the wanted images of a split."""
        found, of_split = self.found, self.splits[split]
        rows = of_split[wanted.rows(self.labels[of_split])]
        if len(rows) < len(of_split):
            how = "the first" if wanted.subset_seed is None else "a random"
            wanted.reporter.note(
                f"{displayed(found.path)}, {split}: {len(rows)} of {len(of_split)} images "
                f"are used, {how} {wanted.per_class} per class "
                "(to use all, set dataset.nbr_of_samples_per_class=-1)"
            )
        for line in found.notes:
            wanted.reporter.note(line)
        labels = self.labels[rows]
        if self.classes and (unlabelled := int((self.labels[of_split] < 0).sum())):
            wanted.reporter.note(
                f"{displayed(found.path)}, {split}: {unlabelled} of {len(of_split)} images have no "
                "label"
            )
        files = [found.paths[row] for row in rows.tolist()] if found.paths else [found.path]
        seeded = "" if self.seed is None or split == ALL else str(self.seed)
        key = (labels.tobytes(), os.fspath(found.path), wanted.selection, seeded)

        def read() -> tuple[Iterable[object], NDArray[np.int64]]:
            return files if found.images is None else array_images(found, rows), labels

        more = {"key": key, "wanted": wanted, "unusable": found.unusable, "ignored": found.ignored}
        return prepare(self.name, displayed(split), files, read, self.split_classes(split), **more)


def own_info(name: str, path: Path, *, seed: int = 0) -> DatasetInfo:
    """Describe your own images under a name; arguments and errors as for `find_images`."""
    source = find_images(path, seed=seed)
    splits = {
        split: SplitInfo(len(rows), len(source.split_classes(split)))
        for split, rows in source.splits.items()
    }
    # The test split is one that is not trained on, or the only one of unlabelled images.
    others = [split for split in splits if split not in {"train", ALL}]
    test = "test" if "test" in splits else next(iter(others or splits))
    return DatasetInfo(
        name=displayed(name),
        title="your own images",
        kind="own",
        splits=splits,
        augmentation="natural",  # assumed to be photographs
        source=source,
        obtain="provide the files yourself",
        licence="your own",
        citation="",
        homepage="",
        test_split=test,
        out_split=test if source.seed is None else ALL,
        per_class=-1,
    )


def find_images(path: Path, *, seed: int = 0) -> OwnImages:
    """Find the images, splits and classes at a path, without decoding an image.

    Folders are searched recursively, without hidden ones, run folders and other results. Files
    without the suffix of an image are recognised by their content. A folder is divided into splits
    if it has two of ``train/``, ``test/`` and ``val/``, or one of them with folders inside
    (``training``, ``testing``, ``valid`` and ``validation`` are the same, in upper or lower case);
    in a split, each folder with images is a class. ``seed`` determines the random split, which puts
    a fifth of each class into "test".
    """
    if seed < 0:
        raise AttractorError(f"seed must be at least 0, got {seed}")
    try:
        path = Path(os.path.realpath(user_path(path)))
        folder, there = path.is_dir(), path.exists()
    except (OSError, ValueError, RuntimeError) as error:
        raise AttractorError(f"{displayed(path)}: cannot be read ({error})") from None
    suffix = path.suffix.lower()
    if folder:
        found = _in_folder(path)
    elif not there:
        raise AttractorError(f"{displayed(path)}: no such file or folder; give the path of images")
    elif suffix in TABLES:
        found = in_table(path)
    elif suffix in ARRAYS:
        found = in_array(path)
    else:
        raise AttractorError(
            f"{displayed(path)}: is neither a folder nor a file ending in {', '.join(SUFFIXES)}"
        )
    return _arranged(found, seed)


def _arranged(found: Found, seed: int) -> OwnImages:
    """Number the classes, and use the given splits or draw random ones."""
    classes = found.classes
    if classes is None:
        pairs = zip(found.labels, found.splits, strict=True)
        train = {label for label, split in pairs if split == "train"} - {""}
        others = set(found.labels) - train - {""}
        classes = (*_in_order(train), *_in_order(others))
    index = {name: place for place, name in enumerate(classes)} | {"": -1}
    labels = np.array([index[label] for label in found.labels], dtype=np.int64)
    given = dict.fromkeys(split for split in found.splits if split)
    if ALL in given:
        raise AttractorError(
            f"{displayed(found.path)}: a split is named {ALL!r}, which is reserved for all images; "
            "rename it"
        )
    # With only "train" there would be no test images.
    seeded = bool(classes) and set(given) <= {"train"}
    if seeded:
        test = drawn_rows(
            labels,
            lambda count: min(max(round(_TEST_FRACTION * count), 1), count - 1),
            lambda label: generator(seed, Stream.SUBSET, 1, label + 1),
        )
        splits = {"train": np.setdiff1d(np.arange(len(labels)), test), "test": test}
    else:
        names = np.array(found.splits, dtype=object)
        splits = {name: np.flatnonzero(names == name) for name in given}
    splits.setdefault(ALL, np.arange(len(labels)))
    shown = tuple(map(displayed, classes))
    return OwnImages(found, splits, labels, shown, seed if seeded else None)


def _in_order(names: set[str]) -> list[str]:
    """Sort class names as numbers if all are integers, else as text, as torchvision does."""
    if all(name.isascii() and name.removeprefix("-").isdecimal() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def _in_folder(root: Path) -> Found:
    unusable: list[Broken] = []
    ignored: list[Broken] = []
    hidden: list[str] = []
    nested: list[tuple[str, ...]] = []
    images: list[tuple[tuple[str, ...], str]] = []
    for found in walk(os.fspath(root)):
        nested += [found.parts] if found.parts else []
        images += [(found.parts, path) for path in found.images]
        unusable += [(displayed(path), reason) for path, reason in found.unusable]
        ignored += [(displayed(path), reason) for path, reason in found.ignored]
        hidden += found.hidden
        strange = [path for path in found.others if not is_text(path)]
        if strange and not (found.images or found.unusable or found.ignored):
            # E.g. a class of medical images or arrays, which would vanish without a word.
            example = displayed(Path(strange[0]).name)
            reason = f"has {len(strange)} files but no image that is read, e.g. {example}"
            ignored.append((displayed(found.folder), reason))
    if not images and not unusable:
        reason = " {}: {};".format(*ignored[0]) if ignored else ""
        raise AttractorError(
            f"{displayed(root)}: no images in this folder;{reason} it must have one sub-folder per "
            "class"
        )
    several = len({split_name(folders[0]) for folders in nested if is_split(folders[0])}) > 1
    divided = several or any(is_split(folders[0]) for folders in nested if len(folders) == 2)
    depth = 1 if divided else 0  # number of folders above those of the classes
    with_classes = {folders[:depth] for folders, _ in images if len(folders) > depth}
    rows = []
    for folders, path in images:
        if len(folders) < depth:
            ignored.append((displayed(path), "is not in a folder of a split"))
        elif len(folders) == depth and folders in with_classes:
            ignored.append((displayed(path), "is not in a folder of a class"))
        else:
            split = split_name(folders[0]) if divided else ""
            label = folders[depth] if len(folders) > depth else ""
            rows.append((split, label, path))
    # "train" first, as its classes come first, then "test", then the others.
    rows.sort(key=lambda row: (row[0] != "train", row[0] != "test", row[0]))
    splits, labels, paths = zip(*rows, strict=True) if rows else ((), (), ())
    broken, others = tuple(dict.fromkeys(unusable)), tuple(ignored)
    found = {folders[: depth + 1] for folders, _ in images}
    bare = {folders for folders in nested if len(folders) == depth + 1} - found
    empty = [os.fspath(root.joinpath(*folders)) for folders in bare]
    notes = _note("hidden folders are not read", hidden)
    notes += _note("folders without images are not classes", empty)
    return Found(root, labels, splits, paths, None, broken, others, notes=notes)


def _note(what: str, paths: list[str]) -> tuple[str, ...]:
    if not paths:
        return ()
    others = f" and {len(paths) - 1} others" if paths[1:] else ""
    return (f"{what}: {displayed(min(paths))}{others}",)
