"""Everybody's own images: a folder, a table of paths and labels, or an array.

What may be given as a path:

* a folder with one sub-folder a class, or with such folders as splits (``train/``, ``test/``, and
  others beside them), or of images without labels;
* a table, ``.csv``, ``.tsv`` or ``.parquet``, with the columns ``path``, ``label`` and ``split``,
  of which the last two may be left out; paths start from the folder of the table;
* an array: ``.npz`` with ``images``, and with ``labels``, ``classes`` (names that the labels are
  indices into) and ``split`` where there are any, or ``.npy`` of images alone.

Images stand in the order of their names, or of the table or array. Where no splits are given,
images with labels are divided into "train" and "test" at random, each class by itself, always the
same way for one seed. The split "all" is everything; without labels and splits it is the only one.
"""

import csv
import importlib
import io
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from attractor_ae.data.decoding import ImageFormat, displayed, image_suffixes
from attractor_ae.data.imageset import ImageSet
from attractor_ae.data.prepare import Broken, Item, no_progress, prepare, prepare_arrays
from attractor_ae.errors import AttractorError
from attractor_ae.randomness import Stream, generator

ALL = "all"
"""The split that holds every image."""

_TABLES = (".csv", ".tsv", ".parquet")
_ARRAYS = (".npz", ".npy")
_DELIMITERS = ",;\t|"
_CHUNK_BYTES = 1 << 24


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
    seeded
        Whether the splits "train" and "test" were drawn at random.
    fixed_classes
        Whether the classes were given, not gathered from the labels.
    """

    path: Path
    splits: Mapping[str, NDArray[np.int64]]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    paths: tuple[Path, ...] = ()
    unusable: tuple[Broken, ...] = ()
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

    def items(self, split: str) -> list[Item]:
        """Return the files of a split with their labels; empty for an array."""
        if not self.paths:
            return []
        return [Item(self.paths[row], int(self.labels[row])) for row in self.rows(split)]

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


def load_own(
    path: Path,
    split: str,
    form: ImageFormat,
    *,
    seed: int = 0,
    test_share: float = 0.2,
    cache: Path | None = None,
    max_broken: float = 0.01,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] = no_progress,
) -> ImageSet:
    """Load images from a folder, a table or an array; they are prepared once.

    Parameters
    ----------
    path
        The folder or file.
    split
        One of its splits, e.g. ``"train"``; ``"all"`` for everything.
    form
        Size, channels and crop of the images.
    seed, test_share
        As of :func:`find_images`.
    cache, max_broken, workers, on_progress
        As of :func:`attractor_ae.data.prepare.prepare`.

    Returns
    -------
    ImageSet
        ``name`` is that of the folder, or of the file without its suffix.

    Raises
    ------
    AttractorError
        If the path holds no images or does not have the split, a file is damaged, or too many
        images are broken.
    """
    found = find_images(path, seed=seed, test_share=test_share)
    rows = found.rows(split)
    variant = os.fspath(found.path)
    if found.seeded and split != ALL:
        variant += f"\0{seed} {test_share}"
    classes, shown = found.split_classes(split), displayed(split)
    if found.path.suffix.lower() in _ARRAYS and found.path.is_file():
        return prepare_arrays(
            found.name,
            shown,
            _chosen(found.path, rows),
            found.labels[rows],
            classes,
            form,
            source_files=[found.path],
            variant=variant,
            cache=cache,
            workers=workers,
            on_progress=on_progress,
        )
    return prepare(
        found.name,
        shown,
        found.items(split),
        classes,
        form,
        variant=variant,
        unusable=found.unusable,
        cache=cache,
        max_broken=max_broken,
        workers=workers,
        on_progress=on_progress,
    )


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
    elif suffix in _TABLES:
        found = _in_table(path)
    elif suffix in _ARRAYS:
        found = _in_array(path)
    else:
        raise AttractorError(
            f"{displayed(path)}: is no folder, and no file of "
            f"{', '.join((*_TABLES, *_ARRAYS))}; give one of these"
        )
    return found.arranged(seed, test_share)


@dataclass(frozen=True)
class _Found:
    """Images in their order, each with the names of its class and split; "" for none."""

    path: Path
    labels: Sequence[str]
    splits: Sequence[str]
    paths: tuple[Path, ...] = ()
    unusable: tuple[Broken, ...] = ()
    classes: tuple[str, ...] | None = None

    def arranged(self, seed: int, test_share: float) -> OwnImages:
        classes = self.classes
        if classes is None:
            train = {
                label
                for label, split in zip(self.labels, self.splits, strict=True)
                if split == "train"
            } - {""}
            others = set(self.labels) - train - {""}
            classes = (*_in_order(train), *_in_order(others))
        index = {name: place for place, name in enumerate(classes)} | {"": -1}
        labels = np.fromiter(
            (index[label] for label in self.labels), dtype=np.int64, count=len(self.labels)
        )
        splits: dict[str, NDArray[np.int64]] = {}
        seeded = not any(self.splits) and bool(classes)
        if seeded:
            test = _drawn(labels, seed, test_share)
            splits = {"train": np.flatnonzero(~test), "test": np.flatnonzero(test)}
        else:
            names = np.array(self.splits, dtype=object)
            for name in dict.fromkeys(self.splits):
                if name:
                    splits[name] = np.flatnonzero(names == name)
        splits.setdefault(ALL, np.arange(len(labels)))
        shown = tuple(map(displayed, classes))
        return OwnImages(
            self.path,
            splits,
            labels,
            shown,
            self.paths,
            self.unusable,
            seeded,
            fixed_classes=self.classes is not None,
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


# Folders


def _in_folder(root: Path) -> _Found:
    unusable: list[Broken] = []
    folders, beside = _listed(root, unusable)
    inner = {name: _listed(root / name, unusable)[0] for name in folders if name in _SPLITS}
    divided = len(inner) == len(_SPLITS) or any(inner.values())
    found: list[tuple[Path, str, str]] = []
    if divided:
        first = [name for name in _SPLITS if name in folders]
        for split in (*first, *(name for name in folders if name not in first)):
            found += _labelled(root / split, split, unusable)
        unusable += [(displayed(path), "lies beside the folders of the splits") for path in beside]
    else:
        found = _labelled(root, "", unusable)
    if not found and not unusable:
        raise AttractorError(
            f"{displayed(root)}: no images in this folder; it should have one sub-folder a class"
        )
    return _Found(
        root,
        [label for _, label, _ in found],
        [split for _, _, split in found],
        tuple(path for path, _, _ in found),
        tuple(dict.fromkeys(unusable)),
    )


_SPLITS = ("train", "test")


def _labelled(root: Path, split: str, unusable: list[Broken]) -> list[tuple[Path, str, str]]:
    """Return the images of one sub-folder a class, or those of a folder without any."""
    folders, beside = _listed(root, unusable)
    try:
        status = root.stat()
    except OSError:  # listed already
        return []
    above = ((status.st_dev, status.st_ino),)
    found = [
        (path, name, split) for name in folders for path in _below(root / name, unusable, above)
    ]
    if not found:
        return [(path, "", split) for path in beside]
    unusable += [(displayed(path), "lies beside the folders of the classes") for path in beside]
    return found


def _below(folder: Path, unusable: list[Broken], above: tuple[tuple[int, int], ...]) -> list[Path]:
    """Return the images in a folder and below, sorted by folder, then by name."""
    try:
        status = folder.stat()
    except OSError as error:
        unusable.append((displayed(folder), error.strerror or str(error)))
        return []
    here = status.st_dev, status.st_ino
    if here in above:  # a symbolic link that leads back
        return []
    folders, files = _listed(folder, unusable)
    for name in folders:
        files += _below(folder / name, unusable, (*above, here))
    return files


def _listed(folder: Path, unusable: list[Broken]) -> tuple[list[str], list[Path]]:
    """Return the names of the folders in a folder, and what has the suffix of an image."""
    folders, files = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.name.startswith("."):
                    continue
                if Path(entry.name).suffix.lower() in image_suffixes():
                    files.append(folder / entry.name)
                elif _is_folder(entry):
                    folders.append(entry.name)
    except OSError as error:
        unusable.append((displayed(folder), error.strerror or str(error)))
    return folders, files


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


# Tables


def _in_table(table: Path) -> _Found:
    read = _parquet_rows if table.suffix.lower() == ".parquet" else _csv_rows
    paths, labels, splits = [], [], []
    for place, (path, label, split) in read(table):
        if not path:
            raise AttractorError(f"{displayed(table)}, {place}: the path is empty; give one")
        paths.append(table.parent / path)
        labels.append(label)
        splits.append(split)
    if not paths:
        raise AttractorError(f"{displayed(table)}: has no rows; give one an image")
    return _Found(table, labels, splits, tuple(paths))


def _csv_rows(table: Path) -> Iterator[tuple[str, tuple[str, str, str]]]:
    """Yield where each row is, and its path, label and split."""
    try:
        # Names of files need not be UTF-8: they come through as the system's own do.
        text = table.read_bytes().decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise AttractorError(f"{displayed(table)}: cannot be read ({error.strerror})") from None
    header = text.splitlines()[0] if text.strip() else ""
    names: list[str] = []
    delimiter = ","
    try:
        for delimiter in _DELIMITERS:
            names = [
                name.strip().lower()
                for row in csv.reader([header], delimiter=delimiter)
                for name in row
            ]
            if "path" in names:
                break
        wanted = _columns(table, names)
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        next(rows)
        for row in rows:
            if not row:
                continue
            if len(row) != len(names):
                raise AttractorError(
                    f"{displayed(table)}, line {rows.line_num}: {len(row)} fields, "
                    f"expected {len(names)}; mend the line"
                )
            path, label, split = ("" if i is None else row[i].strip() for i in wanted)
            yield f"line {rows.line_num}", (path, label, split)
    except csv.Error as error:
        raise AttractorError(f"{displayed(table)}: is no table ({error}); mend it") from None


def _parquet_rows(table: Path) -> Iterator[tuple[str, tuple[str, str, str]]]:
    try:
        arrow = importlib.import_module("pyarrow")
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise AttractorError(
            f"{displayed(table)}: to read Parquet, install: pip install pyarrow"
        ) from None
    try:
        with table.open("rb") as file:
            whole = parquet.ParquetFile(file)
            names = [name.strip().lower() for name in whole.schema_arrow.names]
            wanted = _columns(table, names)
            read = whole.read(
                columns=[whole.schema_arrow.names[i] for i in wanted if i is not None]
            )
            columns = iter(read.columns)
            values = [None if i is None else next(columns).to_pylist() for i in wanted]
    except (OSError, arrow.ArrowException, ValueError) as error:
        reason = displayed(" ".join(str(error).split()))[:200]
        raise AttractorError(f"{displayed(table)}: is no Parquet table ({reason})") from None
    paths, labels, splits = values
    for row in range(len(paths or ())):
        path, label, split = (
            "" if column is None else _as_text(column[row]) for column in (paths, labels, splits)
        )
        yield f"row {row}", (path, label, split)


def _as_text(value: object) -> str:
    """Return a cell as text: "" for none, and 3 for the 3.0 that a gap makes of whole numbers."""
    if value is None or value != value:  # NaN
        return ""
    if isinstance(value, bytes):
        return os.fsdecode(value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _columns(table: Path, names: list[str]) -> tuple[int | None, int | None, int | None]:
    if "path" not in names:
        raise AttractorError(
            f"{displayed(table)}: has no column 'path'; its first line should name the columns "
            "path,label or path,label,split"
        )
    path, label, split = (
        names.index(name) if name in names else None for name in ("path", "label", "split")
    )
    return path, label, split


# Arrays


def _in_array(file: Path) -> _Found:
    with _array(file, "images") as (_, shape, dtype, _):
        _check_images(file, shape, dtype)
        count = shape[0]
    none = [""] * count
    if file.suffix.lower() == ".npy":
        return _Found(file, none, none)
    values = {name: _whole(file, name) for name in ("labels", "classes", "split")}
    labels, classes, split = values["labels"], values["classes"], values["split"]
    for name, column in (("labels", labels), ("split", split)):
        if column is not None and column.shape != (count,):
            raise AttractorError(
                f"{displayed(file)}: {name} must have shape ({count},), one an image, "
                f"got {column.shape}"
            )
    splits = none if split is None else [str(value) for value in split.tolist()]
    if labels is None:
        return _Found(file, none, splits)
    if labels.dtype.kind == "U":
        return _Found(file, labels.tolist(), splits)
    if labels.dtype.kind not in "iu":
        raise AttractorError(
            f"{displayed(file)}: labels must be whole numbers or text, got {labels.dtype}"
        )
    if classes is None:
        texts = ["" if label == -1 else str(label) for label in labels.tolist()]
        return _Found(file, texts, splits)
    names = tuple(str(name) for name in classes.ravel().tolist())
    if len(set(names)) != len(names) or "" in names:
        raise AttractorError(f"{displayed(file)}: classes must be names, each another")
    if not -1 <= labels.min() <= labels.max() < len(names):
        raise AttractorError(
            f"{displayed(file)}: labels must lie in -1..{len(names) - 1}, as there are "
            f"{len(names)} classes, got {labels.min()}..{labels.max()}"
        )
    texts = ["" if label == -1 else names[label] for label in labels.tolist()]
    return _Found(file, texts, splits, classes=names)


@contextmanager
def _array(
    file: Path, name: str
) -> Iterator[tuple[io.BufferedIOBase, tuple[int, ...], "np.dtype[Any]", bool]]:
    """Open an array of a .npy or .npz file: its data, shape, dtype, whether in Fortran's order.

    Raises
    ------
    KeyError
        If a .npz file does not have an array of this name.
    """
    where = f"{displayed(file)}: {name}"
    try:
        with file.open("rb") as opened:
            if file.suffix.lower() == ".npy":
                yield opened, *_header(opened, where)
            else:
                with zipfile.ZipFile(opened) as archive:
                    if f"{name}.npy" not in archive.namelist():
                        raise KeyError(name)
                    with archive.open(f"{name}.npy") as member:
                        data = cast("io.BufferedIOBase", member)
                        yield data, *_header(data, where)
    except KeyError:
        if name == "images":
            raise AttractorError(
                f"{displayed(file)}: has no array 'images'; save it with "
                "numpy.savez(file, images=..., labels=...)"
            ) from None
        raise
    except (
        OSError,
        EOFError,
        ValueError,
        SyntaxError,
        NotImplementedError,
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        reason = displayed(" ".join(str(error).split()))[:200]
        raise AttractorError(f"{where} cannot be read ({reason}); save it again") from None


def _header(file: io.BufferedIOBase, where: str) -> tuple[tuple[int, ...], "np.dtype[Any]", bool]:
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran_order, dtype = read(file)
    if dtype.hasobject:
        raise AttractorError(
            f"{where}: holds Python objects, which can run code and are not read; save an array "
            "of numbers or of text"
        )
    return tuple(shape), dtype, bool(fortran_order)


def _whole(file: Path, name: str) -> NDArray[Any] | None:
    """Read an array of a .npz file, or return None if it has none of this name."""
    try:
        with _array(file, name) as (data, shape, dtype, fortran_order):
            count = int(np.prod(shape, dtype=object))
            values = np.frombuffer(_exactly(data, count * dtype.itemsize), dtype=dtype)
            return values.reshape(shape, order="F" if fortran_order else "C")
    except KeyError:
        return None


def _exactly(file: io.BufferedIOBase, count: int) -> bytes:
    data = bytearray()
    while len(data) < count and (part := file.read(min(count - len(data), _CHUNK_BYTES))):
        data += part
    if len(data) < count:
        raise ValueError(f"is truncated: {len(data)} bytes of {count}")
    return bytes(data)


def _check_images(file: Path, shape: tuple[int, ...], dtype: "np.dtype[Any]") -> None:
    if _axis_of_channels(shape) is None or 0 in shape:
        raise AttractorError(
            f"{displayed(file)}: images must have the shape (n, height, width), "
            f"(n, height, width, c) or (n, c, height, width) with c 1 or 3, got {shape}"
        )
    if dtype.kind not in "f" and dtype not in (np.uint8, np.uint16):
        raise AttractorError(
            f"{displayed(file)}: images must be uint8, uint16, or floating point in [0, 1], "
            f"got {dtype}"
        )


def _axis_of_channels(shape: tuple[int, ...]) -> int | None:
    """Return the axis of channels, 0 for images without one, None if this is no shape of images.

    Where both ends could be channels, e.g. (n, 3, 64, 3), the last one is taken.
    """
    if len(shape) == 3:
        return 0
    if len(shape) == 4:
        return next((axis for axis in (3, 1) if shape[axis] in (1, 3)), None)
    return None


def _chosen(file: Path, rows: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
    """Yield the images at ``rows``, which ascend, as uint8 with channels last, in chunks."""
    with _array(file, "images") as (data, shape, dtype, fortran_order):
        if fortran_order:  # an image is all over the file
            count = int(np.prod(shape, dtype=object))
            values = np.frombuffer(_exactly(data, count * dtype.itemsize), dtype=dtype)
            yield _eight_bit(values.reshape(shape, order="F")[rows], file, rows)
            return
        each = int(np.prod(shape[1:])) * dtype.itemsize
        step = max(1, _CHUNK_BYTES // each)
        for start in range(0, shape[0], step):
            count = min(step, shape[0] - start)
            values = np.frombuffer(_exactly(data, count * each), dtype=dtype)
            first, last = np.searchsorted(rows, (start, start + count))
            if first < last:
                here = rows[first:last]
                yield _eight_bit(values.reshape(count, *shape[1:])[here - start], file, here)


def _eight_bit(values: NDArray[Any], file: Path, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Scale images to 0..255 and put channels last, or leave them out if there is one."""
    if values.dtype.kind == "f":
        within = ((values >= 0) & (values <= 1)).reshape(len(values), -1).all(axis=1)
        if not within.all():  # NaN is not within either
            wrong = int(np.argmin(within))
            raise AttractorError(
                f"{displayed(file)}: image {rows[wrong]} has values {values[wrong].min():g}.."
                f"{values[wrong].max():g}, floating point must lie in [0, 1]; divide it, or save "
                "uint8"
            )
        values = np.round(values * np.asarray(255, dtype=values.dtype))
    elif values.dtype.itemsize == 2:
        values = (values.astype(np.uint32) + 128) // 257
    values = values.astype(np.uint8)
    axis = _axis_of_channels(values.shape)
    if axis == 1:
        values = np.moveaxis(values, 1, 3)
    if axis and values.shape[3] == 1:
        values = values[..., 0]
    return np.ascontiguousarray(values)
