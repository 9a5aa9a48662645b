"""Sets that torchvision downloads, verifies and reads, in torchvision's folder layout.

torchvision takes seconds to import, so it is imported only when a split is read. CIFAR-10's batches
are pickled; torchvision reads them after comparing each file with its published checksum.
"""

import gzip
import importlib
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attractor_ae._errors import AttractorError
from attractor_ae.data.image_set import ImageSet, Wanted
from attractor_ae.data.sources import Source, is_there, load_arrays, load_files

Arrays = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Images (n, height, width) or (n, height, width, 3), and labels (n,)."""

Files = tuple[list[Path], NDArray[np.int64], tuple[str, ...]]
"""Paths of n image files, labels of shape (n,), and the names of the classes."""

_KEPT_SIGNS = range(10, 20)  # PROTOCOL section 6
_SIGNS = 43


@dataclass(frozen=True)
class TorchvisionSet(Source):
    """Source of a set that torchvision reads or lists.

    ``folder``: torchvision's root of the set, below the data root; ``parts``: files and folders of
    each split, below ``folder``; ``fetch``: torchvision's classes, with arguments, that download
    all splits; ``read``: function of folder and split that returns images and labels, or paths,
    labels and class names; ``classes``: class names, if ``read`` does not return them.
    """

    name: str
    folder: str
    parts: Mapping[str, tuple[str, ...]]
    fetch: tuple[tuple[str, Mapping[str, Any]], ...]
    read: Callable[[Path, str], Arrays | Files]
    classes: tuple[str, ...] = ()

    def expected(self, split: str, root: Path, factor: str = "") -> tuple[str, ...]:
        """Return the files and folders of a split."""
        return tuple(str(root / self.folder / part) for part in self.parts[split])

    def download(self, root: Path) -> None:
        """Download the files of all splits to the data root, and verify their checksums."""
        fetch(self.fetch, root / self.folder)

    def load(self, split: str, root: Path, wanted: Wanted) -> ImageSet:
        """Return the wanted images of a split."""
        if self.classes:
            files = [Path(place) for place in self.expected(split, root)]
            arrays = partial(self.listing, split, root)
            return load_arrays(self.name, split, arrays, self.classes, wanted, files)
        paths, labels, classes = self.listing(split, root)
        return load_files(self.name, split, paths, labels, classes, wanted)

    def listing(self, split: str, root: Path) -> Any:  # noqa: ANN401
        """Return the result of ``read``; raise an AttractorError if the files are not official."""
        try:
            return self.read(root / self.folder, split)
        except (RuntimeError, OSError, ValueError, KeyError) as error:
            reason, places = " ".join(str(error).split()), self.expected(split, root)
            raise AttractorError(
                f"data set {self.name!r}: files are incomplete or not official ({reason}); remove "
                f"{' and '.join(places[:3])}{' and the other files' if places[3:] else ''}, "
                f"then run: attractor-ae data download {self.name}"
            ) from error


@dataclass(frozen=True)
class IdxFiles(Source):
    """Source of a set in MNIST's four IDX files, each plain or gzipped.

    ``folder``: torchvision's folder of the files, below the data root; ``elsewhere``: other
    folders that may contain them, e.g. that of a distribution's package; ``fetched_by``: the class
    of ``torchvision.datasets`` that downloads them.
    """

    name: str
    folder: str
    classes: tuple[str, ...]
    elsewhere: tuple[Path | str, ...] = ()
    fetched_by: str = "MNIST"

    def expected(self, split: str, root: Path, factor: str = "") -> tuple[str, ...]:
        """Return the expected paths of a split's files, those in the data root first."""
        return tuple(place for folder in self._folders(root) for place in _idx_files(folder, split))

    def missing(self, split: str, root: Path, factor: str = "") -> tuple[str, ...]:
        """Return the files missing in the data root, or nothing if any folder has all files."""
        if self._find(split, root):
            return ()
        files = _idx_files(root / self.folder, split)
        return tuple(place for place, file in files.items() if not file)

    def load(self, split: str, root: Path, wanted: Wanted) -> ImageSet:
        """Return the wanted images of a split."""
        found = self._find(split, root)
        if not found:
            lacking = " and ".join(self.missing(split, root))
            raise AttractorError(f"data set {self.name!r} needs {lacking}")
        read = partial(self._read, *found)
        return load_arrays(self.name, split, read, self.classes, wanted, found)

    def _read(self, images_file: Path, labels_file: Path) -> Arrays:
        images, labels = read_idx(images_file), read_idx(labels_file)
        if images.dtype != np.uint8 or images.ndim != 3 or 0 in images.shape:
            raise AttractorError(
                f"{images_file}: must contain uint8 images of shape (n, height, width), "
                f"got {images.dtype} {images.shape}"
            )
        if labels.dtype != np.uint8 or labels.shape != (len(images),):
            raise AttractorError(
                f"{labels_file}: must contain {len(images)} uint8 labels, one per image of "
                f"{images_file.name}, got {labels.dtype} {labels.shape}"
            )
        if labels.max() >= len(self.classes):
            raise AttractorError(
                f"{labels_file}: label {labels.max()} at index {labels.argmax()}, "
                f"expected 0..{len(self.classes) - 1}"
            )
        return images, labels.astype(np.int64)

    def download(self, root: Path) -> None:
        """Download the four files to the data root with torchvision, and verify their checksums."""
        fetch(((self.fetched_by, {}),), root)

    def _folders(self, root: Path) -> list[Path]:
        return [root / folder for folder in (self.folder, *self.elsewhere)]

    def _find(self, split: str, root: Path) -> tuple[Path, Path] | None:
        """Return the image file and the label file from the first folder that has both."""
        for folder in self._folders(root):
            images, labels = _idx_files(folder, split).values()
            if images and labels:
                return images, labels
        return None


