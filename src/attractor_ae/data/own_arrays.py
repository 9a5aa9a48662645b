"""An array of own images, with labels, names of classes and splits where there are any.

An array is a ``.npz`` file with ``images``, and with ``labels``, ``classes`` (names that the labels
are indices into) and ``split``, or a ``.npy`` file of images alone. Objects are not read: they
could run code.
"""

import io
import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from attractor_ae._errors import AttractorError
from attractor_ae.data.decoding import displayed
from attractor_ae.data.own_found import Found

ARRAYS = (".npz", ".npy")
"""Suffixes of arrays."""

_CHUNK_BYTES = 1 << 24


def in_array(file: Path) -> Found:
    """Return what an array says of its images, without reading these.

    Raises
    ------
    AttractorError
        If it cannot be read, holds objects, or has another shape or dtype than images, labels,
        names and splits have.
    """
    with _array(file, "images") as (_, shape, dtype, _):
        _check_images(file, shape, dtype)
        count = shape[0]
    none = [""] * count
    if file.suffix.lower() == ".npy":
        return Found(file, none, none)
    values = {name: _whole(file, name) for name in ("labels", "classes", "split")}
    labels, classes, split = values["labels"], values["classes"], values["split"]
    for name, column in (("labels", labels), ("split", split)):
        if column is not None and column.shape != (count,):
            raise AttractorError(
                f"{displayed(file)}: {name} must have shape ({count},), one an image, "
                f"got {column.shape}"
            )
    if split is not None and split.dtype.kind == "S":
        split = np.char.decode(split, "utf-8", "backslashreplace")
    splits = none if split is None else [str(value) for value in split.tolist()]
    if labels is None:
        return Found(file, none, splits)
    if labels.dtype.kind == "U":
        return Found(file, labels.tolist(), splits)
    if labels.dtype.kind not in "iu":
        raise AttractorError(
            f"{displayed(file)}: labels must be whole numbers or text, got {labels.dtype}"
        )
    if classes is None:
        texts = ["" if label == -1 else str(label) for label in labels.tolist()]
        return Found(file, texts, splits)
    names = tuple(str(name) for name in classes.ravel().tolist())
    if len(set(names)) != len(names) or "" in names:
        raise AttractorError(f"{displayed(file)}: classes must be names, each another")
    if not -1 <= labels.min() <= labels.max() < len(names):
        raise AttractorError(
            f"{displayed(file)}: labels must lie in -1..{len(names) - 1}, as there are "
            f"{len(names)} classes, got {labels.min()}..{labels.max()}"
        )
    texts = ["" if label == -1 else names[label] for label in labels.tolist()]
    return Found(file, texts, splits, classes=names)


def array_images(file: Path, rows: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
    """Yield the images at some rows, in chunks.

    Parameters
    ----------
    file
        The array's file.
    rows
        int64 array of shape (n,), ascending.

    Yields
    ------
    ndarray
        uint8 array of shape (k, height, width) or (k, height, width, 3), of any k.

    Raises
    ------
    AttractorError
        If the file is truncated or damaged, or floating point lies outside [0, 1].
    """
    with _array(file, "images") as (data, shape, dtype, fortran_order):
        if fortran_order:  # an image is all over the file
            count = int(np.prod(shape, dtype=object))
            values = np.frombuffer(_exactly(data, count * dtype.itemsize), dtype=dtype)
            yield _eight_bit(values.reshape(shape, order="F")[rows], file, rows)
            return
        each = math.prod(shape[1:]) * dtype.itemsize
        step = max(1, _CHUNK_BYTES // each)
        for start in range(0, shape[0], step):
            count = min(step, shape[0] - start)
            values = np.frombuffer(_exactly(data, count * each), dtype=dtype)
            first, last = np.searchsorted(rows, (start, start + count))
            if first < last:
                here = rows[first:last]
                yield _eight_bit(values.reshape(count, *shape[1:])[here - start], file, here)


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
