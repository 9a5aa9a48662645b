"""The way from the name of a data set to its images."""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_data_path

from attractor_ae._errors import AttractorError, unknown_name
from attractor_ae.data import cache as prepared
from attractor_ae.data.catalogue import CATALOGUE
from attractor_ae.data.decoding import ImageFormat, displayed
from attractor_ae.data.imageset import ImageSet
from attractor_ae.data.info import DatasetInfo
from attractor_ae.data.own import SUFFIXES
from attractor_ae.data.own_source import own_info
from attractor_ae.data.prepare import no_progress
from attractor_ae.data.source import Downloadable, Wanted, is_there

ROOT_VARIABLE = "ATTRACTOR_AE_DATA"
"""Environment variable that names the data root."""


@dataclass(frozen=True)
class DatasetStatus:
    """Whether a data set can be loaded from here, known without reading its images.

    Attributes
    ----------
    info
        The set's description.
    expected
        Where its images are expected: packages or files, of all splits.
    missing
        What is needed and is not there, by split; empty for a split that can be loaded.
    place
        The package or folder that holds all of it.
    """

    info: DatasetInfo
    expected: tuple[str, ...]
    missing: Mapping[str, tuple[str, ...]]
    place: str

    @property
    def present(self) -> bool:
        """Whether every split can be loaded."""
        return not any(self.missing.values())


def data_root(root: Path | str | None = None) -> Path:
    """Return the folder that holds the data sets' files.

    Parameters
    ----------
    root
        The folder, if it is already decided; else the environment variable ``ATTRACTOR_AE_DATA``
        decides, else it is the user's data directory. It need not exist.
    """
    if root is None:
        named = os.environ.get(ROOT_VARIABLE)
        root = named or user_data_path("attractor-ae", appauthor=False)
    return Path(root).expanduser()


def load(
    name: str | DatasetInfo,
    split: str = "train",
    *,
    per_class: int = -1,
    subset_seed: int | None = None,
    root: Path | str | None = None,
    factor: str = "",
    split_seed: int = 0,
    form: ImageFormat | None = None,
    max_broken: float = 0.01,
    cache: Path | str | None = None,
    on_progress: Callable[[int, int], None] = no_progress,
) -> ImageSet:
    """Load a data set by its name, or own images by their path.

    Images that have to be decoded are prepared once, in a cache that the next load opens.

    Parameters
    ----------
    name
        A name of :data:`CATALOGUE`; else a path of own images, as it stands or below the data
        root: a folder, a table of paths, or an array (`attractor_ae.data.own`). Or what
        :func:`dataset_info` returned for it, which spares a second look at own images.
    split
        One of the set's splits.
    per_class
        Keep so many images of each class (PROTOCOL section 6); -1 keeps all.
    subset_seed
        None: those are the first of each class in the set's own order; else they are drawn at
        random by this seed, see `ImageSet.random_per_class`.
    root
        Folder of the data sets' files; see :func:`data_root`.
    factor
        One of the set's variations, where it has some, e.g. SVIRO's cars; empty: the first.
    split_seed
        Divides own images into ``"train"`` and ``"test"`` where no folder or column does; told to
        :func:`dataset_info` already where ``name`` is what it returned.
    form
        Size and channels of the images; by default 64 x 64 and grey.
    max_broken
        In [0, 1], the share of image files that may be broken; these are left out.
    cache
        Folder of prepared images; by default the user's cache directory.
    on_progress
        Called with the numbers of images that are prepared and of all.

    Returns
    -------
    ImageSet
        uint8 images of shape (n, channels, size, size), with labels.

    Raises
    ------
    AttractorError
        If the name, the split or the factor is unknown, a number is out of range, files or a
        package are missing, or a file is damaged.

    Examples
    --------
    >>> load("digits8", "test", per_class=3).images.shape
    (30, 1, 64, 64)
    """
    info = name if isinstance(name, DatasetInfo) else dataset_info(name, root, split_seed)
    if per_class < 1 and per_class != -1:
        raise AttractorError(
            f"data set {info.name!r}: {per_class} images per class; give 1 or more, or -1 for all"
        )
    if subset_seed is not None and subset_seed < 0:
        raise AttractorError(
            f"data set {info.name!r}: subset_seed must be at least 0, got {subset_seed}"
        )
    if split not in info.splits:
        raise AttractorError(
            f"data set {info.name!r} has no split {split!r}; available: {', '.join(info.splits)}"
        )
    check_present(info, split, root, factor)
    store = None if cache is None else Path(cache)
    wanted = Wanted(
        per_class, subset_seed, factor, form or ImageFormat(), store, max_broken, on_progress
    )
    return info.source.load(split, data_root(root), wanted)


def check_present(
    info: DatasetInfo, split: str, root: Path | str | None = None, factor: str = ""
) -> None:
    """Raise an AttractorError if the files of a split are not there, or the factor is unknown."""
    _check_factor(info, factor)
    if missing := info.source.missing(split, data_root(root), factor):
        raise AttractorError(f"data set {info.name!r} needs {_listed(missing)}; {info.obtain}")


