"""Paths of the images to score: folders, files, patterns, tables, and lines of a stream."""

import glob
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from attractor_ae._errors import AttractorError
from attractor_ae._reporter import SILENT, Reporter
from attractor_ae.data.decode import displayed
from attractor_ae.data.sources.own_files import TABLES, in_table
from attractor_ae.data.walk import walk

STREAM = "-"
"""Source of one path per line from standard input."""


def image_paths(
    sources: Sequence[str | Path],
    stream: Iterable[str] | None = None,
    *,
    empty: bool = False,
    reporter: Reporter = SILENT,
) -> Iterator[str]:
    """Yield the paths of images, each once.

    Args:
        sources: Folders, which are searched as `walk` does; files; patterns such as ``new/*.jpg``;
            tables (``.csv``, ``.tsv``, ``.parquet``) with a column ``path``, relative to the
            table's folder; ``-`` for one path per line from ``stream``.
        stream: By default standard input.
        empty: Whether a source may contain no images.
        reporter: Receives a note on what is left out of folders.

    Raises:
        AttractorError: If a source does not exist, or contains no images.
    """
    seen: set[int] = set()  # hashes: a path of 100 characters would take twice the memory
    for source in map(str, sources):
        found = False
        for path in _paths_of(source, sys.stdin if stream is None else stream, reporter):
            found = True
            if (key := hash(path)) not in seen:
                seen.add(key)
                yield path
        if not (found or empty or source == STREAM):
            raise AttractorError(
                f"{displayed(source)}: no images there; give a folder of images, an image, a "
                "pattern, or a table with a column 'path'"
            )


@contextmanager
def counted(
    sources: Sequence[str | Path], paths: Iterable[str]
) -> Iterator[tuple[Iterable[str], int | None]]:
    """Yield the paths of sources, and their number, without a second walk or a list in memory.

    They are read from a temporary file. The number of those of a stream is None.
    """
    if STREAM in map(str, sources):
        yield paths, None
        return
    count = 0
    with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
        for path in paths:
            file.write(json.dumps(path) + "\n")
            count += 1
        file.seek(0)
        yield map(json.loads, file), count


def _paths_of(source: str, stream: Iterable[str] | None, reporter: Reporter) -> Iterator[str]:
    if source == STREAM:
        if stream is None:
            raise AttractorError("standard input is closed; give paths, or a stream of paths")
        yield from filter(None, (line.rstrip("\r\n") for line in stream))
    elif os.path.isdir(source):  # noqa: PTH112  text, as there may be many
        yield from _in_folder(source, reporter)
    elif source.lower().endswith(TABLES):
        path = Path(source)
        if not path.is_file():
            raise AttractorError(f"{displayed(source)}: no such file; give a table of paths")
        yield from in_table(path).paths
    elif os.path.lexists(source):
        yield source
    elif glob.has_magic(source):
        for path in sorted(glob.glob(source, recursive=True)):  # noqa: PTH207
            folder = os.path.isdir(path)  # noqa: PTH112
            yield from _in_folder(path, reporter) if folder else (path,)
    else:
        raise AttractorError(
            f"{displayed(source)}: no such file or folder; give images, or a folder of images"
        )


def _in_folder(top: str, reporter: Reporter) -> Iterator[str]:
    """Yield the images below a folder, and note what is left out: number and example by reason."""
    left_out: dict[str, tuple[int, str]] = {}
    for found in walk(top):
        yield from found.images
        yield from (path for path, _ in found.unusable)  # the decoder states the reason
        no_images = ((path, "is not an image") for path in found.others)
        hidden = ((path, "is a hidden folder") for path in found.hidden)
        for path, reason in (*found.ignored, *no_images, *hidden):
            count, first = left_out.get(reason, (0, path))
            left_out[reason] = count + 1, first
    for reason, (count, first) in left_out.items():
        more = f" (and {count - 1} others)" if count > 1 else ""
        reporter.note(f"left out: {displayed(first)}: {reason}{more}")
