"""IDX, the file format of MNIST and the sets that follow it.

A file is two zero bytes, a byte for the data type, a byte for the number of dimensions, each
dimension as a big-endian 32-bit number, and the values, big-endian, in C order; or all that
gzipped.
"""

import gzip
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attractor_ae._errors import AttractorError
from attractor_ae.data.imageset import ImageSet
from attractor_ae.data.source import Wanted, load_arrays
from attractor_ae.data.torchvision_sets import fetch

DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
"""The data types of IDX: the third byte of a file, and what it means to NumPy."""

_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 1 << 24
_MOST_DIMENSIONS = 32  # what every NumPy can hold


def read_idx(path: Path) -> NDArray[Any]:
    """Read an IDX file, plain or gzipped.

    Whether a file is gzipped is told by its first bytes, not by its name. Memory is taken as data
    is read, never on the word of the header.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    ndarray
        Array of the file's shape and type (uint8, int8, int16, int32, float32 or float64), in
        native byte order, C-contiguous and writable.

    Raises
    ------
    AttractorError
        If the file cannot be read, is no IDX file, or has fewer or more bytes than its header
        says.
    """
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == _GZIP_MAGIC
            file.seek(0)
            if not zipped:
                return _read(file, path)
            with gzip.open(file) as unzipped:
                return _read(unzipped, path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise AttractorError(f"{path} is truncated or damaged ({error}); get it again") from error
    except OSError as error:
        raise AttractorError(f"cannot read {path}: {error.strerror or error}") from error


def _read(file: BufferedIOBase, path: Path) -> NDArray[Any]:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in DTYPES:
        raise AttractorError(f"{path} is not an IDX file: it starts with {magic!r}; get it again")
    if not 1 <= magic[3] <= _MOST_DIMENSIONS:
        raise AttractorError(
            f"{path} is not an IDX file: {magic[3]} dimensions, expected 1..{_MOST_DIMENSIONS}"
        )
    header = file.read(4 * magic[3])
    if len(header) < 4 * magic[3]:
        raise AttractorError(f"{path} is truncated: it ends within its header; get it again")
    shape = tuple(int(length) for length in np.frombuffer(header, dtype=">u4"))
    dtype = np.dtype(DTYPES[magic[2]])
    expected = math.prod(shape) * dtype.itemsize
    data = bytearray()
    for chunk in _chunks(file, expected + 1):  # one more, to notice trailing bytes
        data += chunk
    if len(data) != expected:
        wrong = "is truncated" if len(data) < expected else "has trailing bytes"
        found = len(data) if len(data) < expected else "more"
        raise AttractorError(
            f"{path} {wrong}: shape {shape} of {dtype.newbyteorder('=')} needs {expected} bytes "
            f"of data, found {found}; get it again"
        )
    try:
        values = np.frombuffer(data, dtype=dtype).reshape(shape)
    except ValueError as error:  # no values, but other dimensions beyond all memory
        raise AttractorError(f"{path} is not an IDX file: shape {shape}; get it again") from error
    return values.astype(dtype.newbyteorder("="))


def _chunks(file: BufferedIOBase, limit: int) -> Iterator[bytes]:
    """Yield at most ``limit`` bytes of a file."""
    while limit > 0 and (chunk := file.read(min(limit, _CHUNK))):
        limit -= len(chunk)
        yield chunk


@dataclass(frozen=True)
class IdxFiles:
    """Source of a set in MNIST's four IDX files, each plain or gzipped.

    Attributes
    ----------
    name
        Name of the set in the catalogue.
    folder
        Where torchvision keeps its files, below the data root, e.g. ``"MNIST/raw"``.
    classes
        Names of the classes.
    elsewhere
        Folders that are searched when the data root does not have the files, e.g. where a
        distribution's package puts them.
    fetched_by
        Name of the class in ``torchvision.datasets`` that fetches the files.
    """

    name: str
    folder: str
    classes: tuple[str, ...]
    elsewhere: tuple[Path, ...] = ()
    fetched_by: str = "MNIST"

    def expected(self, split: str, root: Path, factor: str = "") -> tuple[str, ...]:
        """Return where the files of a split are expected, the data root first."""
        return tuple(
            f"{folder / file}[.gz]"
            for folder in (root / self.folder, *self.elsewhere)
            for file in _files(split)
        )

    def missing(self, split: str, root: Path, factor: str = "") -> tuple[str, ...]:
        """Return the files that the data root lacks, or nothing if a folder has them all."""
        if self._find(split, root):
            return ()
        folder = root / self.folder
        return tuple(f"{folder / file}[.gz]" for file in _files(split) if not _either(folder, file))

    def load(self, split: str, root: Path, wanted: Wanted) -> ImageSet:
        """Return the wanted images of a split.

        Raises
        ------
        AttractorError
            If files are missing or damaged, or do not hold grey images and their labels.
        """
        found = self._find(split, root)
        if not found:
            raise AttractorError(
                f"data set {self.name!r} needs {' and '.join(self.missing(split, root))}"
            )
        return load_arrays(
            self.name, split, lambda: self._read(*found), self.classes, wanted, found
        )

    def _read(
        self, images_file: Path, labels_file: Path
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return images (n, height, width) and labels (n,) that belong together."""
        images, labels = read_idx(images_file), read_idx(labels_file)
        if images.dtype != np.uint8 or images.ndim != 3 or 0 in images.shape:
            raise AttractorError(
                f"{images_file} should hold uint8 images of shape (n, height, width), "
                f"found {images.dtype} {images.shape}"
            )
        if labels.dtype != np.uint8 or labels.shape != (len(images),):
            raise AttractorError(
                f"{labels_file} should hold {len(images)} uint8 labels, one for each image of "
                f"{images_file.name}, found {labels.dtype} {labels.shape}"
            )
        if labels.max() >= len(self.classes):
            raise AttractorError(
                f"{labels_file}: label {labels.max()} at index {labels.argmax()}, "
                f"expected 0..{len(self.classes) - 1}"
            )
        return images, labels.astype(np.int64)

    def download(self, root: Path) -> None:
        """Fetch the four files below the data root with torchvision, and check their sums."""
        fetch(((self.fetched_by, {}),), root)

    def _find(self, split: str, root: Path) -> tuple[Path, Path] | None:
        """Return the images' and the labels' file from the first folder that has both."""
        images, labels = _files(split)
        for folder in (root / self.folder, *self.elsewhere):
            found = _either(folder, images), _either(folder, labels)
            if found[0] and found[1]:
                return found[0], found[1]
        return None


def _files(split: str) -> tuple[str, str]:
    prefix = {"train": "train", "test": "t10k"}[split]
    return f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"


def _either(folder: Path, file: str) -> Path | None:
    """Return the plain or the gzipped file, whichever is there and can be reached."""
    for path in (folder / file, folder / f"{file}.gz"):
        try:
            if path.is_file():
                return path
        except OSError:  # a folder that may not be searched
            continue
    return None
