"""The walk through a folder of images, which training and scoring share."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from attractor_ae.data.cache import Broken
from attractor_ae.data.decode import image_suffixes, is_other_image, recognised

# Files and folders that mark a folder of results or a cache, which is never data.
_RESULTS = (
    {"config.toml", "environment.json"},
    {"config.toml", "history.csv"},
    {"metrics.json", "scores.safetensors"},
    {"precision-recall.pdf", "reliability.pdf"},
    {"table.csv", "table.tex"},
    {"cfg.toml", "checkpoints"},  # of the released code
    {"CACHEDIR.TAG"},
)


@dataclass(frozen=True)
class Visited:
    """A folder of a walk, with full paths.

    ``parts``: names of the folders down to it; ``images``: in the order of their names;
    ``unusable``: images and folders that cannot be read, and ``ignored``: photographs of other
    formats and folders of results, each with the reason; ``others``: files that are not images;
    ``hidden``: hidden folders.
    """

    folder: str
    parts: tuple[str, ...]
    images: Sequence[str] = ()
    unusable: Sequence[Broken] = ()
    ignored: Sequence[Broken] = ()
    others: Sequence[str] = ()
    hidden: Sequence[str] = ()


def walk(top: str) -> Iterator[Visited]:
    """Yield a folder and the folders in it, in the order of their names, each with its images.

    Files without the suffix of an image are recognised by their content. Hidden files and folders
    are left out, as are results and caches, except ``top``. A symbolic link to a folder is
    followed, unless it leads to one above it.
    """
    suffixes = tuple(image_suffixes())
    waiting: list[tuple[str, tuple[str, ...]]] = [(top, ())]  # with the real paths above
    while waiting:
        folder, above = waiting.pop()
        parts = Path(folder).relative_to(top).parts
        try:
            _, inner, files = next(os.walk(folder, onerror=_raise))
        except OSError as error:
            yield Visited(folder, parts, unusable=[(folder, error.strerror or str(error))])
            continue
        if parts and any(names <= {*inner, *files} for names in _RESULTS):
            reason = "is a folder of results or a cache, not of images"
            yield Visited(folder, parts, ignored=[(folder, reason)])
            continue
        unusable: list[Broken] = []
        ignored: list[Broken] = []
        visible = [name for name in (*inner, *files) if not name.startswith(".")]
        # A folder with the suffix of an image is a broken image.
        named = {name for name in visible if name.lower().endswith(suffixes)}
        folders, others = {*inner} & {*visible} - named, []
        for name in sorted({*visible} - named - folders):
            path = _join(folder, name)
            if (reason := recognised(path)) == "":
                named.add(name)
            elif reason:
                (ignored if is_other_image(name) else unusable).append((path, reason))
            else:
                others.append(path)
        images = [_join(folder, name) for name in sorted(named)]
        hidden = [_join(folder, name) for name in inner if name.startswith(".")]
        yield Visited(folder, parts, images, unusable, ignored, others, hidden)
        above = (*above, os.path.realpath(folder))
        paths = [_join(folder, name) for name in sorted(folders, reverse=True)]
        waiting += [(path, above) for path in paths if os.path.realpath(path) not in above]


_join = os.path.join


def _raise(error: OSError) -> None:
    raise error
