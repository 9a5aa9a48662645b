"""Loading of data sets by name or path."""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_data_path

from attractor_ae._errors import AttractorError, check_known, unknown_name
from attractor_ae._files import user_path
from attractor_ae._reporter import SILENT, Reporter
from attractor_ae.data import cache as prepared
from attractor_ae.data.decode import ImageFormat, displayed
from attractor_ae.data.image_set import ImageSet, Wanted
from attractor_ae.data.info import DatasetInfo
from attractor_ae.data.registry import CATALOGUE
from attractor_ae.data.sources import is_there
from attractor_ae.data.sources.own import SUFFIXES, own_info

ROOT_VARIABLE = "ATTRACTOR_AE_DATA"
"""Environment variable that names the data root."""

_LEFT_OUT_SHOWN = 10
"""Number of files that are named per reason."""


@dataclass(frozen=True)
class DatasetStatus:
    """Availability of a data set, found without reading its images.

    ``expected``: packages or files of all splits; ``missing``: those that are missing, by split;
    ``place``: the package, or the common folder of the files.
    """

    info: DatasetInfo
    expected: tuple[str, ...]
    missing: Mapping[str, tuple[str, ...]]
    place: str

    @property
    def present(self) -> bool:
        """Whether every split that is not optional can be loaded."""
        optional = self.info.optional_splits
        return not any(places for split, places in self.missing.items() if split not in optional)


@dataclass(frozen=True)
class Dataset:
    """A data set, the data root that contains its files, and a note about an ambiguous name."""

    info: DatasetInfo
    root: Path
    note: str = ""

    def check_present(self, split: str, factor: str = "") -> None:
        """Raise an AttractorError if a split or factor does not exist, or its files are missing."""
        if split not in self.info.splits:
            raise AttractorError(
                f"data set {self.info.name!r} has no split {split!r}; available: "
                f"{', '.join(self.info.splits)}"
            )
        factors = self.info.factors
        if factor and not factors:
            raise AttractorError(
                f"data set {self.info.name!r} has no variants, got the factor {factor!r}; "
                'leave dataset.factor empty ("")'
            )
        if factor and factor not in factors:
            raise unknown_name(f"factor of data set {self.info.name!r}:", factor, factors)
        if missing := self.info.source.missing(split, self.root, factor):
            raise AttractorError(
                f"data set {self.info.name!r} needs {_listed(missing)}; {self.info.obtain}"
            )

    def load(self, split: str, wanted: Wanted) -> ImageSet:
        """Load the wanted images of a split; errors as for :func:`load`."""
        self.check_present(split, wanted.factor)
        if self.note:
            wanted.reporter.note(self.note)
        images = self.info.source.load(split, self.root, wanted)
        reasons: dict[str, list[str]] = {}
        for path, reason in images.left_out:
            reasons.setdefault(reason, []).append(path)
        for reason, paths in reasons.items():
            for path in paths[:_LEFT_OUT_SHOWN]:
                wanted.reporter.note(f"left out: {path}: {reason}")
            if others := len(paths[_LEFT_OUT_SHOWN:]):
                wanted.reporter.note(f"left out: {others} other files: {reason}")
        return images

    def status(self) -> DatasetStatus:
        """Return whether the set can be loaded, without reading its images."""
        info, root = self.info, self.root
        expected = [place for split in info.splits for place in info.source.expected(split, root)]
        missing = {split: info.source.missing(split, root) for split in info.splits}
        below = [place for place in expected if Path(place).is_relative_to(root)]
        place = os.path.commonpath(below) if len(below) > 1 else expected[0]
        if info.kind == "files" and not any(missing.values()) and not is_there(Path(place)):
            # A distribution's package installs the files elsewhere.
            folders = (Path(place).parent for place in expected)
            place = next((str(path) for path in folders if is_there(path)), place)
        return DatasetStatus(info, tuple(dict.fromkeys(expected)), missing, place)


def data_root(root: Path | str | None = None) -> Path:
    """Return ``root`` if given, else ``$ATTRACTOR_AE_DATA``, else the user's data directory."""
    if root is None:
        root = os.environ.get(ROOT_VARIABLE) or user_data_path("attractor-ae", appauthor=False)
    return user_path(root)


def find_dataset(name: str, root: Path | str | None = None, split_seed: int = 0) -> Dataset:
    """Find a data set by name, or your own images by path; arguments as for :func:`load`.

    The exact name of a built-in set means this set, even if there is a folder of that name. With
    other capitals, a folder comes first, unless it is the set's own in the data root. A path
    with a separator, e.g. ``./mnist``, is always a path.
    """
    folder = data_root(root)
    # A name without a folder is searched in the data root first, as `data list` shows it.
    bare = Path(name).name == name
    places = [folder / name, user_path(name)]
    found = [path for path in (places if bare else places[::-1]) if name and is_there(path)]
    info = CATALOGUE.get(name.lower()) if bare else None
    if info is not None:
        others = [path for path in found if not _is_part_of(info, path, folder)]
        if name == info.name or not others:
            note = f"{name!r} is the built-in data set; for the folder, write ./{name}"
            return Dataset(info, folder, note if others and is_there(Path(name)) else "")
    if found:
        note = f"{name!r} is the folder {found[0]}; for the built-in data set, write {name.lower()}"
        own = own_info(name, found[0], seed=split_seed)
        return Dataset(own, folder, note if info is not None else "")
    if not bare or Path(name).suffix.lower() in SUFFIXES:
        raise AttractorError(
            f"{displayed(name)}: no such file or folder; give the path of your own images, or the "
            "name of a data set (to list them, run: attractor-ae data list)"
        )
    unknown = unknown_name("data set", name, CATALOGUE)
    raise AttractorError(f"{unknown}; a file or folder {displayed(name)!r} does not exist either")


