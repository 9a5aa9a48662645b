"""Cache of prepared images, which are decoded once and memory-mapped afterwards.

CACHE/prepared/NAME/KEY/ contains images.npy, labels.npy and contents.json. KEY is the SHA-256 of
the listing of the source files (path, size, times, inode) and of everything else that the images
depend on. A folder is written under a temporary name and renamed, so it is either complete or
missing. Nothing is pickled.
"""

import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import Image
from platformdirs import user_cache_path

from attractor_ae._errors import AttractorError
from attractor_ae._files import (
    file_name,
    flush_to_disk,
    remove_leftovers,
    temporary_folder,
    user_path,
)
from attractor_ae.data.decode import (
    ImageFormat,
    decoded_or_reason,
    displayed,
    pixel_limit,
    readable_formats,
    without_warnings,
)
from attractor_ae.data.image_set import ImageSet, Wanted

CACHE_VARIABLE = "ATTRACTOR_AE_CACHE"
"""Environment variable that names the folder of prepared images."""

VERSION = "4"
"""Version of the preparation; must change when the same files are prepared differently."""

REMEDY = f"free space, or choose another folder for prepared images with {CACHE_VARIABLE}"

_AT_ONCE = 64  # images

Broken = tuple[str, str]
"""Printable path of a file that cannot be used, and the reason."""


class Encoded(NamedTuple):
    """An encoded image of a database: its name in messages, and its bytes."""

    name: str
    data: bytes


class BrokenFilesError(AttractorError):
    """Error for more broken files than allowed; ``broken`` lists them with reasons."""

    def __init__(self, where: str, broken: Sequence[Broken], count: int, max_broken: float) -> None:
        self.broken = tuple(broken)
        path, reason = broken[0]
        some = len(broken) < count
        allowed = f"more than {max_broken:.3g} of all" if some else "that is, all"
        remedy = "repair or remove them"
        if some:
            remedy += (
                ", or allow a larger fraction: --max-broken, or dataset.max_broken in a config"
            )
        super().__init__(
            f"{where}: {len(broken)} of {count} files cannot be used, {allowed}; the first is "
            f"{path}: {reason}; {remedy}"
        )


def cache_root(cache: Path | None = None) -> Path:
    """Return ``cache`` if given, else ``$ATTRACTOR_AE_CACHE``, else the user's cache directory."""
    if cache is None:
        named = os.environ.get(CACHE_VARIABLE)
        cache = Path(named) if named else user_cache_path("attractor-ae", appauthor=False)
    return user_path(cache)


def clear(name: str | None = None, cache: Path | None = None) -> int:
    """Remove the prepared images of a set, or of all; return the number of freed bytes.

    Features of images are removed with those of all.
    """
    root = cache_root(cache)
    parts = ("prepared", "features") if name is None else (f"prepared/{file_name(name)}",)
    folders = [root / part for part in parts if (root / part).is_dir()]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    freed = sum(path.stat().st_size for path in files)
    folder = root
    try:
        for folder in folders:
            shutil.rmtree(folder)
    except OSError as error:
        raise AttractorError(
            f"{displayed(error.filename or folder)}: cannot be removed "
            f"({error.strerror or error}); remove it by hand"
        ) from None
    return freed


def prepare(
    name: str,
    split: str,
    source_files: Sequence[Path | str],
    read: Callable[[], tuple[Iterable[object], NDArray[np.int64]]],
    classes: Sequence[str],
    *,
    key: Sequence[str | bytes],
    wanted: Wanted,
    unusable: Sequence[Broken] = (),
    ignored: Sequence[Broken] = (),
) -> ImageSet:
    """Return prepared images, decoding them if they are not in the cache.

    Args:
        source_files, key: Files that the images are read from, and everything else that they
            depend on; if any of it changes, a new cache entry is made.
        read: Returns the n images and their labels, int64 of shape (n,). An image is a path, an
            `Encoded`, or a uint8 array (height, width) or (height, width, 3).
        unusable: Broken files, with reasons; they count towards ``wanted.max_broken``.
        ignored: Files that are not part of the set, with reasons.

    Returns:
        ``images`` is a read-only memory map of shape (n, channels, size, size).
    """
    where = f"data set {name!r} ({split})"
    max_broken = wanted.max_broken
    if not 0 <= max_broken <= 1:
        raise AttractorError(f"max_broken must be in [0, 1], got {max_broken}")
    if not source_files:
        if unusable:
            raise BrokenFilesError(where, unusable, len(unusable), max_broken)
        raise AttractorError(f"{where} has no images; check its files")
    form = json.dumps(asdict(wanted.image_format))
    # Files that were broken may be read with another limit, or with an extra.
    decoder = f"{pixel_limit()} {'HEIF' in readable_formats()}"
    entry = _key(source_files, (VERSION, name, split, *classes, form, decoder, *key))
    folder = cache_root(wanted.cache) / "prepared" / file_name(name) / entry
    opened = _open(folder)
    if opened is None:
        with temporary_folder(folder, REMEDY) as temporary:
            remove_leftovers(folder.parent, seconds=86_400.0)  # a day: not of a running process
            _decode_into(temporary, *read(), where, f"preparing {name} {split}", wanted)
            try:
                temporary.rename(folder)
            except OSError:
                if _open(folder) is None:  # not written by another process meanwhile, but damaged
                    shutil.rmtree(folder)
                    temporary.rename(folder)
        opened = _open(folder)
        if opened is None:
            raise AttractorError(f"{displayed(folder)}: cannot be read after writing; remove it")
    images, labels, paths, failed = opened
    listed = [(displayed(path), displayed(reason)) for path, reason in ignored]
    broken = [(displayed(path), displayed(reason)) for path, reason in unusable] + failed
    count = len(images) + len(broken)
    if broken and (len(broken) == count or len(broken) > max_broken * count):
        raise BrokenFilesError(where, broken, count, max_broken)
    return ImageSet(name, split, images, labels, tuple(classes), (*listed, *broken), paths)


