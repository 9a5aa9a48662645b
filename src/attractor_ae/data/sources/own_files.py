"""Your own images, listed in a table or stored in an array.

A table is a ``.csv``, ``.tsv`` or ``.parquet`` file with the columns ``path``, ``label`` and
``split``, of which the last two are optional. Paths are relative to the folder of the table. An
array is a ``.npz`` file with ``images`` and optionally ``labels``, ``classes`` (names that the
labels are indices into) and ``split``, or a ``.npy`` file of images. Arrays of Python objects
are refused.
"""

import codecs
import csv
import io
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
from numpy.typing import NDArray

from attractor_ae._errors import AttractorError, optional_package
from attractor_ae.data.cache import Broken
from attractor_ae.data.decode import displayed

TABLES = (".csv", ".tsv", ".parquet")
ARRAYS = (".npz", ".npy")

_COLUMNS = ("path", "label", "split")
_DELIMITERS = ",;\t|"
_BYTES = re.compile("[\udc80-\udcff]")  # that are not UTF-8

_SPLITS = {"training": "train", "testing": "test", "valid": "val", "validation": "val"}
_SPLITS |= {name: name for name in _SPLITS.values()}

# What pandas writes and reads as missing, in its spellings ("none" is a class), and -1.
_NO_LABEL = {"", "-1", "-1.0", "-1.#IND", "-1.#QNAN", "1.#IND", "1.#QNAN", "#N/A", "#NA", "N/A"}
_NO_LABEL |= {"n/a", "NA", "<NA>", "NULL", "null", "NaN", "nan", "-NaN", "-nan", "NaT", "None"}


@dataclass(frozen=True, eq=False)
class Found:
    """Images of a folder, a table or an array, in their order.

    ``labels`` and ``splits`` are names, "" for none. ``paths`` are text, to save memory; empty for
    an array, which is ``images``. ``unusable``: files that cannot be used, and ``ignored``: images
    outside the folders of classes or splits, each with the reason; ``notes``: lines for the user.
    """

    path: Path
    labels: Sequence[str]
    splits: Sequence[str]
    paths: tuple[str, ...] = ()
    images: NDArray[Any] | None = None
    unusable: tuple[Broken, ...] = ()
    ignored: tuple[Broken, ...] = ()
    classes: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


def split_name(text: str) -> str:
    """Return the name of a split: "train", "test" or "val" for their spellings, else the text.

    Examples:
        >>> split_name("Training"), split_name("valid"), split_name("val_256")
        ('train', 'val', 'val_256')
    """
    return _SPLITS.get(text.strip().lower(), text.strip())


def is_split(text: str) -> bool:
    """Return whether a text is a spelling of "train", "test" or "val"."""
    return text.lower() in _SPLITS


def _label(text: str) -> str:
    """Return a label without blanks around it, "" for a missing one."""
    return "" if text.strip() in _NO_LABEL else text.strip()


def in_table(table: Path) -> Found:
    """Return the images of a table; a repeated row with a label counts once."""
    folder = os.fspath(table.parent)
    read = _parquet_rows if table.suffix.lower() == ".parquet" else _csv_rows
    where = displayed(table)
    rows: list[tuple[str, str, str]] = []
    labelled: dict[str, tuple[str, str, str]] = {}
    repeated = 0
    for place, path, *named in read(table):
        if not path:
            raise AttractorError(f"{where}, {place}: the path is empty; give one")
        row = (_local(folder, path), _label(named[0]), split_name(named[1]))
        first = labelled.setdefault(os.path.normpath(row[0]), row) if row[1] else row
        if first is row:
            rows.append(row)
            continue
        repeated += 1  # it could be both trained on and tested on
        if first[1:] != row[1:]:
            raise AttractorError(
                f"{where}, {place}: {displayed(path)} has the label {row[1]!r} and split "
                f"{row[2]!r} here, but {first[1]!r} and {first[2]!r} before; give it one row"
            )
    if not rows:
        raise AttractorError(f"{where}: has no rows; give one per image")
    paths, labels, splits = zip(*rows, strict=True)
    notes = (f"{where}: {repeated} repeated rows count once",) if repeated else ()
    return Found(table, labels, splits, paths, notes=notes)


def _local(folder: str, path: str) -> str:
    """Return a path of a table, which may be a file:// URL, or have the separators of Windows."""
    if path.startswith("file://"):
        path = url2pathname(urlsplit(path).path)
    joined = os.path.join(folder, path)  # noqa: PTH118 - text, as there may be many
    if "\\" in path and os.sep == "/" and not os.path.lexists(joined):
        return os.path.join(folder, path.replace("\\", "/"))  # noqa: PTH118
    return joined


