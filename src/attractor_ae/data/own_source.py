"""Own images as a data set like those of the catalogue."""

import os
from dataclasses import dataclass
from pathlib import Path

from attractor_ae.data.decoding import displayed
from attractor_ae.data.imageset import ImageSet
from attractor_ae.data.info import DatasetInfo, SplitInfo
from attractor_ae.data.own import ALL, OwnImages, find_images
from attractor_ae.data.own_arrays import ARRAYS, array_images
from attractor_ae.data.prepare import Item, prepare, prepare_arrays
from attractor_ae.data.source import Wanted


@dataclass(frozen=True)
class OwnSource:
    """Source of images that were found at a path.

    Attributes
    ----------
    found
        What was found there.
    seed
        What the splits were drawn with, if no folder or column tells them.
    """

    found: OwnImages
    seed: int

    def expected(self, split: str, root: Path, factor: str = "") -> tuple[str, ...]:
        """Return the folder or file."""
        return (displayed(self.found.path),)

    def missing(self, split: str, root: Path, factor: str = "") -> tuple[str, ...]:
        """Return nothing: the images were found."""
        return ()

    def load(self, split: str, root: Path, wanted: Wanted) -> ImageSet:
        """Return the wanted images of a split.

        The name of the set is that of the folder, or of the file without its suffix.

        Raises
        ------
        AttractorError
            If a file is damaged, or too many images are broken.
        """
        found = self.found
        rows = found.rows(split)
        rows = rows[wanted.rows(found.labels[rows])]
        variant = [os.fspath(found.path), wanted.selection]
        if found.seeded and split != ALL:
            variant.append(str(self.seed))
        if found.path.suffix.lower() in ARRAYS and found.path.is_file():
            return prepare_arrays(
                found.name,
                displayed(split),
                array_images(found.path, rows),
                found.labels[rows],
                found.split_classes(split),
                wanted.form,
                source_files=[found.path],
                variant="\0".join(variant),
                cache=wanted.cache,
                on_progress=wanted.on_progress,
            )
        paths = (found.paths[row] for row in rows.tolist())
        return prepare(
            found.name,
            displayed(split),
            list(map(Item, paths, found.labels[rows].tolist())),
            found.split_classes(split),
            wanted.form,
            variant="\0".join(variant),
            unusable=found.unusable,
            ignored=found.ignored,
            cache=wanted.cache,
            max_broken=wanted.max_broken,
            on_progress=wanted.on_progress,
        )


def own_info(name: str, path: Path, *, seed: int = 0) -> DatasetInfo:
    """Return what is known of own images, after a look at their files or their table.

    Parameters
    ----------
    name
        What the set is to be called.
    path
        The folder or file.
    seed
        As of :func:`attractor_ae.data.own.find_images`.

    Raises
    ------
    AttractorError
        If there are no images at the path.
    """
    found = find_images(path, seed=seed)
    splits = {
        split: SplitInfo(len(rows), len(found.split_classes(split)))
        for split, rows in found.splits.items()
    }
    # What a network is not trained on; of images without labels, the split that there is.
    others = [split for split in splits if split not in {"train", ALL}]
    test = "test" if "test" in splits else next(iter(others or splits))
    return DatasetInfo(
        name=name,
        title="own images",
        kind="own",
        splits=splits,
        natural=True,  # taken for photographs
        source=OwnSource(found, seed),
        obtain="they are your own",
        licence="your own",
        citation="",
        homepage="",
        test_split=test,
        out_split=ALL if found.seeded else test,
        per_class=-1,
    )
