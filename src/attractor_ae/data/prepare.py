"""Images are decoded once: into one file of uint8 that every later use maps into memory.

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
import re
import secrets
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import Image
from platformdirs import user_cache_path

from attractor_ae.data.decoding import ImageFormat, UndecodableError, decode, displayed
from attractor_ae.data.imageset import ImageSet
from attractor_ae.errors import AttractorError

if sys.platform != "win32":
    import fcntl

CACHE_VARIABLE = "ATTRACTOR_AE_CACHE"
"""Environment variable that names the folder of prepared images."""

VERSION = 1
"""Counts the changes of the files and of what is done to images: others are made anew."""

_MANIFEST = "manifest.json"
_MADE_HERE = re.compile(r"(images|labels|manifest)-([0-9a-f]{16})\.(npy|json)")
_BATCH_BYTES = 1 << 20
_BATCH_IMAGES = 64
_DAY = 86_400

Broken = tuple[str, str]
"""A file that could not be read, as a printable line, and the reason."""


@dataclass(frozen=True)
class Item:
    """An image file and the index of its class; -1 without a label."""

    path: Path
    label: int


class BrokenFilesError(AttractorError):
    """More files of a set are broken than was allowed.

    Attributes
    ----------
    broken
        Each file, and why it cannot be used.
    """

    def __init__(self, where: str, broken: Sequence[Broken], count: int, max_broken: float) -> None:
        self.broken = tuple(broken)
        path, reason = broken[0]
        allowed = f"more than {max_broken:.3g} of all" if len(broken) < count else "that is, all"
        super().__init__(
            f"{where}: {len(broken)} of {count} files cannot be used, {allowed}; the first is "
            f"{path}: {reason}; mend or remove them, or allow more with max_broken"
        )


def no_progress(done: int, count: int) -> None:
    """Show nothing."""


def prepare(
    name: str,
    split: str,
    items: Sequence[Item],
    classes: Sequence[str],
    form: ImageFormat,
    *,
    variant: str = "",
    unusable: Sequence[Broken] = (),
    cache: Path | None = None,
    max_broken: float = 0.01,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] = no_progress,
) -> ImageSet:
    """Decode image files once, and open what was decoded before.

    A cache that fits is opened after a look at the size and time of every file. One that is
    stale - a file was changed, added or removed, a label or a setting is another - or damaged is
    made anew. The memory that is taken does not grow with the number of images.

    Parameters
    ----------
    name, split, classes
        As in `ImageSet`.
    items
        The files with their labels, in the set's own order.
    form
        Size, channels and crop of the images.
    variant
        What else tells sets of one name and split apart, e.g. the folder they lie in; each has
        its own place in the cache.
    unusable
        Files that are known to be of no use, with reasons: they are listed as broken.
    cache
        Folder of prepared images; see :func:`cache_root`.
    max_broken
        In [0, 1], the share of broken files up to which they are left out.
    workers
        Number of threads that decode; None: one a processor.
    on_progress
        Called, in the thread of the caller, with the numbers of images that are done and of all.

    Returns
    -------
    ImageSet
        ``images`` is a read-only memory map of shape (n, channels, size, size).

    Raises
    ------
    BrokenFilesError
        If more than ``max_broken`` of the files are broken, or all.
    AttractorError
        If there are no files, an argument is out of range, or the cache cannot be written.
    """
    where = f"data set {name!r} ({split})"
    if not 0 <= max_broken <= 1:
        raise AttractorError(f"max_broken must lie in [0, 1], got {max_broken}")
    if not items and unusable:
        raise BrokenFilesError(where, unusable, len(unusable), max_broken)
    unusable = [(displayed(path), displayed(reason)) for path, reason in unusable]
    paths = [os.fspath(item.path) for item in items]
    labels = np.fromiter((item.label for item in items), dtype=np.int64, count=len(items))
    _check_labels(where, labels, classes)
    entry = _Entry.of(name, split, classes, form, variant, cache)
    entry.made_of(paths, labels.tobytes(), *(text for pair in unusable for text in pair))
    size = _batch_size(form)
    batches = (
        [item.path for item in items[start : start + size]] for start in range(0, len(items), size)
    )
    opened = entry.opened() or entry.built(batches, labels, unusable, workers, on_progress)
    count = len(items) + len(unusable)
    if opened.broken and (len(opened.images) == 0 or len(opened.broken) > max_broken * count):
        raise BrokenFilesError(where, opened.broken, count, max_broken)
    return ImageSet(name, split, opened.images, opened.labels, tuple(classes))


def prepare_arrays(
    name: str,
    split: str,
    chunks: Iterable[NDArray[np.uint8]],
    labels: NDArray[np.int64] | Callable[[], NDArray[np.int64]],
    classes: Sequence[str],
    form: ImageFormat,
    *,
    source_files: Sequence[Path],
    variant: str = "",
    cache: Path | None = None,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] = no_progress,
) -> ImageSet:
    """Prepare pictures that come out of a few large files.

    Parameters
    ----------
    name, split, classes, form, variant, cache, workers, on_progress
        As of :func:`prepare`.
    chunks
        uint8 arrays of shape (k, height, width) or (k, height, width, 3), of any k. Nothing is
        taken from it if the images are prepared already; let it be a generator that reads.
    labels
        int64 array of shape (n,), or a function that returns it and is called only if the images
        are not prepared already.
    source_files
        The files that ``chunks`` are read from: the cache is stale when one of these changes.

    Returns
    -------
    ImageSet
        ``images`` is a read-only memory map of shape (n, channels, size, size).

    Raises
    ------
    AttractorError
        If there are no images, or not as many as labels, or the cache cannot be written.
    """
    where = f"data set {name!r} ({split})"
    entry = _Entry.of(name, split, classes, form, variant, cache)
    known = b"" if callable(labels) else labels.tobytes()
    entry.made_of([os.fspath(path) for path in source_files], known)
    opened = entry.opened()
    if opened is None:
        numbers = labels() if callable(labels) else labels
        _check_labels(where, numbers, classes)
        batches = _batches_of(chunks, len(numbers), _batch_size(form), where)
        opened = entry.built(batches, numbers, (), workers, on_progress, all_needed=True)
    return ImageSet(name, split, opened.images, opened.labels, tuple(classes))


def broken_files(
    name: str, split: str, form: ImageFormat, cache: Path | None = None
) -> list[tuple[str, str]]:
    """Return the files that were left out of prepared images, each with the reason.

    Where several sets of this name are prepared, the one that was prepared last is meant.

    Raises
    ------
    AttractorError
        If the set has not been prepared.
    """
    named = {"name": name, "split": split, **asdict(form)}
    newest: tuple[float, list[tuple[str, str]]] | None = None
    for folder in _folders(cache_root(cache), name):
        manifest = _read_manifest(folder)
        if manifest and all(manifest.get(key) == value for key, value in named.items()):
            made = _modified(folder / _MANIFEST)
            if newest is None or made > newest[0]:
                newest = made, list(_pairs(manifest["broken"]))
    if newest is None:
        raise AttractorError(f"data set {name!r} ({split}) has not been prepared; prepare it first")
    return newest[1]


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
        manifest = folder / _MANIFEST
        try:
            freed += _size(manifest)
            manifest.unlink(missing_ok=True)
            freed += _sweep(folder)
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
class _Opened:
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    broken: tuple[Broken, ...]


@dataclass
class _Entry:
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
    ) -> "_Entry":
        parts = [_file_name(split), f"{form.size}x{form.channels}", "crop" if form.crop else ""]
        if variant:
            parts.append(_digest(variant.encode(errors="surrogatepass"))[:8])
        folder = cache_root(cache) / "prepared" / _file_name(name) / "-".join(filter(None, parts))
        expected = {"version": VERSION, "name": name, "split": split, "classes": list(classes)}
        return cls(folder, form, {**expected, **asdict(form)})

    def made_of(self, paths: Sequence[str], *others: bytes | str) -> None:
        """Expect images made of these files, as they are now, and of ``others``."""
        hashed = hashlib.blake2b(digest_size=16)
        total = 0
        for path in paths:
            try:
                status = os.stat(path)  # noqa: PTH116  a Path costs as much again
            except (OSError, ValueError):  # it is listed as broken when it is decoded
                line = "missing"
            else:
                total += status.st_size
                # What may be read is told by the mode, and changes without the file.
                line = f"{status.st_size} {status.st_mtime_ns} {status.st_mode & 0o444}"
            hashed.update(f"{path}\0{line}\n".encode(errors="surrogatepass"))
        for other in others:
            hashed.update(other if isinstance(other, bytes) else f"{other}\n".encode())
        self.expected |= {
            "sources": {"count": len(paths), "bytes": total, "digest": hashed.hexdigest()}
        }

    def opened(self) -> _Opened | None:
        """Return the prepared images, or None if there are none that are whole and fit."""
        for _ in range(2):  # the second for images that another process replaced meanwhile
            manifest = _read_manifest(self.folder)
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
        batches: Iterable[Sequence[Path | NDArray[np.uint8]]],
        labels: NDArray[np.int64],
        unusable: Sequence[Broken],
        workers: int | None,
        on_progress: Callable[[int, int], None],
        *,
        all_needed: bool = False,
    ) -> _Opened:
        """Prepare the images, publish them, and return them."""
        with _writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            for folder in self.folder.parent.iterdir():
                _sweep(folder)
        broken: list[Broken] = list(unusable)
        kept = np.ones(len(labels), dtype=bool)
        with _claimed(self.folder) as (file, token):
            images_file, labels_file, manifest_file = (
                self.folder / f"{kind}-{token}.{suffix}"
                for kind, suffix in (("images", "npy"), ("labels", "npy"), ("manifest", "json"))
            )
            with _writing(images_file):
                _write_header(file, (len(labels), *self.form.shape))
            done = 0
            # Appended, not written through a memory map: on a full disk that would be the end of
            # the process instead of an error, and mapped pages count as memory of the process.
            with closing(_decoded(batches, self.form, workers)) as decoded:
                for images, failed in decoded:
                    with _writing(images_file):
                        file.write(images.data)
                    for place, reason in failed:
                        kept[done + place] = False
                        broken.append(reason)
                    done += len(images) + len(failed)
                    on_progress(done, len(labels))
            if all_needed and broken:
                raise AttractorError(f"{self.expected['name']}: {broken[0][0]}: {broken[0][1]}")
            left = np.ascontiguousarray(labels[kept])
            manifest = {
                **self.expected,
                "token": token,
                "images": len(left),
                "labels_digest": _digest(left.tobytes()),
                "broken": broken,
            }
            with _writing(images_file):
                _write_header(file, (len(left), *self.form.shape))
                file.flush()
                os.fsync(file.fileno())
            with _writing(labels_file):
                np.save(labels_file, left, allow_pickle=False)
            with _writing(manifest_file):
                manifest_file.write_text(json.dumps(manifest, indent=1), encoding="utf-8")
                # Opened first: once it is published, another process may replace it.
                opened = _load(self.folder, manifest, self.form)
                manifest_file.replace(self.folder / _MANIFEST)
            _sweep(self.folder, keep=token)
        return opened


def _decoded(
    batches: Iterable[Sequence[Path | NDArray[np.uint8]]], form: ImageFormat, workers: int | None
) -> Generator[tuple[NDArray[np.uint8], list[tuple[int, Broken]]], None, None]:
    """Decode in threads, and yield in order; a bounded number of batches is held at a time.

    Threads: Pillow decodes and resizes without the interpreter's lock, so large images take all
    processors, and for tiny ones processes would gain little and demand a guarded main module.
    """
    if workers is not None and workers < 1:
        raise AttractorError(f"workers must be at least 1, got {workers}")
    count = workers or _processors()
    waiting: deque[Future[tuple[NDArray[np.uint8], list[tuple[int, Broken]]]]] = deque()
    with ThreadPoolExecutor(count) as pool:
        try:
            for batch in batches:
                waiting.append(pool.submit(_decode_batch, batch, form))
                if len(waiting) > count + 1:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _decode_batch(
    batch: Sequence[Path | NDArray[np.uint8]], form: ImageFormat
) -> tuple[NDArray[np.uint8], list[tuple[int, Broken]]]:
    """Return the images of a batch, and the places of those that cannot be decoded."""
    images = np.empty((len(batch), *form.shape), dtype=np.uint8)
    failed: list[tuple[int, Broken]] = []
    done = 0
    for place, source in enumerate(batch):
        try:
            images[done] = decode(
                source if isinstance(source, Path) else Image.fromarray(source), form
            )
        except UndecodableError as error:
            shown = displayed(source) if isinstance(source, Path) else "an image"
            failed.append((place, (shown, error.reason)))
        else:
            done += 1
    return images[:done], failed


def _batches_of(
    chunks: Iterable[NDArray[np.uint8]], count: int, size: int, where: str
) -> Iterator[Sequence[NDArray[np.uint8]]]:
    seen = 0
    for chunk in chunks:
        if chunk.dtype != np.uint8 or chunk.shape[3:] not in ((), (3,)) or chunk.ndim < 3:
            raise AttractorError(
                f"{where}: images must be uint8 of shape (k, height, width) or "
                f"(k, height, width, 3), got {chunk.dtype} {chunk.shape}"
            )
        seen += len(chunk)
        if seen > count:
            break
        for start in range(0, len(chunk), size):
            yield list(chunk[start : start + size])
    if seen != count:
        found = seen if seen < count else "more"
        raise AttractorError(f"{where}: {count} labels, but {found} images; get its files again")


def _batch_size(form: ImageFormat) -> int:
    return max(1, min(_BATCH_IMAGES, _BATCH_BYTES // (form.channels * form.size**2)))


def _processors() -> int:
    if sys.platform == "linux":  # those that this process may use
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _check_labels(where: str, labels: NDArray[np.int64], classes: Sequence[str]) -> None:
    if len(labels) == 0:
        raise AttractorError(f"{where} has no images; look where its files should be")
    if not -1 <= labels.min() <= labels.max() < len(classes):
        raise AttractorError(
            f"{where}: labels must lie in -1..{len(classes) - 1}, "
            f"got {labels.min()}..{labels.max()}"
        )


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    # NumPy leaves room for the number of images to change: the header can be written again.
    file.seek(0)
    npy.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def _load(folder: Path, manifest: Mapping[str, Any], form: ImageFormat) -> _Opened:
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
        return _Opened(nothing, np.empty(0, dtype=np.int64), _pairs(broken))
    images = np.load(images_file, mmap_mode="r", allow_pickle=False)
    whole = images.offset + images.nbytes == images_file.stat().st_size
    if (
        not whole
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
        or _digest(labels.tobytes()) != manifest.get("labels_digest")
    ):
        raise ValueError("the labels are damaged")
    return _Opened(images, labels, _pairs(broken))


def _pairs(broken: Iterable[Sequence[str]]) -> tuple[Broken, ...]:
    return tuple((str(path), str(reason)) for path, reason in broken)


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    try:
        values = json.loads((folder / _MANIFEST).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(values, dict) or not isinstance(values.get("broken"), list):
        return None
    token = values.get("token")
    if not isinstance(token, str) or not _MADE_HERE.fullmatch(f"images-{token}.npy"):
        return None
    return values


@contextmanager
def _claimed(folder: Path) -> Iterator[tuple[BinaryIO, str]]:
    """Give a new file for images, with its token, that no other process takes for a leftover.

    When the block has ended, files of this token are removed unless the manifest names it.
    """
    while True:
        token = secrets.token_hex(8)
        path = folder / f"images-{token}.npy"
        with _writing(path):
            file = path.open("xb")
        _lock(file)
        if path.exists():  # else it was taken for a leftover before it was locked
            break
        file.close()
    try:
        with file:
            yield file, token
    finally:
        if (_read_manifest(folder) or {}).get("token") != token:
            for made in (*folder.glob(f"*-{token}.*"), path):
                _remove(made)


def _lock(file: BinaryIO) -> bool:
    """Lock a file until it is closed or the process ends; return whether that was possible."""
    if sys.platform == "win32":  # there a file that is open cannot be removed anyway
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: what is old is taken for a leftover
        return time.time() - os.fstat(file.fileno()).st_mtime > _DAY
    return True


def _sweep(folder: Path, keep: str = "") -> int:
    """Remove files that no manifest names and no process is writing; return their bytes."""
    freed = 0
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError:
        return 0
    found = [match for match in map(_MADE_HERE.fullmatch, names) if match]
    for token in {match[2] for match in found} - {keep}:
        images = folder / f"images-{token}.npy"
        try:
            with images.open("r+b") as file:
                if not _lock(file):
                    continue
        except FileNotFoundError:
            pass
        except OSError:
            continue
        # Only now: it may have been published while it was locked.
        if (_read_manifest(folder) or {}).get("token") == token:
            continue
        for match in found:
            if match[2] == token:
                freed += _remove(folder / match[0])
    return freed


def _remove(path: Path) -> int:
    """Remove a file if that is possible, and return the bytes that were freed."""
    size = _size(path)
    try:
        path.unlink()
    except OSError:  # gone already; or still open, which some systems do not allow
        return 0
    return size


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _folders(root: Path, name: str | None) -> list[Path]:
    """Return the places in the cache that belong to a set, or to all."""
    pattern = f"{_file_name(name)}/*" if name is not None else "*/*"
    return sorted(path for path in (root / "prepared").glob(pattern) if path.is_dir())


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise AttractorError(
            f"{displayed(error.filename or path)}: cannot be written "
            f"({error.strerror or error}); free space, or choose another folder for prepared "
            f"images with {CACHE_VARIABLE}"
        ) from None


def _file_name(name: str) -> str:
    """Return a name that every file system takes, the name itself if it is of that kind."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:60].lstrip(".")
    if plain == name:
        return plain
    return f"{plain}-{_digest(name.encode(errors='surrogatepass'))[:8]}"


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