def _csv_rows(table: Path) -> Iterator[tuple[str, str, str, str]]:
    """Yield the line number of each row, its path, label and split; "" for none."""
    try:
        data = table.read_bytes()
    except OSError as error:
        raise AttractorError(f"{displayed(table)}: cannot be read ({error.strerror})") from None
    if data[:2] in {codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE}:  # as spreadsheets write it
        whole = data.decode("utf-16", "replace")
    else:
        # File names need not be UTF-8; they are decoded as Python decodes the system's.
        whole = data.decode("utf-8-sig", "surrogateescape")
    # Spreadsheets write a line with the separator.
    text = re.sub(r"\A[\r\n]*(sep=.[\r\n]+)?", "", whole, flags=re.IGNORECASE)
    above = len(whole[: len(whole) - len(text)].splitlines())
    header = text.splitlines()[0] if text.strip() else ""

    def names_in(delimiter: str) -> list[str]:
        (fields,) = csv.reader([header], delimiter=delimiter)
        return [name.strip().lower() for name in fields]

    try:
        delimiter = next((d for d in _DELIMITERS if "path" in names_in(d)), ",")
        wanted = _columns(table, names := names_in(delimiter))
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        next(rows)
        for row in rows:
            if not row:
                continue
            if len(row) != len(names):
                raise AttractorError(
                    f"{displayed(table)}, line {above + rows.line_num}: {len(row)} fields, "
                    f"expected {len(names)}; repair the line"
                )
            path, label, split = ("" if i is None else row[i].strip() for i in wanted)
            # Bytes in a path may be those of the file; labels alone are of another encoding.
            if _BYTES.search(label + split) and not _BYTES.search(path):
                raise AttractorError(
                    f"{displayed(table)}, line {above + rows.line_num}: {displayed(label + split)} "
                    "is not UTF-8; save the table as CSV in UTF-8"
                )
            yield f"line {above + rows.line_num}", path, label, split
    except csv.Error as error:
        raise AttractorError(f"{displayed(table)}: is not a table ({error}); repair it") from None


def _parquet_rows(table: Path) -> Iterator[tuple[str, str, str, str]]:
    user = f"{displayed(table)}: a Parquet table"
    arrow, parquet = (
        optional_package(name, "parquet", user) for name in ("pyarrow", "pyarrow.parquet")
    )
    try:
        read = parquet.read_table(table, partitioning=None)
        wanted = _columns(table, [name.strip().lower() for name in read.column_names])
        if nested := [
            read.column_names[i]
            for i in wanted
            if i is not None and arrow.types.is_nested(read.column(i).type)
        ]:
            raise AttractorError(
                f"{displayed(table)}: the column {nested[0]!r} has lists; give one text or number "
                "per row"
            )
        columns = [None if i is None else read.column(i).to_pylist() for i in wanted]
    except (OSError, arrow.ArrowException, ValueError) as error:
        reason = displayed(" ".join(str(error).split()))[:200]
        raise AttractorError(
            f"{displayed(table)}: is not a Parquet table ({reason}); repair it"
        ) from None
    for row in range(read.num_rows):
        path, label, split = ("" if c is None else _as_text(c[row]) for c in columns)
        yield f"row {row}", path, label, split