def _is_part_of(info: DatasetInfo, path: Path, root: Path) -> bool:
    """Return whether a folder contains files of a built-in set in the data root."""
    return any(
        path.resolve() in Path(place).resolve().parents
        for split in info.splits
        if not info.source.missing(split, root)
        for place in info.source.expected(split, root)
    )


def load(
    name: str,
    split: str = "train",
    *,
    per_class: int = -1,
    subset_seed: int | None = None,
    root: Path | str | None = None,
    factor: str = "",
    split_seed: int = 0,
    image_format: ImageFormat | None = None,
    max_broken: float = 0.01,
    cache: Path | str | None = None,
    reporter: Reporter = SILENT,
) -> ImageSet:
    """Load a data set by name, or your own images by path.

    Images that must be decoded are prepared once and cached for later loads.

    Args:
        name: A name in :data:`CATALOGUE`, or the path of your own images, which may be relative to
            the data root: a folder, a table of paths, or an array
            (`attractor_ae.data.sources.own`).
        split: One of the set's splits.
        per_class, subset_seed, factor, image_format, max_broken, cache, reporter: As for `Wanted`.
        root: Folder of the data sets' files; see :func:`data_root`.
        split_seed: Seed that divides your own images into ``"train"`` and ``"test"`` if no folder
            or column does.

    Raises:
        AttractorError: If the name, the split or the factor is unknown, a number is out of range,
            files or a package are missing, or a file is damaged.

    Examples:
        >>> load("digits8", "test", per_class=3).images.shape
        (30, 1, 64, 64)
    """
    form, store = image_format or ImageFormat(), None if cache is None else Path(cache)
    wanted = Wanted(per_class, subset_seed, factor, form, store, max_broken, reporter)
    return find_dataset(name, root, split_seed).load(split, wanted)


def own_names(root: Path | str | None = None) -> tuple[str, ...]:
    """Return the names of your own images in the data root, without the published sets."""
    folder = data_root(root)
    published = {
        Path(place).relative_to(folder).parts[0]
        for info in CATALOGUE.values()
        for split in info.splits
        for place in info.source.expected(split, folder)
        if Path(place).is_relative_to(folder)
    }
    names = []
    with suppress(OSError):
        for path in sorted(folder.iterdir()):
            hidden = path.name.startswith(".") or path.name in {*published, *CATALOGUE}
            if not hidden and (path.is_dir() or path.suffix.lower() in SUFFIXES):
                with suppress(AttractorError):  # a folder without images
                    if find_dataset(path.name, folder).info.kind == "own":
                        names.append(path.name)
    return tuple(names)


def download(name: str, root: Path | str | None = None) -> None:
    """Download the official files of a set of :data:`CATALOGUE` and verify their checksums.

    Raises:
        AttractorError: If the name is unknown, the set cannot be downloaded, there is no network,
            or a checksum is wrong; the message says which files to put where.
    """
    check_known("data set", name, CATALOGUE)
    dataset = find_dataset(name, root)
    info = dataset.info
    if not hasattr(info.source, "download"):
        raise AttractorError(f"data set {name!r} cannot be downloaded; {info.obtain}")
    try:
        info.source.download(dataset.root)  # type: ignore[attr-defined]
    except (OSError, RuntimeError, EOFError) as error:
        reason = " ".join(str(error).split())[:200]
        state = dataset.status()
        lacking = tuple(dict.fromkeys(m for ms in state.missing.values() for m in ms))
        # How to get it without the command that has just failed.
        by_hand = info.obtain.removeprefix(f"run: attractor-ae data download {name}; ")
        raise AttractorError(
            f"data set {name!r} could not be downloaded ({reason}); to provide "
            f"{_listed(lacking or state.expected)} yourself, {by_hand.removeprefix('or ')}"
        ) from None


def clear(
    name: str | None = None, cache: Path | str | None = None, root: Path | str | None = None
) -> int:
    """Remove the prepared images of a set, or of all; return the number of freed bytes."""
    store = None if cache is None else Path(cache)
    if name is None or name in CATALOGUE:
        return prepared.clear(name, store)
    # Only the name is used: the user's images may be gone, but the prepared ones still exist.
    path = Path(os.path.realpath(user_path(name)))
    stored = path.stem if path.suffix.lower() in SUFFIXES else path.name
    freed = prepared.clear(stored, store) if name and stored else 0
    if not freed:
        find_dataset(name, root)  # raises for a misspelled name
    return freed


def _listed(places: tuple[str, ...]) -> str:
    """Return places as text; if there are many, the first one and the number of others."""
    if len(places) <= 3:
        return " and ".join(places)
    return f"{places[0]} and {len(places) - 1} other files"