def _key(source_files: Sequence[Path | str], others: Sequence[str | bytes]) -> str:
    """Return the cache key: SHA-256 of the listing of files and of everything else."""
    digest = hashlib.sha256()
    for other in others:
        part = other if isinstance(other, bytes) else other.encode(errors="surrogatepass")
        digest.update(str(len(part)).encode() + b":" + part)
    for file in source_files:
        path = os.fspath(file)
        try:
            status = os.stat(path)  # noqa: PTH116  faster than Path.stat
        except (OSError, ValueError):  # it is reported as broken when it is decoded
            state = (0, 0, 0, 0)
        else:
            state = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        digest.update(f"{path}\0{state}\n".encode(errors="surrogatepass"))
    return digest.hexdigest()[:32]


Opened = tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...], list[Broken]]


def _open(folder: Path) -> Opened | None:
    """Memory-map the prepared images of a folder; return None if they are missing or damaged."""
    try:
        contents = json.loads((folder / "contents.json").read_bytes())
        shape = tuple(contents["shape"])
        labels = np.load(folder / "labels.npy", allow_pickle=False)
        if shape[0]:  # an empty array cannot be mapped
            images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        else:
            images = np.empty(shape, dtype=np.uint8)
        broken = [(str(path), str(reason)) for path, reason in contents["broken"]]
        if (images.shape, images.dtype, labels.shape) != (shape, np.uint8, shape[:1]):
            return None
        if hashlib.sha256(labels.tobytes()).hexdigest() != contents["labels"]:
            return None
        return images, labels, tuple(map(str, contents["paths"])), broken
    except (OSError, ValueError, TypeError, KeyError, EOFError, RecursionError):
        return None


def _decode_into(
    folder: Path,
    images: Iterable[object],
    labels: NDArray[np.int64],
    where: str,
    task: str,
    wanted: Wanted,
) -> None:
    """Decode images into a folder, in their order."""
    form = wanted.image_format
    if not len(labels):
        raise AttractorError(f"{where} has no images; check its files")
    kept, paths, broken = [], [], []
    with (folder / "images.npy").open("wb") as file, without_warnings():
        _write_header(file, (len(labels), *form.shape))
        # Not written through a memory map: then a full disk would kill the process, and mapped
        # pages would count as its memory.
        for row, (source, image) in enumerate(_decoded(images, form)):
            if isinstance(image, str):
                shown = source[0] if isinstance(source, Encoded) else source
                shown = "an image" if isinstance(source, np.ndarray) else str(shown)
                broken.append((displayed(shown), image))
            else:
                file.write(image.data)
                kept.append(row)
                if isinstance(source, Path | str):
                    paths.append(str(source))
            wanted.reporter.progress(task, row + 1, len(labels))
        if (found := len(kept) + len(broken)) != len(labels):
            raise AttractorError(f"{where}: {len(labels)} labels, but {found} images")
        shape = (len(kept), *form.shape)
        file.flush()
        _write_header(file, shape)
        flush_to_disk(file)
    left = labels[np.array(kept, dtype=np.int64)]
    np.save(folder / "labels.npy", left, allow_pickle=False)
    contents = {
        "shape": shape,
        "labels": hashlib.sha256(left.tobytes()).hexdigest(),
        "paths": paths,
        "broken": broken,
    }
    (folder / "contents.json").write_text(json.dumps(contents), encoding="utf-8")


def _decoded(
    images: Iterable[object], form: ImageFormat
) -> Iterator[tuple[object, NDArray[np.uint8] | str]]:
    """Yield images and what they are decoded to by threads, or why they cannot be read."""

    def decoded(source: object) -> NDArray[np.uint8] | str:
        data: Any = source.data if isinstance(source, Encoded) else source
        data = Image.fromarray(data) if isinstance(data, np.ndarray) else data
        return decoded_or_reason(data, form)

    items = iter(images)
    with ThreadPoolExecutor(max(2, os.cpu_count() or 1)) as pool:
        while some := list(itertools.islice(items, _AT_ONCE)):
            yield from zip(some, pool.map(decoded, some), strict=True)


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    # NumPy pads the header, so it can be rewritten with another number of images.
    file.seek(0)
    npy.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
