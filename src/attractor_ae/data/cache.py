"""The store of prepared images: where they lie, and whether they are still the right ones.

Prepared images lie in ``CACHE/prepared/NAME/SPLIT-FORMAT/``: ``images-TOKEN.npy``,
``labels-TOKEN.npy`` and ``manifest.json``, which names the token of the two files that count, and
tells what they were made of. Files get a new token whenever they are made, and the manifest is
replaced last, in one step: whoever reads sees the old images or the new ones, whole. What an
interrupted preparation leaves behind has a token that no manifest names, and is removed by the
next one. Nothing is pickled.
"""

import hashlib
import json
import os
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from platformdirs import user_cache_path

from attractor_ae._errors import AttractorError
from attractor_ae.data.cache_files import (
    CACHE_VARIABLE,
    MANIFEST,
    claimed,
    digest,
    file_name,
    read_manifest,
    size_of,
    sweep,
    writing,
)
from attractor_ae.data.decoding import ImageFormat, displayed

VERSION = 3
"""Counts the changes of the files and of what is done to images: others are made anew."""

Broken = tuple[str, str]
"""A file that could not be read, as a printable line, and the reason."""

Decoded = tuple[NDArray[np.uint8], list[tuple[int, Broken]]]
"""The images of a batch, and the places in it of those that cannot be used."""

_NO_FILE = (0, 0, 1)  # a mode that is none of reading
_64_BITS = (1 << 64) - 1


def clear(name: str | None = None, cache: Path | None = None) -> int:
    """Remove prepared images, and nothing else that lies in the cache.

    Parameters
    ----------
    name
        Name of a set; None: of all sets.
    cache
        Folder of prepared images; see :func:`cache_root`.

    Returns
    -------
    int
        Number of bytes that were freed. What is being prepared at this moment stays.

    Raises
    ------
    AttractorError
        If a file cannot be removed.
    """
    freed = 0
    for folder in _folders(cache_root(cache), name):
        manifest = folder / MANIFEST
        try:
            freed += size_of(manifest)
            manifest.unlink(missing_ok=True)
            freed += sweep(folder)
            for emptied in (folder, folder.parent):
                if not any(emptied.iterdir()):
                    emptied.rmdir()
        except OSError as error:
            raise AttractorError(
                f"{displayed(error.filename or folder)}: cannot be removed "
                f"({error.strerror or error}); remove it by hand"
            ) from None
    return freed


def cache_root(cache: Path | None = None) -> Path:
    """Return the folder of prepared images.

    Parameters
    ----------
    cache
        The folder, if it is already decided; else the environment variable
        ``ATTRACTOR_AE_CACHE`` decides, else it is the user's cache directory. It need not exist.
    """
    if cache is None:
        named = os.environ.get(CACHE_VARIABLE)
        cache = Path(named) if named else user_cache_path("attractor-ae", appauthor=False)
    return cache.expanduser()


