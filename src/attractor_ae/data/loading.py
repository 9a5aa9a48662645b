"""The way from the name of a data set to its images."""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_data_path

from attractor_ae.data import prepare as prepared
from attractor_ae.data.catalogue import CATALOGUE, DatasetInfo
from attractor_ae.data.decoding import ImageFormat
from attractor_ae.data.imageset import ImageSet
from attractor_ae.data.prepare import broken_files, no_progress
from attractor_ae.data.source import Downloadable, Wanted, is_there
from attractor_ae.errors import AttractorError, unknown_name

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
    name: str,
    split: str = "train",
    *,
    per_class: int = -1,
    root: Path | str | None = None,
    factor: str = "",
    form: ImageFormat | None = None,
    cache: Path | str | None = None,
    on_progress: Callable[[int, int], None] = no_progress,
) -> ImageSet:
    """Load a data set by its name, or own images by their path.

    Images that have to be decoded are prepared once, in a cache that the next load opens.

    Parameters
    ----------
    name
        A name of :data:`CATALOGUE`; else a path that exists, of own images: a folder, a table of
        paths, or an array (`attractor_ae.data.own`).
    split
        One of the set's splits.
    per_class
        Keep the first so many images of each class, in the set's own order (PROTOCOL section
        6); -1 keeps all.
    root
        Folder of the data sets' files; see :func:`data_root`.
    factor
        One of the set's variations, where it has some, e.g. SVIRO's cars; empty: the first.
    form
        Size and channels of the images; by default 64 x 64 and grey.
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
        If the name, the split or the factor is unknown, ``per_class`` is no such number, files or
        a package are missing, or a file is damaged.

    Examples
    --------
    >>> load("digits8", "test", per_class=3).images.shape
    (30, 1, 64, 64)
    """
    if per_class < 1 and per_class != -1:
        raise AttractorError(
            f"data set {name!r}: {per_class} images per class; give 1 or more, or -1 for all"
        )
    form = form or ImageFormat()
    store = None if cache is None else Path(cache)
    if _is_own(name):
        from attractor_ae.data.own import load_own

        own = Path(name).expanduser()
        found = load_own(own, split, form, cache=store, on_progress=on_progress)
        return found.first_per_class(per_class)
    info = _info(name)
    if split not in info.splits:
        raise AttractorError(
            f"data set {name!r} has no split {split!r}; available: {', '.join(info.splits)}"
        )
    _check_factor(info, factor)
    folder = data_root(root)
    if missing := info.source.missing(split, folder, factor):
        raise AttractorError(f"data set {name!r} needs {_listed(missing)}; {info.obtain}")
    return info.source.load(split, folder, Wanted(per_class, factor, form, store, on_progress))


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
    info, folder = _info(name), data_root(root)
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


def splits_of(name: str) -> tuple[str, ...]:
    """Return the splits of a set, by its name or path, without reading its images.

    Raises
    ------
    AttractorError
        If the name is unknown, or there are no images at the path.
    """
    if not _is_own(name):
        return tuple(_info(name).splits)
    from attractor_ae.data.own import ALL, find_images

    found = tuple(find_images(Path(name)).splits)
    return tuple(split for split in found if split != ALL) or found


def tested_split(name: str) -> str:
    """Return the split that stands for a set when it is tested on, by its name or path.

    Of own images that is ``"test"``, or, where nothing is set apart for testing, the first split.

    Raises
    ------
    AttractorError
        As of :func:`splits_of`.
    """
    splits = splits_of(name)
    if _is_own(name):
        return "test" if "test" in splits else splits[0]
    return _info(name).test_split


def clear(name: str | None = None, cache: Path | str | None = None) -> int:
    """Remove prepared images; the set's own files stay.

    Parameters
    ----------
    name
        Name or path of a set; None: of all sets.
    cache
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
    if name is not None and _is_own(name):
        from attractor_ae.data.own import find_images

        name = find_images(Path(name)).name
    elif name is not None:
        name = _info(name).name
    return prepared.clear(name, None if cache is None else Path(cache))


def left_out(images: ImageSet, cache: Path | str | None = None) -> list[tuple[str, str]]:
    """Return the files that were left out when images were prepared, because they are broken.

    Parameters
    ----------
    images
        What :func:`load` returned.
    cache
        As for :func:`load`.

    Returns
    -------
    list of (str, str)
        Each file and what is wrong with it; empty for images that needed no preparation.
    """
    channels, size = images.images.shape[1:3]
    store = None if cache is None else Path(cache)
    found = []
    for crop in (False, True):  # known to the set's source alone
        with suppress(AttractorError):
            form = ImageFormat(size, channels, crop)
            found += broken_files(images.name, images.split, form, store)
    return found


def status(name: str, root: Path | str | None = None, factor: str = "") -> DatasetStatus:
    """Look whether a data set can be loaded, without reading its images.

    Parameters
    ----------
    name
        A name of :data:`CATALOGUE`.
    root
        Folder of the data sets' files; see :func:`data_root`.
    factor
        One of the set's variations; empty: the first.

    Raises
    ------
    AttractorError
        If the name or the factor is unknown.
    """
    info, folder = _info(name), data_root(root)
    _check_factor(info, factor)
    expected = [
        place for split in info.splits for place in info.source.expected(split, folder, factor)
    ]
    missing = {split: info.source.missing(split, folder, factor) for split in info.splits}
    below = [place for place in expected if Path(place).is_relative_to(folder)]
    place = os.path.commonpath(below) if len(below) > 1 else expected[0]
    return DatasetStatus(info, tuple(dict.fromkeys(expected)), missing, place)


def available(name: str, root: Path | str | None = None) -> bool:
    """Return whether every split of a data set can be loaded; see :func:`status`."""
    return status(name, root).present


def _is_own(name: str) -> bool:
    """Return whether a name is no name of a set, but a path that exists."""
    return name not in CATALOGUE and is_there(Path(name).expanduser())


def _info(name: str) -> DatasetInfo:
    if name not in CATALOGUE:
        raise unknown_name("data set", name, CATALOGUE)
    return CATALOGUE[name]


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
