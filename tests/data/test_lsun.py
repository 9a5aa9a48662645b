import io
import sys

import lmdb
import numpy as np
import pytest
import torchvision.datasets
from PIL import Image

from attractor_ae._errors import AttractorError
from attractor_ae.data import CATALOGUE, ImageFormat, find_dataset, load
from attractor_ae.data.cache import BrokenFilesError
from attractor_ae.data.image_set import random_rows

RANDOM = np.random.default_rng(0)
CATEGORIES = CATALOGUE["lsun"].source.classes


def encoded(picture):
    """Return a picture as WebP without loss; the published databases hold WebP as well."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format="WEBP", lossless=True)
    return stream.getvalue()


def write(root, category, values):
    path = root / "lsun" / f"{category}_train_lmdb"
    path.mkdir(parents=True)
    with lmdb.open(str(path), map_size=1 << 22) as environment, environment.begin(write=True) as t:
        for key, value in values.items():
            t.put(key, value)
    return path


@pytest.fixture
def pictures(tmp_path):
    """Three grey pictures a category below the root; they come in the order of their keys."""
    truth = {}
    for category in CATEGORIES:
        grey = RANDOM.integers(0, 256, (3, 64, 64), dtype=np.uint8)
        keys = [RANDOM.bytes(20).hex().encode() for _ in grey]  # hashes, as published
        colour = np.repeat(grey[..., None], 3, axis=3)
        write(tmp_path, category, dict(zip(keys, map(encoded, colour), strict=True)))
        truth[category] = grey[np.argsort(keys)]
    return truth


def read(root, **wanted):
    return load("lsun", root=root, cache=root / "cache", **wanted)


def test_reads_back_what_was_written(pictures, tmp_path):
    for _ in range(2):  # decoded, and from the cache
        found = read(tmp_path)
        np.testing.assert_array_equal(found.images[:, 0], np.concatenate(list(pictures.values())))
        assert found.labels.tolist() == np.repeat(np.arange(10), 3).tolist()
        assert (found.name, found.split, found.classes) == ("lsun", "train", CATEGORIES)


def test_a_random_subset_is_that_of_the_whole_split(pictures, tmp_path):
    whole = read(tmp_path)
    for seed in (0, 1, 2):
        found = read(tmp_path, per_class=2, subset_seed=seed)
        expected = whole.take(random_rows(whole.labels, 2, seed))
        np.testing.assert_array_equal(found.images, expected.images)
        assert found.labels.tolist() == np.repeat(np.arange(10), 2).tolist()


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # torchvision's
def test_agrees_with_torchvision(pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # torchvision writes its cache of keys there
    found = read(tmp_path)
    classes = [f"{category}_train" for category in CATEGORIES]
    oracle = torchvision.datasets.LSUN(str(tmp_path / "lsun"), classes=classes)
    assert len(oracle) == len(found)
    for i in range(len(oracle)):
        picture, label = oracle[i]
        assert label == found.labels[i]
        np.testing.assert_array_equal(found.images[i, 0], np.asarray(picture.convert("L")))
    for database in oracle.dbs:
        database.env.close()


def test_the_first_of_each_class_are_read_alone(pictures, tmp_path):
    # The last of a category is damaged: it is not looked at.
    path = tmp_path / "lsun/tower_train_lmdb"
    with lmdb.open(str(path)) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"zzz", b"no image")
    found = read(tmp_path, per_class=2)
    np.testing.assert_array_equal(
        found.images[:, 0], np.concatenate([grey[:2] for grey in pictures.values()])
    )
    with pytest.raises(BrokenFilesError) as caught:
        read(tmp_path)
    assert [name for name, _ in caught.value.broken] == [f"{path}: image 'zzz'"]
    found = read(tmp_path, max_broken=0.05)
    assert len(found) == 30
    assert found.left_out == caught.value.broken


def test_colour_of_another_size(pictures, tmp_path):
    found = read(tmp_path, image_format=ImageFormat(size=64, channels=3))
    first = pictures["bedroom"][0]
    np.testing.assert_array_equal(found.images[0], np.stack([first] * 3))


def test_nothing_is_written_next_to_the_databases(pictures, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    before = sorted(path for path in (tmp_path / "lsun").rglob("*"))
    read(tmp_path)
    assert sorted(path for path in (tmp_path / "lsun").rglob("*")) == before
    assert not list((tmp_path / "here").iterdir())


def test_missing_categories_are_named(pictures, tmp_path):
    assert find_dataset("lsun", tmp_path).status().present
    for category in ("bridge", "tower"):
        (tmp_path / f"lsun/{category}_train_lmdb/data.mdb").unlink()
    places = tuple(f"{tmp_path}/lsun/{name}_train_lmdb/data.mdb" for name in ("bridge", "tower"))
    assert find_dataset("lsun", tmp_path).status().missing["train"] == places
    with pytest.raises(AttractorError) as caught:
        read(tmp_path)
    assert " and ".join(places) in str(caught.value)


def test_without_the_package_one_line_says_how_to_get_it(pictures, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(AttractorError) as caught:
        read(tmp_path)
    assert str(caught.value) == (
        "data set 'lsun' needs the package lmdb; install it with: pip install 'attractor-ae[lsun]'"
    )


@pytest.mark.parametrize("keep", [1, 2, 3, 5, -1])
def test_a_truncated_database_is_one_line(tmp_path, keep):
    for category in CATEGORIES:
        data = {bytes([65 + i]): RANDOM.bytes(9000) for i in range(4)}
        path = write(tmp_path, category, data) / "data.mdb"
    whole = path.read_bytes()
    path.write_bytes(whole[: keep * 4096])
    with pytest.raises(AttractorError, match="tower_train_lmdb: is not an LMDB database") as caught:
        read(tmp_path)
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_that_is_not_a_database(pictures, tmp_path):
    file = tmp_path / "lsun/kitchen_train_lmdb/data.mdb"
    file.write_bytes(b"\0" * 8192)
    with pytest.raises(AttractorError) as caught:
        read(tmp_path)
    assert str(file.parent) in str(caught.value)