def _as_text(value: object) -> str:
    """Return a cell as text: "" if empty, and "3" for 3.0, as gaps turn integers into floats."""
    if value is None or value != value:  # NaN
        return ""
    if isinstance(value, bytes):
        return os.fsdecode(value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _columns(table: Path, names: list[str]) -> tuple[int | None, ...]:
    if "path" not in names:
        raise AttractorError(
            f"{displayed(table)}: has no column 'path'; its first line must name the columns "
            "path,label or path,label,split"
        )
    for name in _COLUMNS:
        if names.count(name) > 1:
            raise AttractorError(f"{displayed(table)}: has several columns {name!r}; keep one")
    return tuple(names.index(name) if name in names else None for name in _COLUMNS)


def in_array(file: Path) -> Found:
    """Return the images of an array with their labels, classes and splits."""
    where = displayed(file)
    arrays: dict[str, NDArray[Any]] = {}
    try:
        if file.suffix.lower() == ".npy":
            with np.errstate(over="ignore"):  # a shape that no file can have
                arrays["images"] = np.load(file, mmap_mode="r", allow_pickle=False)
        else:  # opened here, as NumPy leaves a damaged archive open
            with file.open("rb") as opened, np.load(opened, allow_pickle=False) as loaded:
                names = ("images", "labels", "classes", "split")
                arrays = {name: loaded[name] for name in names if name in loaded.files}
            for name, array in arrays.items():
                if not isinstance(array, np.ndarray):  # another file of the archive
                    raise TypeError(f"{name} is not an array")
    # A damaged file makes NumPy and zipfile fail in many ways.
    except Exception as error:
        reason = displayed(" ".join(str(error).split()))[:200]
        if "contains pickled" in reason:  # NumPy takes every other file for Python objects
            reason = "it is not a file of NumPy, or consists of Python objects"
        elif "allow_pickle" in reason or "Python objects" in reason:
            reason = "it contains Python objects, which can run code and are not read"
        raise AttractorError(f"{where}: cannot be read ({reason}); save it again") from None

    def check(good: bool, problem: str) -> None:
        if not good:
            raise AttractorError(f"{where}: {problem}")

    saved = "save it with numpy.savez(file, images=..., labels=...)"
    check("images" in arrays, f"has no array 'images'; {saved}")
    images = arrays["images"]
    shapes = "(n, height, width), (n, height, width, c) or (n, c, height, width) with c 1 or 3"
    good = _channel_axis(images.shape) is not None and 0 not in images.shape
    check(good, f"images must have the shape {shapes}, got {images.shape}")
    good = images.dtype.kind == "f" or images.dtype in (np.uint8, np.uint16)
    kinds = "uint8, uint16, or floating point in [0, 1]"
    check(good, f"images must be {kinds}, got {images.dtype}")
    count = len(images)
    for name in ("labels", "split"):
        shape = arrays[name].shape if name in arrays else (count,)
        check(shape == (count,), f"{name} must have shape ({count},), got {shape}")
    splits = [
        split_name(v.decode(errors="backslashreplace") if isinstance(v, bytes) else str(v))
        for v in arrays.get("split", np.full(count, "")).tolist()
    ]
    labels, classes = _labels_of(where, arrays.get("labels"), arrays.get("classes"), count)
    return Found(file, labels, splits, images=images, classes=classes)


def _labels_of(
    where: str, labels: NDArray[Any] | None, classes: NDArray[Any] | None, count: int
) -> tuple[list[str], tuple[str, ...] | None]:
    """Return the class name of each image, and all class names if they are given."""
    if labels is None:
        return [""] * count, None
    if labels.dtype.kind == "U":
        return list(map(_label, labels.tolist())), None
    if labels.dtype.kind not in "iu":
        raise AttractorError(f"{where}: labels must be integers or text, got {labels.dtype}")
    if classes is None:
        return ["" if label == -1 else str(label) for label in labels.tolist()], None
    names = tuple(str(name) for name in classes.ravel().tolist())
    if len(set(names)) != len(names) or "" in names:
        raise AttractorError(f"{where}: classes must be distinct names")
    if not -1 <= labels.min() <= labels.max() < len(names):
        raise AttractorError(
            f"{where}: labels must be in -1..{len(names) - 1}, got {labels.min()}..{labels.max()}"
        )
    return ["" if label == -1 else names[label] for label in labels.tolist()], names


def array_images(found: Found, rows: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
    """Yield the images at ``rows`` of an array, uint8, (height, width) or (height, width, 3)."""
    assert found.images is not None
    axis = _channel_axis(found.images.shape)
    for row in rows:
        values = np.asarray(found.images[row])
        if values.dtype.kind == "f":
            if not ((values >= 0) & (values <= 1)).all():  # also refuses NaN
                shown = f"values {values.min()}..{values.max()}"
                shown = shown if np.isfinite(values).all() else "NaN or infinite values"
                raise AttractorError(
                    f"{displayed(found.path)}: image {row} has {shown}, floats must be in [0, 1]; "
                    "rescale them, or save uint8"
                )
            values = np.round(values * np.asarray(255, dtype=values.dtype))
        elif values.dtype.itemsize == 2:
            values = (values.astype(np.uint32) + 128) // 257
        if axis == 1:
            values = np.moveaxis(values, 0, 2)
        if axis and values.shape[2] == 1:
            values = values[..., 0]
        yield np.ascontiguousarray(values.astype(np.uint8))


def _channel_axis(shape: tuple[int, ...]) -> int | None:
    """Return the channel axis: 0 for images without one, None if the shape is not of images.

    If two axes could be channels, e.g. in (n, 3, 64, 3), the last one is returned.
    """
    if len(shape) == 3:
        return 0
    if len(shape) == 4:
        return next((axis for axis in (3, 1) if shape[axis] in (1, 3)), None)
    return None
