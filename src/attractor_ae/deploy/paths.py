"""Paths of the images to score: folders, files, patterns, tables, and lines of a stream."""

import glob
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from attractor_ae._errors import AttractorError
from attractor_ae.data.decode import displayed, image_suffixes, recognised
from attractor_ae.data.sources.own_files import TABLES, in_table

STREAM = "-"
"""Source of one path per line from standard input."""


def image_paths(
    sources: Sequence[str | Path], stream: Iterable[str] | None = None, *, empty: bool = False
) -> Iterator[str]:
    """Yield the paths of images, each once.

    Args:
        sources: Folders, which are searched recursively for images, as for training, in
            the order of their names; files; patterns such as ``new/*.jpg``; tables
            (``.csv``, ``.tsv``, ``.parquet``) with a column ``path``, relative to the table's
            folder; ``-`` for one path per line from ``stream``.
        stream: By default standard input.
        empty: Whether a source may contain no images.

    Raises:
        AttractorError: If a source does not exist, or contains no images.
    """
    seen: set[int] = set()  # hashes: a path of 100 characters would take twice the memory
    for source in map(str, sources):
        found = False
        for path in _paths_of(source, sys.stdin if stream is None else stream):
            found = True
            if (key := hash(path)) not in seen:
                seen.add(key)
                yield path
        if not (found or empty or source == STREAM):
            raise AttractorError(
                f"{displayed(source)}: no images there; give a folder of images, an image, a "
                "pattern, or a table with a column 'path'"
            )


def _paths_of(source: str, stream: Iterable[str] | None) -> Iterator[str]:
    if source == STREAM:
        if stream is None:
            raise AttractorError("standard input is closed; give paths, or a stream of paths")
        yield from filter(None, (line.rstrip("\r\n") for line in stream))
    elif os.path.isdir(source):  # noqa: PTH112  text, as there may be many
        yield from _in_folder(source)
    elif source.lower().endswith(TABLES):
        path = Path(source)
        if not path.is_file():
            raise AttractorError(f"{displayed(source)}: no such file; give a table of paths")
        yield from in_table(path).paths
    elif os.path.lexists(source):
        yield source
    elif glob.has_magic(source):
        for path in sorted(glob.glob(source, recursive=True)):  # noqa: PTH207
            yield from _in_folder(path) if os.path.isdir(path) else (path,)  # noqa: PTH112
    else:
        raise AttractorError(
            f"{displayed(source)}: no such file or folder; give images, or a folder of images"
        )


def _in_folder(top: str) -> Iterator[str]:
    """Yield the images below a folder; names that start with a dot are left out."""
    suffixes = tuple(image_suffixes())
    visited = {os.path.realpath(top)}
    for folder, inner, files in os.walk(top, followlinks=True):
        for name in sorted(files):
            path = os.path.join(folder, name)  # noqa: PTH118
            image = name.lower().endswith(suffixes) or recognised(path) is not None
            if image and not name.startswith("."):
                yield path
        inner.sort()
        for name in list(inner):  # a symbolic link may lead to a folder that was visited
            place = os.path.realpath(os.path.join(folder, name))  # noqa: PTH118
            if name.startswith(".") or place in visited:
                inner.remove(name)
            visited.add(place)
