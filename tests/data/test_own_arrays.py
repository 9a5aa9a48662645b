import gzip
import zipfile

import numpy as np
import pytest
from PIL import Image

from attractor_ae._errors import AttractorError
from attractor_ae.data import ImageFormat, load
from attractor_ae.data.decode import decode
from attractor_ae.data.sources.own import find_images

PIXELS = np.random.default_rng(0).integers(0, 256, (50, 16, 16, 3), dtype=np.uint8)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("suffix", ["npy", "npz", "packed"])
@pytest.mark.parametrize(
    "stored",
    [
        lambda x: x,
        lambda x: np.moveaxis(x, 3, 1),
        lambda x: x.astype(np.uint16) * 257,
        lambda x: x / 255,
        lambda x: (x / 255).astype(">f4"),
        lambda x: x[..., :1].repeat(3, axis=3),
    ],
)
def test_arrays(tmp_path, stored, suffix, order):
    array = np.asarray(stored(PIXELS), order=order)
    path = tmp_path / f"array.{'npy' if suffix == 'npy' else 'npz'}"
    if suffix == "npy":
        np.save(path, array)
    else:
        (np.savez if suffix == "npz" else np.savez_compressed)(path, images=array)
    images = load(str(path), "all", image_format=ImageFormat(16, 3), cache=tmp_path / "cache")
    expected = np.moveaxis(PIXELS, 3, 1)
    if (array[..., 0] == array[..., -1]).all() and array.shape[3] == 3:
        expected = expected[:, :1].repeat(3, axis=1)
    np.testing.assert_array_equal(images.images, expected)
    assert images.labels.tolist() == [-1] * 50


@pytest.mark.parametrize("stored", [lambda x: x, lambda x: x[..., None], lambda x: x[:, None]])
def test_grey_arrays(tmp_path, load, stored):
    np.save(tmp_path / "grey.npy", stored(PIXELS[..., 0]))
    np.testing.assert_array_equal(load(tmp_path / "grey.npy").images[:, 0], PIXELS[..., 0])


@pytest.mark.parametrize(
    ("arrays", "classes", "labels"),
    [
        ({"labels": np.arange(50) % 2 * 7}, ("0", "7"), np.arange(50) % 2),
        ({"labels": np.array(["b", "a"] * 25)}, ("a", "b"), 1 - np.arange(50) % 2),
        (
            {"labels": np.arange(50, dtype=np.uint8) % 2, "classes": np.array(["z", "a", "c"])},
            ("z", "a", "c"),
            np.arange(50) % 2,
        ),
    ],
)
def test_arrays_with_labels(tmp_path, load, arrays, classes, labels):
    path = tmp_path / "array.npz"
    np.savez(path, images=PIXELS[..., 0], **arrays)
    whole, train, test = load(path), load(path, "train"), load(path, "test")
    assert whole.classes == train.classes == test.classes == classes
    np.testing.assert_array_equal(whole.labels, labels)
    assert np.bincount(test.labels).tolist() == [5, 5]
    rows = find_images(path).splits["test"]
    np.testing.assert_array_equal(test.images[:, 0], PIXELS[rows, ..., 0])


def test_missing_labels_and_spellings_of_splits(tmp_path, load):
    path = tmp_path / "array.npz"
    labels = np.array(["cat", "nan", "", "dog", "-1", "None"])
    splits = np.array(["Training", "TEST", b"valid", " val ", "testing", "train"])
    np.savez(path, images=PIXELS[:6, ..., 0], labels=labels, split=splits)
    assert load(path).classes == ("cat", "dog")
    assert load(path).labels.tolist() == [0, -1, -1, 1, -1, -1]
    splits = {name: rows.tolist() for name, rows in find_images(path).splits.items()}
    assert splits == {"train": [0, 5], "test": [1, 4], "val": [2, 3], "all": [0, 1, 2, 3, 4, 5]}


@pytest.mark.parametrize("wrong", [1.0000001, -1e-9])
def test_the_value_that_is_wrong_is_visible(tmp_path, load, wrong):
    pixels = np.full((3, 8, 8), 0.5)
    pixels[1, 2, 3] = wrong
    np.save(tmp_path / "x.npy", pixels)
    with pytest.raises(AttractorError, match=f"image 1 .*{wrong}"):
        load(tmp_path / "x.npy")
    Image.fromarray(pixels[1].astype(np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(AttractorError, match=str(float(np.float32(wrong)))):
        decode(tmp_path / "x.tif", ImageFormat(16))


def npz(path, **arrays):
    np.savez(path, **arrays)


GREY = PIXELS[:4, ..., 0]


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("x.npy", lambda path: path.write_bytes(b"")),
        ("x.npy", lambda path: path.write_text("not an array" * 9)),
        ("x.npy", lambda path: np.save(path, GREY[0])),
        ("x.npy", lambda path: np.save(path, GREY.astype(np.int32))),
        ("x.npy", lambda path: np.save(path, GREY * 1.0)),
        ("x.npy", lambda path: np.save(path, GREY * np.nan)),
        ("x.npy", lambda path: np.save(path, np.array([{}]), allow_pickle=True)),
        ("x.npz", lambda path: path.write_text("not an archive")),
        ("x.npz", lambda path: npz(path, x=GREY)),
        ("x.npz", lambda path: npz(path, images=GREY, labels=np.zeros(3))),
        ("x.npz", lambda path: npz(path, images=GREY, labels=np.zeros(4))),
        (
            "x.npz",
            lambda path: npz(path, images=GREY, labels=np.arange(4), classes=np.array(["a"])),
        ),
        ("x.npz", lambda path: npz(path, images=GREY, labels=np.array([None] * 4, dtype=object))),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, load, name, write):
    write(tmp_path / name)
    with pytest.raises(AttractorError) as caught:
        load(tmp_path / name)
    assert len(str(caught.value).splitlines()) == 1
    assert name in str(caught.value)


@pytest.mark.parametrize("cut", [1, 500, 3000])
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_truncated_arrays(tmp_path, load, cut, suffix):
    path = tmp_path / f"array.{suffix}"
    (np.save if suffix == "npy" else npz)(path, **{"arr" if suffix == "npy" else "images": PIXELS})
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(AttractorError):
        load(path)


def test_an_archive_of_other_files(tmp_path, load):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("images", "text")
    with pytest.raises(AttractorError, match="not an array"):
        load(tmp_path / "x.npz")


def test_only_python_objects_are_called_that(tmp_path, load):
    np.save(tmp_path / "x.npy", np.array([{}]), allow_pickle=True)
    (tmp_path / "y.npy").write_bytes(gzip.compress(b"an array"))
    for name, reason in (("x", "can run code"), ("y", "not a file of NumPy")):
        with pytest.raises(AttractorError, match=reason):
            load(tmp_path / f"{name}.npy")


def test_nan_is_called_that(tmp_path, load):
    for value in (np.nan, np.inf):
        images = np.zeros((2, 16, 16))
        images[1, 2, 3] = value
        np.save(tmp_path / "x.npy", images)
        with pytest.raises(AttractorError, match="image 1 has NaN or infinite"):
            load(tmp_path / "x.npy")


def test_a_shape_that_no_file_can_have(tmp_path, load):
    head = "{'descr': '|u1', 'fortran_order': False, 'shape': (9223372036854775807, 64, 64), }"
    head = head.ljust(117) + "\n"
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\1\0" + b"\x76\0" + head.encode() + bytes(99))
    with pytest.raises(AttractorError, match="cannot be read"):
        load(tmp_path / "x.npy")
