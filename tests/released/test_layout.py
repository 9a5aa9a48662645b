"""The ten data sets in the released code's folders, held against what it reads there."""

import hashlib
import importlib
import json
import pickle
import zipfile

import numpy as np
import pytest
import torchvision
from PIL import Image

from attractor_ae import AttractorError, load
from attractor_ae.data import ImageFormat
from attractor_ae.data.load import find_dataset
from attractor_ae.data.registry import CATALOGUE
from released import FOLDER, arrays

LAYOUT = json.loads((FOLDER / "layout.json").read_text(encoding="utf-8"))
READ = LAYOUT["read"]
OMNIGLOT = ("images_background", "images_evaluation")


def md5(path):
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Unpack and complete the small data root, with its checksums in place of the official ones."""
    folder = tmp_path_factory.mktemp("released") / "root"
    with zipfile.ZipFile(FOLDER / "layout.zip") as file:
        file.extractall(folder)
    stored = arrays("layout.npz")
    batches = folder / "CIFAR10/cifar-10-batches-py"
    batches.mkdir(parents=True)
    databases = {}
    for key, value in stored.items():
        kind, _, name = key.partition(" ")
        if kind == "cifar" and name.startswith("data "):
            name = name.removeprefix("data ")
            content = {"data": value, "labels": stored[f"cifar labels {name}"].tolist()}
            (batches / name).write_bytes(pickle.dumps(content, protocol=2))
        elif kind == "lsun":
            database, _, entry = name.partition("/")
            databases.setdefault(database, {})[entry.encode()] = value.tobytes()
    names = list(CATALOGUE["cifar10"].source.classes)
    (batches / "batches.meta").write_bytes(pickle.dumps({"label_names": names}, protocol=2))
    lmdb = importlib.import_module("lmdb")
    for name, entries in databases.items():
        path = folder / "LSUN" / f"{name}_lmdb"
        path.mkdir(parents=True)
        with lmdb.open(str(path), map_size=2**20) as database, database.begin(write=True) as writer:
            for key, value in entries.items():
                writer.put(key, value)
    return folder


@pytest.fixture(autouse=True)
def own_checksums(root, monkeypatch):
    """Replace the official checksums by those of the small files."""
    sets = torchvision.datasets
    batches = root / "CIFAR10/cifar-10-batches-py"
    train = [[f"data_batch_{i}", md5(batches / f"data_batch_{i}")] for i in range(1, 6)]
    monkeypatch.setattr(sets.CIFAR10, "train_list", train)
    monkeypatch.setattr(sets.CIFAR10, "test_list", [["test_batch", md5(batches / "test_batch")]])
    meta = {**sets.CIFAR10.meta, "md5": md5(batches / "batches.meta")}
    monkeypatch.setattr(sets.CIFAR10, "meta", meta)
    split_list = {
        split: ["", f"{split}_32x32.mat", md5(root / f"SVHN/{split}_32x32.mat")]
        for split in ("train", "test")
    }
    monkeypatch.setattr(sets.SVHN, "split_list", split_list)
    zips = {name: md5(root / f"Omniglot/omniglot-py/{name}.zip") for name in OMNIGLOT}
    monkeypatch.setattr(sets.Omniglot, "zips_md5", zips)
    places = root / "Places365"
    categories = "categories_places365.txt"
    monkeypatch.setattr(sets.Places365, "_CATEGORIES_META", (categories, md5(places / categories)))
    lists = {
        split: (name, md5(places / name))
        for split, name in (
            ("val", "places365_val.txt"),
            ("train-standard", "places365_train_standard.txt"),
        )
    }
    monkeypatch.setattr(sets.Places365, "_FILE_LIST_META", lists)


def grouped(pairs):
    """Return the sets of images of one label."""
    return {frozenset(image for k, image in pairs if k == label) for label, _ in pairs}


def hashes(images):
    return [hashlib.sha256(image.tobytes()).hexdigest()[:20] for image in images]


@pytest.mark.parametrize("name", [name for name, i in CATALOGUE.items() if i.kind == "files"])
def test_every_set_is_recognised(name, root):
    assert find_dataset(name, root).status().present


def described(entry):
    return "-".join(str(entry[k]) for k in ("name", "split", "factor", "nbr_of_samples_per_class"))


@pytest.mark.parametrize("entry", READ, ids=described)
def test_labels_and_pixels_are_those_of_the_released_code(entry, root, tmp_path):
    found = load(
        entry["name"],
        entry["split"],
        per_class=entry["nbr_of_samples_per_class"],
        root=root,
        factor=entry["factor"],
        cache=tmp_path,
    )
    labels = found.labels.tolist()
    if entry["name"] == "gtsrb":  # its labels are the numbers of the signs, less 10
        labels = [int(found.classes[label].removeprefix("sign ")) - 10 for label in labels]
    pairs = list(zip(labels, hashes(found.images), strict=True))
    expected = list(zip(entry["labels"], entry["sha256"], strict=True))
    if entry["name"] == "omniglot":  # its characters are numbered in the order of the disk
        pairs, expected = grouped(pairs), grouped(expected)
    elif entry["order"].startswith("of the disk"):
        pairs, expected = sorted(pairs), sorted(expected)
    assert pairs == expected


def released_images(files):
    """Return the images of files as the released code reads them."""
    read = [
        Image.open(file).convert("L").resize((64, 64), Image.Resampling.BILINEAR) for file in files
    ]
    return np.stack(read)[:, None]


@pytest.mark.parametrize(
    ("name", "pattern"),
    [("gtsrb", "GTSRB/test_png/*/*.png"), ("omniglot", "Omniglot/*/images_evaluation/*/*/*.png")],
)
def test_what_the_released_code_reads_in_the_order_of_the_disk_is_sorted(name, pattern, root):
    files = sorted(root.glob(pattern))
    found = load(name, "test", per_class=-1, root=root)
    np.testing.assert_array_equal(found.images, released_images(files))
    if name == "gtsrb":  # signs 10 to 19
        labels = [int(file.parent.name) - 10 for file in files]
    else:
        folders = sorted({file.parent for file in files})
        labels = [folders.index(file.parent) for file in files]
    assert found.labels.tolist() == labels


def test_the_training_images_of_sviro_are_as_many_as_the_config_says(root):
    """The released code takes all, whatever the config says: here two images of each class."""
    assert load("sviro", "train", per_class=1, root=root, factor="all").labels.tolist() == [
        0,
        2,
        5,
        7,
    ]
    assert len(load("sviro", "train", per_class=-1, root=root, factor="all")) == 8


def test_minus_one_is_all_images(tmp_path):
    """The released code takes the first 10 000."""
    raw = tmp_path / "MNIST/MNIST/raw"
    raw.mkdir(parents=True)
    count = 10_003
    shapes = {"images-idx3": (count, 2, 2), "labels-idx1": (count,)}
    for kind, shape in shapes.items():
        head = b"\0\0\x08" + bytes([len(shape)]) + np.array(shape, ">i4").tobytes()
        values = np.arange(np.prod(shape)) // 1000 % 10
        (raw / f"t10k-{kind}-ubyte").write_bytes(head + values.astype(np.uint8).tobytes())
    found = load("mnist", "test", per_class=-1, root=tmp_path, image_format=ImageFormat(16))
    assert len(found) == count


@pytest.mark.parametrize("entry", LAYOUT["refused"], ids=described)
def test_what_the_released_code_refuses_is_refused(entry, root):
    def read():
        count = entry["nbr_of_samples_per_class"]
        return load(
            entry["name"], entry["split"], per_class=count, root=root, factor=entry["factor"]
        )

    if entry["name"] == "lsun":  # it needs 10 000 images
        assert len(read()) == 20
    else:
        with pytest.raises(AttractorError, match=entry["name"]):
            read()


def test_a_folder_of_the_layout_is_the_set_itself(root, tmp_path, monkeypatch):
    """`GTSRB`, whose sub-folders look like classes, is the data set of traffic signs."""
    for name in ("GTSRB", "SVHN", "MNIST"):
        assert find_dataset(name, root).info is CATALOGUE[name.lower()]
    monkeypatch.chdir(root)
    assert find_dataset("GTSRB", ".").info is CATALOGUE["gtsrb"]
    assert find_dataset("./GTSRB", ".").info.kind == "own"
    # Elsewhere a folder of that name is the folder.
    assert find_dataset("GTSRB", tmp_path).info.kind == "own"
    assert "for the built-in data set, write gtsrb" in find_dataset("GTSRB", tmp_path).note