def dataset_info(name: str, root: Path | str | None = None, split_seed: int = 0) -> DatasetInfo:
    """Return what is known of a data set, by its name, or of own images, by their path.

    Parameters
    ----------
    name, root, split_seed
        As of :func:`load`.

    Raises
    ------
    AttractorError
        If the name is unknown, or there are no images at the path.
    """
    if name in CATALOGUE:
        return CATALOGUE[name]
    # A name without a path means what lies in the data root, as in a listing.
    bare = Path(name).name == name
    places = [data_root(root) / name, Path(name).expanduser()]
    for path in places if bare else reversed(places):
        if name and is_there(path):
            return own_info(name, path, seed=split_seed)
    if not bare or Path(name).suffix.lower() in SUFFIXES:
        raise AttractorError(
            f"{displayed(name)}: no such file or folder; give a path of own images, or the name of "
            "a data set (attractor-ae data list)"
        )
    raise unknown_name("data set", name, CATALOGUE)


def own_names(root: Path | str | None = None) -> tuple[str, ...]:
    """Return the names of own images that lie in the data root, beside the published sets.

    Parameters
    ----------
    root
        Folder of the data sets' files; see :func:`data_root`.
    """
    folder = data_root(root)
    published = {
        Path(place).relative_to(folder).parts[0]
        for info in CATALOGUE.values()
        for split in info.splits
        for place in info.source.expected(split, folder)
        if Path(place).is_relative_to(folder)
    }
    try:
        found = sorted(path.name for path in folder.iterdir())
    except OSError:
        return ()
    names = []
    for name in found:
        path = folder / name
        if name.startswith(".") or name in published or name in CATALOGUE:
            continue
        if path.is_dir() or path.suffix.lower() in SUFFIXES:
            with suppress(AttractorError):  # a folder of something else
                dataset_info(name, folder)
                names.append(name)
    return tuple(names)


def download(name: str, root: Path | str | None = None) -> None:
    """Fetch the official files of a data set and check their sums.

    Parameters
    ----------
    name
        A name of :data:`CATALOGUE`.
    root
        Folder of the data sets' files; see :func:`data_root`.

    Raises
    ------
    AttractorError
        If the name is unknown, the set has to be got otherwise, there is no network, or a sum is
        wrong; with what is to be placed where.
    """
    if name not in CATALOGUE:
        raise unknown_name("data set", name, CATALOGUE)
    info, folder = CATALOGUE[name], data_root(root)
    if not isinstance(info.source, Downloadable):
        raise AttractorError(f"data set {name!r} cannot be downloaded; {info.obtain}")
    try:
        info.source.download(folder)
    except (OSError, RuntimeError, EOFError) as error:
        reason = " ".join(str(error).split())[:200]
        state = status(name, folder)
        lacking = tuple(dict.fromkeys(m for ms in state.missing.values() for m in ms))
        raise AttractorError(
            f"data set {name!r} could not be downloaded ({reason}); place by hand "
            f"{_listed(lacking or state.expected)}: {_by_hand(info)}"
        ) from None


def clear(
    name: str | None = None, cache: Path | str | None = None, root: Path | str | None = None
) -> int:
    """Remove prepared images; the set's own files stay.

    Parameters
    ----------
    name
        Name or path of a set; None: of all sets.
    cache, root
        As for :func:`load`.

    Returns
    -------
    int
        Number of bytes that were freed.

    Raises
    ------
    AttractorError
        If the name is unknown, or a file cannot be removed.
    """
    store = None if cache is None else Path(cache)
    if name is None or name in CATALOGUE:
        return prepared.clear(name, store)
    # By the name alone: own images may be gone, and what was prepared of them is still here.
    path = Path(os.path.realpath(Path(name).expanduser()))
    stored = path.stem if path.suffix.lower() in SUFFIXES else path.name
    freed = prepared.clear(stored, store) if name and stored else 0
    if not freed:
        dataset_info(name, root)  # raises for a misspelled name
    return freed


def status(name: str, root: Path | str | None = None, factor: str = "") -> DatasetStatus:
    """Look whether a data set can be loaded, without reading its images.

    Parameters
    ----------
    name, root
        As of :func:`load`.
    factor
        One of the set's variations; empty: the first.

    Raises
    ------
    AttractorError
        If the name or the factor is unknown.
    """
    info, folder = dataset_info(name, root), data_root(root)
    _check_factor(info, factor)
    expected = [
        place for split in info.splits for place in info.source.expected(split, folder, factor)
    ]
    missing = {split: info.source.missing(split, folder, factor) for split in info.splits}
    below = [place for place in expected if Path(place).is_relative_to(folder)]
    place = os.path.commonpath(below) if len(below) > 1 else expected[0]
    if info.kind == "files" and not any(missing.values()) and not is_there(Path(place)):
        # A distribution's package keeps them elsewhere.
        folders = (Path(place).parent for place in expected)
        place = next((str(path) for path in folders if is_there(path)), place)
    return DatasetStatus(info, tuple(dict.fromkeys(expected)), missing, place)


def available(name: str, root: Path | str | None = None) -> bool:
    """Return whether every split of a data set can be loaded; see :func:`status`."""
    return status(name, root).present


def _check_factor(info: DatasetInfo, factor: str) -> None:
    if not factor or factor in info.factors:
        return
    if info.factors:
        raise unknown_name(f"factor of data set {info.name!r}:", factor, info.factors)
    raise AttractorError(
        f"data set {info.name!r} has no variations, but the factor {factor!r} is wanted; "
        'leave dataset.factor empty ("")'
    )


def _listed(places: tuple[str, ...]) -> str:
    """Return places for one line: of many, the first and how many there are."""
    if len(places) <= 3:
        return " and ".join(places)
    return f"{places[0]} and {len(places) - 1} more like it"


def _by_hand(info: DatasetInfo) -> str:
    """Return how to get a set without the command that has just failed."""
    return info.obtain.removeprefix(f"attractor-ae data download {info.name}; ").removeprefix("or ")
