import os
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from attractor_ae.data.decoding import ImageFormat, decode
from attractor_ae.data.own import find_images, load_own
from attractor_ae.data.prepare import BrokenFilesError, broken_files
from attractor_ae.errors import AttractorError

FORM = ImageFormat(size=16)


def draw(path, grey):
    """Write an image of one grey, which tells it from others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (5, 4), grey).save(path)


def greys(images):
    return images.images[:, 0, 0, 0].tolist()


@pytest.fixture
def load(tmp_path):
    def load(path, split="all", form=FORM, **options):
        return load_own(path, split, form, cache=tmp_path / "cache", **options)

    return load


@pytest.fixture
def animals(tmp_path):
    root = tmp_path / "animals"
    for i in range(20):
        draw(root / "dog" / f"{i}.png", i)
        draw(root / "cat" / "deep" / f"{i}.bmp", 100 + i)
    draw(root / "cat" / "1.PNG", 99)
    for i in range(3):
        draw(root / "10" / f"{i}.tif", 200 + i)
    (root / "dog" / "notes.txt").write_text("no image")
    (root / "dog" / ".hidden.png").write_text("no image")
    (root / "notes").mkdir()
    draw(root / ".thumbnails" / "x.png", 0)
    return root


def test_a_folder_of_classes_is_that_of_torchvision(animals, load):
    (animals / "notes").rmdir()  # torchvision refuses a class without images
    hidden = animals / ".thumbnails"
    (hidden / "x.png").unlink()
    hidden.rmdir()
    (animals / "dog" / ".hidden.png").unlink()
    oracle = ImageFolder(str(animals))

    found = find_images(animals)
    images = load(animals)

    assert [(str(item.path), item.label) for item in found.items("all")] == oracle.imgs
    assert list(images.classes) == oracle.classes
    assert images.labels.tolist() == oracle.targets
    np.testing.assert_array_equal(
        images.images, np.stack([decode(Path(path), FORM) for path, _ in oracle.imgs])
    )
    assert images.name == "animals"


def test_what_is_no_image_is_passed_over(animals, load):
    images = load(animals)
    assert images.classes == ("10", "cat", "dog")
    assert len(images) == 44
    assert broken_files("animals", "all", FORM, animals.parent / "cache") == []


def test_a_seeded_split_is_stratified_disjoint_and_complete(animals, load):
    train, test = load(animals, "train"), load(animals, "test")
    assert np.bincount(test.labels).tolist() == [1, 4, 4]
    assert np.bincount(train.labels).tolist() == [2, 17, 16]
    assert sorted(greys(train) + greys(test)) == sorted(greys(load(animals)))
    assert train.classes == test.classes
    assert greys(load(animals, "test", seed=0)) == greys(test)
    assert greys(load(animals, "test", seed=1)) != greys(test)
    assert np.bincount(load(animals, "test", test_share=0.5).labels).tolist() == [2, 10, 10]


def test_splits_that_are_there_are_used(tmp_path, load):
    root = tmp_path / "things"
    for split, classes in {"train": "ba", "test": "ab", "ood": "xa", "extra": ""}.items():
        for name in classes:
            draw(root / split / name / "1.png", ord(name))
    draw(root / "extra" / "1.png", 7)

    assert list(find_images(root).splits) == ["train", "test", "extra", "ood", "all"]
    train, test, ood, extra = (load(root, split) for split in ("train", "test", "ood", "extra"))
    assert train.classes == test.classes == ("a", "b")
    assert ood.classes == ("a", "b", "x")
    assert greys(train) == greys(test) == [ord("a"), ord("b")]
    assert ood.labels.tolist() == [0, 2]
    assert extra.labels.tolist() == [-1]
    with pytest.raises(AttractorError, match="has no split 'val'; available: train, test, extra"):
        load(root, "val")


def test_a_class_may_be_called_train(tmp_path):
    for name in ("train", "car"):
        draw(tmp_path / name / "1.png", 0)
    assert find_images(tmp_path).classes == ("car", "train")


def test_a_flat_folder_has_no_labels(tmp_path, load):
    root = tmp_path / "flat"
    for i in (3, 1, 2):
        draw(root / f"{i}.png", i)
    images = load(root)
    assert greys(images) == [1, 2, 3]
    assert images.labels.tolist() == [-1] * 3
    assert images.classes == ()
    with pytest.raises(AttractorError, match="has no split 'train'; available: all"):
        load(root, "train")


def test_two_sets_of_one_name_do_not_disturb_each_other(tmp_path, load):
    for place in ("x", "y"):
        draw(tmp_path / place / "set" / "1.png", ord(place))
    for _ in range(2):
        assert [greys(load(tmp_path / place / "set")) for place in "xy"] == [[120], [121]]
    calls = []
    load(tmp_path / "x" / "set", on_progress=lambda done, count: calls.append(done))
    assert calls == []


def test_what_looks_like_an_image_and_is_none_is_listed(animals, load):
    dog = animals / "dog"
    (dog / "empty.png").touch()
    (dog / "text.jpg").write_text("no image")
    (dog / "folder.png").mkdir()
    draw(dog / "folder.png" / "inside.png", 250)
    (dog / "loop.png").symlink_to("loop.png")
    (dog / "up").symlink_to(animals, target_is_directory=True)
    (dog / "round").symlink_to("round")
    os.mkfifo(dog / "pipe.png")
    draw(animals / "beside.png", 251)
    (Path(os.fsdecode(os.fsencode(dog) + b"/caf\xe9.png"))).touch()

    with pytest.raises(BrokenFilesError):
        load(animals)
    images = load(animals, max_broken=0.5)
    reasons = dict(broken_files("animals", "all", FORM, animals.parent / "cache"))

    assert sorted(Path(path).name for path in reasons) == sorted(
        [
            "beside.png",
            "empty.png",
            "text.jpg",
            "folder.png",
            "loop.png",
            "pipe.png",
            "caf\\xe9.png",
        ]
    )
    assert reasons[str(animals / "beside.png")] == "lies beside the folders of the classes"
    assert len(images) == 44  # those of before, once each
    assert not {250, 251} & set(greys(images))


def test_a_link_that_leads_back_ends(tmp_path, load):
    draw(tmp_path / "loops" / "a" / "1.png", 1)
    (tmp_path / "loops" / "a" / "self").symlink_to(".", target_is_directory=True)
    assert greys(load(tmp_path / "loops")) == [1]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_a_table_of_paths(tmp_path, load, delimiter, start):
    table = tmp_path / "table.csv"
    rows = [("label", "Path", "split")]
    for i, (label, split) in enumerate(
        [("10", "train"), ("9", "train"), ("9", "val"), ("", "val")]
    ):
        draw(tmp_path / "x y" / f"{i}, {i}.png", i)
        rows.append((label, f'"x y/{i}, {i}.png"', split))
    table.write_text(start + "\n".join(delimiter.join(row) for row in rows) + "\n\n")

    assert list(find_images(table).splits) == ["train", "val", "all"]
    images = load(table)
    assert (images.name, images.classes) == ("table", ("9", "10"))
    assert images.labels.tolist() == [1, 0, 0, -1]
    assert greys(images) == [0, 1, 2, 3]
    assert greys(load(table, "val")) == [2, 3]


def test_a_table_of_paths_alone_and_absolute_ones(tmp_path, load):
    draw(tmp_path / "1.png", 1)
    (tmp_path / "lists").mkdir()
    table = tmp_path / "lists" / "table.csv"
    table.write_text(f"path\n{tmp_path}/1.png\n../1.png\n")
    images = load(table)
    assert greys(images) == [1, 1]
    assert images.labels.tolist() == [-1, -1]


def test_a_table_with_names_that_are_no_utf8(tmp_path, load):
    draw(Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xe9.png")), 9)
    table = tmp_path / "table.csv"
    table.write_bytes(b"path,label\n\xe9.png,\xe9t\xe9\n")
    images = load(table)
    assert greys(images) == [9]
    assert images.classes == ("\\xe9t\\xe9",)


@pytest.mark.parametrize(
    ("labels", "classes", "expected"),
    [
        ([10, 9, None], ("9", "10"), [1, 0, -1]),
        (["b", None, "a"], ("a", "b"), [1, -1, 0]),
        ([2.0, None, float("nan")], ("2",), [0, -1, -1]),
    ],
)
def test_a_parquet_table_written_by_pyarrow(tmp_path, load, labels, classes, expected):
    for i in range(3):
        draw(tmp_path / f"{i}.png", i)
    table = tmp_path / "table.parquet"
    columns = {"other": [0] * 3, "label": labels, "path": [f"{i}.png" for i in range(3)]}
    pyarrow.parquet.write_table(pyarrow.table(columns), table)
    images = load(table)
    assert images.classes == classes
    assert images.labels.tolist() == expected
    assert greys(images) == [0, 1, 2]


def test_parquet_without_pyarrow_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "table.parquet").touch()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(AttractorError, match="to read Parquet, install: pip install pyarrow"):
        find_images(tmp_path / "table.parquet")


def test_missing_files_of_a_table_are_broken(tmp_path, load):
    draw(tmp_path / "1.png", 1)
    (tmp_path / "table.csv").write_text("path,label\n1.png,a\n2.png,a\nnul\0.png,a\n")
    with pytest.raises(BrokenFilesError, match=r"2 of 3 files.*2\.png: No such file"):
        load(tmp_path / "table.csv")


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
def test_arrays(tmp_path, load, stored, suffix, order, monkeypatch):
    monkeypatch.setattr("attractor_ae.data.own._CHUNK_BYTES", 5000)  # several chunks
    array = np.asarray(stored(PIXELS), order=order)
    path = tmp_path / f"array.{'npy' if suffix == 'npy' else 'npz'}"
    if suffix == "npy":
        np.save(path, array)
    else:
        (np.savez if suffix == "npz" else np.savez_compressed)(path, images=array)
    images = load(path, form=ImageFormat(16, 3))
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
    rows = find_images(path).rows("test")
    np.testing.assert_array_equal(test.images[:, 0], PIXELS[rows, ..., 0])


def npz(path, **arrays):
    np.savez(path, **arrays)


GREY = PIXELS[:4, ..., 0]


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("missing", lambda path: None, "no such file or folder"),
        ("x.txt", Path.touch, r"is no folder, and no file of \.csv"),
        ("x", Path.mkdir, "no images in this folder"),
        ("x.csv", Path.touch, "has no column 'path'"),
        ("x.csv", lambda path: path.write_text("path,label\n"), "has no rows"),
        ("x.csv", lambda path: path.write_text("file,label\na,b\n"), "has no column 'path'"),
        ("x.csv", lambda path: path.write_text("path,label\na\n"), "line 2: 1 fields, expected 2"),
        ("x.csv", lambda path: path.write_text("path,label\n,b\n"), "line 2: the path is empty"),
        ("x.csv", lambda path: path.write_text('path,label\n"a,b\n'), "is no table"),
        ("x.csv", Path.mkdir, "no images in this folder"),
        ("x.parquet", lambda path: path.write_text("no table"), "is no Parquet table"),
        ("x.npy", lambda path: path.write_bytes(b""), "cannot be read"),
        ("x.npy", lambda path: path.write_text("no array" * 9), "cannot be read"),
        ("x.npy", lambda path: np.save(path, GREY[0]), r"must have the shape .* got \(16, 16\)"),
        ("x.npy", lambda path: np.save(path, GREY.astype(np.int32)), "got int32"),
        ("x.npy", lambda path: np.save(path, GREY * 1.0), "image 0 has values .* divide it"),
        ("x.npy", lambda path: np.save(path, GREY * np.nan), "must lie in"),
        ("x.npy", lambda path: np.save(path, np.array([{}]), allow_pickle=True), "Python objects"),
        ("x.npz", lambda path: path.write_text("no archive"), "cannot be read"),
        ("x.npz", lambda path: npz(path, x=GREY), "has no array 'images'"),
        ("x.npz", lambda path: npz(path, images=GREY, labels=np.zeros(3)), "one an image"),
        ("x.npz", lambda path: npz(path, images=GREY, labels=np.zeros(4)), "whole numbers"),
        (
            "x.npz",
            lambda path: npz(path, images=GREY, labels=np.arange(4), classes=np.array(["a"])),
            r"must lie in -1\.\.0, as there are 1 classes, got 0\.\.3",
        ),
        (
            "x.npz",
            lambda path: npz(path, images=GREY, labels=np.array([None] * 4, dtype=object)),
            "Python objects",
        ),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, load, name, write, message):
    write(tmp_path / name)
    with pytest.raises(AttractorError, match=message) as caught:
        load(tmp_path / name)
    assert len(str(caught.value).splitlines()) == 1
    assert name in str(caught.value)


@pytest.mark.parametrize("cut", [1, 500, 3000])
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_truncated_arrays(tmp_path, load, cut, suffix):
    path = tmp_path / f"array.{suffix}"
    (np.save if suffix == "npy" else npz)(path, **{"arr" if suffix == "npy" else "images": PIXELS})
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(AttractorError, match="cannot be read"):
        load(path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"seed": -1}, "seed must be"), ({"test_share": 0.0}, r"must lie in \(0, 1\), got 0")],
)
def test_arguments_out_of_range(animals, load, changed, message):
    with pytest.raises(AttractorError, match=message):
        load(animals, **changed)