@dataclass(frozen=True)
class Opened:
    """Prepared images of shape (n, channels, size, size), their labels, what was left out."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    broken: tuple[Broken, ...]


@dataclass
class CacheEntry:
    """A place in the cache, and what the manifest must say for its images to be the right ones."""

    folder: Path
    form: ImageFormat
    expected: dict[str, Any]

    @classmethod
    def of(
        cls,
        name: str,
        split: str,
        classes: Sequence[str],
        form: ImageFormat,
        variant: str,
        cache: Path | None,
    ) -> "CacheEntry":
        """Return the place of a set; see :func:`attractor_ae.data.prepare.prepare`."""
        parts = [file_name(split), f"{form.size}x{form.channels}", "crop" if form.crop else ""]
        if variant:
            parts.append(digest(variant.encode(errors="surrogatepass"))[:8])
        folder = cache_root(cache) / "prepared" / file_name(name) / "-".join(filter(None, parts))
        expected = {"version": VERSION, "name": name, "split": split, "classes": list(classes)}
        return cls(folder, form, {**expected, **asdict(form)})

    def made_of(self, paths: Sequence[str], *others: bytes | str) -> None:
        """Expect images made of these files, as they are now, and of ``others``."""
        states = _states(paths)
        hashed = hashlib.blake2b("\0".join(paths).encode(errors="surrogatepass"), digest_size=16)
        hashed.update(states.tobytes())
        for other in others:
            hashed.update(other if isinstance(other, bytes) else f"{other}\n".encode())
        self.expected |= {
            "sources": {
                "count": len(paths),
                "bytes": int(states[:, 0].sum()),
                "digest": hashed.hexdigest(),
            }
        }

    def opened(self) -> Opened | None:
        """Return the prepared images, or None if there are none that are whole and fit."""
        for _ in range(2):  # the second for images that another process replaced meanwhile
            manifest = read_manifest(self.folder)
            if manifest is None or any(
                manifest.get(key) != value for key, value in self.expected.items()
            ):
                return None
            try:
                return _load(self.folder, manifest, self.form)
            except (OSError, ValueError, TypeError, SyntaxError, OverflowError, EOFError):
                continue
        return None

    def built(
        self,
        decoded: Iterable[Decoded],
        labels: NDArray[np.int64],
        unusable: Sequence[Broken],
        on_progress: Callable[[int, int], None],
    ) -> Opened:
        """Write the images as they come, publish them, and return them.

        Parameters
        ----------
        decoded
            Batches of uint8 images of shape (k, channels, size, size). One at a time is taken: let
            it be a generator.
        labels
            int64 array of shape (n,), with those of the images that cannot be used.
        unusable
            What is listed as broken beside these.
        on_progress
            Called with the numbers of images that are done and of all.

        Raises
        ------
        AttractorError
            If the cache cannot be written.
        """
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            for folder in self.folder.parent.iterdir():
                sweep(folder)
        broken: list[Broken] = list(unusable)
        kept = np.ones(len(labels), dtype=bool)
        with claimed(self.folder) as (file, token):
            images_file, labels_file, manifest_file = (
                self.folder / f"{kind}-{token}.{suffix}"
                for kind, suffix in (("images", "npy"), ("labels", "npy"), ("manifest", "json"))
            )
            with writing(images_file):
                _write_header(file, (len(labels), *self.form.shape))
            done = 0
            # Appended, not written through a memory map: on a full disk that would be the end of
            # the process instead of an error, and mapped pages count as memory of the process.
            for images, failed in decoded:
                with writing(images_file):
                    file.write(images.data)
                for place, reason in failed:
                    kept[done + place] = False
                    broken.append(reason)
                done += len(images) + len(failed)
                on_progress(done, len(labels))
            left = np.ascontiguousarray(labels[kept])
            manifest = {
                **self.expected,
                "token": token,
                "images": len(left),
                "labels_digest": digest(left.tobytes()),
                "broken": broken,
            }
            with writing(images_file):
                _write_header(file, (len(left), *self.form.shape))
                file.flush()
                os.fsync(file.fileno())
                # Who writes to the file later changes this: the images are then not trusted.
                manifest["images_time"] = os.fstat(file.fileno()).st_mtime_ns
            with writing(labels_file):
                np.save(labels_file, left, allow_pickle=False)
            with writing(manifest_file):
                manifest_file.write_text(json.dumps(manifest, indent=1), encoding="utf-8")
                # Opened first: once it is published, another process may replace it.
                opened = _load(self.folder, manifest, self.form)
                manifest_file.replace(self.folder / MANIFEST)
            sweep(self.folder, keep=token)
        return opened


def _states(paths: Sequence[str]) -> NDArray[np.uint64]:
    """Return what tells that a file changed: its size, its time, and who may read it.

    The array has the shape (n, 3). Threads would not help: they wait for the interpreter's lock
    longer than for the system.
    """
    states = array("Q")
    for path in paths:
        try:
            status = os.stat(path)  # noqa: PTH116  a Path costs as much again
        except (OSError, ValueError):  # it is listed as broken when it is decoded
            states.extend(_NO_FILE)
        else:
            # What may be read is told by the mode, and changes without the file.
            states.extend((status.st_size, status.st_mtime_ns & _64_BITS, status.st_mode & 0o444))
    return np.array(states, dtype=np.uint64).reshape(-1, 3)


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    # NumPy leaves room for the number of images to change: the header can be written again.
    file.seek(0)
    npy.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def _load(folder: Path, manifest: Mapping[str, Any], form: ImageFormat) -> Opened:
    """Map prepared images into memory.

    Raises
    ------
    OSError, ValueError, TypeError, SyntaxError, OverflowError, EOFError
        If a file is missing, damaged, or not as the manifest says.
    """
    count, token, broken = (manifest.get(key) for key in ("images", "token", "broken"))
    if not isinstance(count, int) or not isinstance(token, str) or not isinstance(broken, list):
        raise ValueError("the manifest is damaged")
    images_file = folder / f"images-{token}.npy"
    if count == 0:  # all are broken; there is no map of nothing
        nothing = np.empty((0, *form.shape), dtype=np.uint8)
        return Opened(nothing, np.empty(0, dtype=np.int64), _pairs(broken))
    images = np.load(images_file, mmap_mode="r", allow_pickle=False)
    status = images_file.stat()
    if (
        images.offset + images.nbytes != status.st_size
        or manifest.get("images_time") != status.st_mtime_ns
        or images.dtype != np.uint8
        or images.shape != (count, *form.shape)
        or not images.flags.c_contiguous
    ):
        raise ValueError("the images are damaged")
    labels_file = folder / f"labels-{token}.npy"
    labels = np.load(labels_file, mmap_mode="r", allow_pickle=False)
    whole = labels.offset + labels.nbytes == labels_file.stat().st_size
    labels = np.array(labels)  # a copy of a few bytes an image, which may be written to
    if (
        not whole
        or labels.dtype != np.int64
        or labels.shape != (count,)
        or digest(labels.tobytes()) != manifest.get("labels_digest")
    ):
        raise ValueError("the labels are damaged")
    return Opened(images, labels, _pairs(broken))


def _pairs(broken: Iterable[Sequence[str]]) -> tuple[Broken, ...]:
    return tuple((str(path), str(reason)) for path, reason in broken)


def _folders(root: Path, name: str | None) -> list[Path]:
    """Return the places in the cache that belong to a set, or to all."""
    pattern = f"{file_name(name)}/*" if name is not None else "*/*"
    return sorted(path for path in (root / "prepared").glob(pattern) if path.is_dir())
