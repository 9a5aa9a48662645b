"""The ten data sets in the released code's folders, held against what it reads there."""

import hashlib
import importlib
import json
import pickle
import zipfile

import pytest
import torchvision

from attractor_ae import load
from attractor_ae.data.load import find_dataset
from attractor_ae.data.registry import CATALOGUE
from released import FOLDER, arrays

READ = json.loads((FOLDER / "layout.json").read_text(encoding="utf-8"))["read"]
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