def _idx_files(folder: Path, split: str) -> dict[str, Path | None]:
    """Return the places of images and labels -> the plain or the gzipped file that exists there."""
    prefix = {"train": "train", "test": "t10k"}[split]
    files = [folder / f"{prefix}-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1")]
    of_each = ((file, file.with_name(f"{file.name}.gz")) for file in files)
    return {f"{pair[0]}[.gz]": next(filter(is_there, pair), None) for pair in of_each}


def read_idx(path: Path) -> NDArray[Any]:
    """Read an IDX file, plain or gzipped, with torchvision's reader."""
    mnist = importlib.import_module("torchvision.datasets.mnist")
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
        if not zipped:
            return mnist.read_sn3_pascalvincent_tensor(str(path)).numpy()
        with tempfile.TemporaryDirectory() as folder, gzip.open(path) as file:
            plain = Path(folder) / "idx"
            plain.write_bytes(file.read())
            return mnist.read_sn3_pascalvincent_tensor(str(plain)).numpy()
    # torchvision uses assertions, and short files cause errors of many classes.
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise AttractorError(
            f"{path}: is truncated, damaged or not an IDX file ({reason}); download it again"
        ) from None


def fetch(constructions: tuple[tuple[str, Mapping[str, Any]], ...], folder: Path) -> None:
    """Download sets with torchvision to its root folder, and verify their checksums."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, arguments in constructions:
        _construct(name, folder, **arguments, download=True)


def read_svhn(folder: Path, split: str) -> Arrays:
    """Read SVHN's .mat file of a split; its label 10, the digit 0, becomes 0."""
    found = _construct("SVHN", folder, split=split)
    return found.data.transpose(0, 2, 3, 1), found.labels.astype(np.int64)  # (n, 32, 32, 3)


def read_cifar10(folder: Path, split: str) -> Arrays:
    """Read CIFAR-10's pickled batches, after torchvision has verified their checksums."""
    found = _construct("CIFAR10", folder, train=split == "train")
    return found.data, np.asarray(found.targets, dtype=np.int64)


def _labelled(samples: list[tuple[Path, int]], split: str) -> Files:
    """Relabel images of traffic signs with official numbers; leave out signs of other splits."""
    signs = [sign for sign in range(_SIGNS) if (sign in _KEPT_SIGNS) == (split != "ood")]
    kept = [(path, signs.index(sign)) for path, sign in samples if sign in signs]
    labels = np.array([label for _, label in kept], dtype=np.int64)
    return [path for path, _ in kept], labels, tuple(f"sign {sign}" for sign in signs)


def list_gtsrb(folder: Path, split: str) -> Files:
    """List traffic signs: the classes 10..19, relabelled 0..9, or, as ``"ood"``, the others.

    "ood" contains the other 33 classes of the official test images, in order, relabelled 0..32.
    """
    training = split == "train"
    found = _construct("GTSRB", folder, split="train" if training else "test")
    samples = [(Path(place), sign) for place, sign in found._samples]
    if training:  # torchvision numbers the folders in order; their names are the class numbers
        samples = [(path, int(path.parent.name)) for path, _ in samples]
    return _labelled(samples, split)


def list_gtsrb_png(folder: Path, split: str) -> Files:
    """List traffic signs as `list_gtsrb`, from a folder of PNG files per sign."""
    found = sorted((folder / f"{split}_png").glob("*/*.png"))
    numbers = [(path, path.parent.name) for path in found]
    return _labelled([(path, int(name)) for path, name in numbers if name.isdecimal()], split)


def list_omniglot(folder: Path, split: str) -> Files:
    """List characters: the background alphabets as ``"train"``, the evaluation ones as ``"test"``.

    torchvision lists folders in the order of the file system; here they are sorted, so that the
    first n images of a class are the same on every machine.
    """
    # With Path as the loader, torchvision returns paths instead of decoded images.
    found = _construct("Omniglot", folder, background=split == "train", loader=Path)
    paths = sorted(found[i][0] for i in range(len(found)))
    names = [f"{path.parent.parent.name}/{path.parent.name}" for path in paths]
    classes, labels = np.unique(names, return_inverse=True)
    return paths, labels.astype(np.int64), tuple(str(name) for name in classes)


def list_places365(folder: Path, split: str) -> Files:
    """List images of 256 x 256 pixels; the validation images are used as ``"test"``."""
    part = "train-standard" if split == "train" else "val"
    found = _construct("Places365", folder, split=part, small=True)
    paths = [Path(path) for path, _ in found.imgs]
    by_label = sorted(found.class_to_idx, key=found.class_to_idx.__getitem__)
    # "/a/airfield" and "/a/apartment_building/outdoor" -> "airfield", "apartment_building/outdoor"
    classes = tuple(name.split("/", 2)[-1] for name in by_label)
    return paths, np.asarray(found.targets, dtype=np.int64), classes


def _construct(name: str, folder: Path, **arguments: Any) -> Any:  # noqa: ANN401
    return getattr(importlib.import_module("torchvision.datasets"), name)(folder, **arguments)
