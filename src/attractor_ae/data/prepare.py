"""Images are decoded once: many at a time, into the store that every later use opens.

What the store looks like, and when it is stale, is in `attractor_ae.data.cache`.
"""

import os
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attractor_ae._errors import AttractorError
from attractor_ae.data.cache import Broken, CacheEntry, Decoded, Opened
from attractor_ae.data.decoding import ImageFormat, UndecodableError, decode, displayed
from attractor_ae.data.imageset import ImageSet

_BATCH_BYTES = 1 << 20
_BATCH_IMAGES = 64


class Item(NamedTuple):
    """An image file and the index of its class; -1 without a label.

    Of very many files, let the paths be text: it takes a tenth of the time and memory.
    """

    path: Path | str
    label: int


class Encoded(NamedTuple):
    """An image out of a database: its bytes, and what it is called if they are damaged."""

    name: str
    data: bytes


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
            f"{path}: {reason}; mend or remove them, or allow a larger share: "
            "--max-broken, dataset.max_broken in a config"
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
    ignored: Sequence[Broken] = (),
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
    ignored
        Files that may be whole but have no place in the set, with reasons: they are listed as
        well, but do not count as broken.
    cache
        Folder of prepared images; see :func:`attractor_ae.data.cache.cache_root`.
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
    _check_share(max_broken)
    if not items and unusable:
        raise BrokenFilesError(where, unusable, len(unusable), max_broken)
    listed = [(displayed(path), displayed(reason)) for path, reason in (*ignored, *unusable)]
    paths = [os.fspath(path) for path, _ in items]
    labels = np.fromiter((label for _, label in items), dtype=np.int64, count=len(items))
    _check_labels(where, labels, classes)
    entry = CacheEntry.of(name, split, classes, form, variant, cache)
    entry.made_of(paths, labels.tobytes(), *(text for pair in listed for text in pair))
    size = _batch_size(form)
    batches = (
        [Path(path) for path in paths[start : start + size]] for start in range(0, len(paths), size)
    )
    opened = entry.opened()
    if opened is None:
        with closing(_decoded(batches, form, workers)) as decoded:
            opened = entry.built(decoded, labels, listed, on_progress)
    _check_broken(where, opened, opened.broken[len(ignored) :], max_broken)  # listed first
    return ImageSet(name, split, opened.images, opened.labels, tuple(classes), opened.broken)


def prepare_arrays(
    name: str,
    split: str,
    chunks: Iterable[NDArray[np.uint8] | Sequence[Encoded]],
    labels: NDArray[np.int64] | Callable[[], NDArray[np.int64]],
    classes: Sequence[str],
    form: ImageFormat,
    *,
    source_files: Sequence[Path],
    variant: str = "",
    cache: Path | None = None,
    max_broken: float = 0.0,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] = no_progress,
) -> ImageSet:
    """Prepare pictures that come out of a few large files.

    Parameters
    ----------
    name, split, classes, form, variant, cache, max_broken, workers, on_progress
        As of :func:`prepare`.
    chunks
        uint8 arrays of shape (k, height, width) or (k, height, width, 3), of any k, or sequences of
        images that are encoded still. Nothing is taken from it if the images are prepared already;
        let it be a generator that reads.
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
    BrokenFilesError
        If more than ``max_broken`` of the images are damaged, or all.
    AttractorError
        If there are no images, or not as many as labels, or the cache cannot be written.
    """
    where = f"data set {name!r} ({split})"
    _check_share(max_broken)
    entry = CacheEntry.of(name, split, classes, form, variant, cache)
    known = b"" if callable(labels) else labels.tobytes()
    entry.made_of([os.fspath(path) for path in source_files], known)
    opened = entry.opened()
    if opened is None:
        numbers = labels() if callable(labels) else labels
        _check_labels(where, numbers, classes)
        batches = _batches_of(chunks, len(numbers), _batch_size(form), where)
        with closing(_decoded(batches, form, workers)) as decoded:
            opened = entry.built(decoded, numbers, (), on_progress)
    _check_broken(where, opened, opened.broken, max_broken)
    return ImageSet(name, split, opened.images, opened.labels, tuple(classes), opened.broken)


def _check_broken(where: str, opened: Opened, broken: Sequence[Broken], max_broken: float) -> None:
    """Raise if too many of the images, or all, are broken."""
    count = len(opened.images) + len(broken)
    if broken and (len(broken) == count or len(broken) > max_broken * count):
        raise BrokenFilesError(where, broken, count, max_broken)


def _check_share(max_broken: float) -> None:
    if not 0 <= max_broken <= 1:
        raise AttractorError(f"max_broken must lie in [0, 1], got {max_broken}")


def _decoded(
    batches: Iterable[Sequence[Path | Encoded | NDArray[np.uint8]]],
    form: ImageFormat,
    workers: int | None,
) -> Generator[Decoded, None, None]:
    """Decode in threads, and yield in order; a bounded number of batches is held at a time.

    Threads: Pillow decodes and resizes without the interpreter's lock, so large images take all
    processors, and for tiny ones processes would gain little and demand a guarded main module.
    """
    if workers is not None and workers < 1:
        raise AttractorError(f"workers must be at least 1, got {workers}")
    count = workers or _processors()
    waiting: deque[Future[Decoded]] = deque()
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
    batch: Sequence[Path | Encoded | NDArray[np.uint8]], form: ImageFormat
) -> Decoded:
    """Return the images of a batch, and the places of those that cannot be decoded."""
    images = np.empty((len(batch), *form.shape), dtype=np.uint8)
    failed: list[tuple[int, Broken]] = []
    done = 0
    for place, source in enumerate(batch):
        try:
            if isinstance(source, np.ndarray):
                images[done] = decode(Image.fromarray(source), form)
            else:
                images[done] = decode(source if isinstance(source, Path) else source.data, form)
        except UndecodableError as error:
            named = source.name if isinstance(source, Encoded) else source
            shown = "an image" if isinstance(named, np.ndarray) else displayed(named)
            failed.append((place, (shown, error.reason)))
        else:
            done += 1
    return images[:done], failed


def _batches_of(
    chunks: Iterable[NDArray[np.uint8] | Sequence[Encoded]], count: int, size: int, where: str
) -> Iterator[Sequence[Encoded | NDArray[np.uint8]]]:
    seen = 0
    for chunk in chunks:
        if isinstance(chunk, np.ndarray) and (
            chunk.dtype != np.uint8 or chunk.shape[3:] not in ((), (3,)) or chunk.ndim < 3
        ):
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
