"""Each set that torchvision reads: written small in its official format, and read back.

torchvision compares files with published checksums. Its tables of sums are changed here to those
of the small files; one test a set shows that another file is refused.
"""

import hashlib
import pickle
import subprocess
import sys
import urllib.error

import numpy as np
import pytest
import scipy.io
import torchvision.datasets
from PIL import Image
from torchvision.transforms import functional

from attractor_ae._errors import AttractorError
from attractor_ae.data import CATALOGUE, ImageFormat, download, load

RANDOM = np.random.default_rng(0)


def md5(path):
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def pictures(n, size=64):
    """Return n grey pictures as (n, size, size, 3): equal channels, so that grey is exact."""
    grey = RANDOM.integers(0, 256, (n, size, size, 1), dtype=np.uint8)
    return np.repeat(grey, 3, axis=3)


def official(picture):
    """Return a picture as PROTOCOL says, by torchvision: L, then 64 x 64."""
    return np.asarray(functional.resize(Image.fromarray(picture).convert("L"), [64, 64]))


class Svhn:
    name, key = "svhn", "SVHN"

    @staticmethod
    def write(root, monkeypatch):
        folder = root / "svhn"
        folder.mkdir(parents=True)
        sums, truth = {}, {}
        for split in ("train", "test"):
            images = pictures(12)
            labels = np.array([10, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1], dtype=np.uint8)
            file = folder / f"{split}_32x32.mat"
            scipy.io.savemat(file, {"X": images.transpose(1, 2, 3, 0), "y": labels[:, None]})
            sums[split] = ["http://invalid.invalid/", file.name, md5(file)]
            truth[split] = images[..., 0], labels % 10
        monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", sums)
        return truth

    @staticmethod
    def damage(root):
        return root / "svhn/test_32x32.mat"


class Cifar10:
    name, key = "cifar10", "CIFAR10"

    @staticmethod
    def write(root, monkeypatch):
        folder = root / "cifar-10-batches-py"
        folder.mkdir(parents=True)
        kept = {"train": [], "test": []}
        lists = {"train": [], "test": []}
        names = [("train", f"data_batch_{i}") for i in range(1, 6)] + [("test", "test_batch")]
        for split, name in names:
            images = RANDOM.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
            labels = RANDOM.integers(0, 10, 4).tolist()
            batch = {
                "data": images.transpose(0, 3, 1, 2).reshape(4, -1),
                "labels": labels,
                "batch_label": name,
            }
            (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
            lists[split].append([name, md5(folder / name)])
            kept[split].append((images, labels))
        meta = folder / "batches.meta"
        meta.write_bytes(
            pickle.dumps({"label_names": list(CATALOGUE["cifar10"].source.classes)}, protocol=2)
        )
        kind = torchvision.datasets.CIFAR10
        monkeypatch.setattr(kind, "train_list", lists["train"])
        monkeypatch.setattr(kind, "test_list", lists["test"])
        monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(meta)})
        return {
            split: (
                np.stack([official(image) for images, _ in parts for image in images]),
                np.concatenate([labels for _, labels in parts]),
            )
            for split, parts in kept.items()
        }

    @staticmethod
    def damage(root):
        return root / "cifar-10-batches-py/test_batch"


class Gtsrb:
    name, key = "gtsrb", "GTSRB"

    @staticmethod
    def write(root, monkeypatch):
        folder = root / "gtsrb"
        truth = {}
        kept = []
        for sign in (9, 10, 11, 19, 20):
            place = folder / f"GTSRB/Training/{sign:05}"
            place.mkdir(parents=True)
            for i in range(2):
                picture = pictures(1)[0]
                Image.fromarray(picture).save(place / f"{i:05}_00000.ppm")
                if 10 <= sign <= 19:
                    kept.append((picture[..., 0], sign - 10))
            (place / f"GT-{sign:05}.csv").write_text("Filename;Width\n")
        truth["train"] = kept
        place = folder / "GTSRB/Final_Test/Images"
        place.mkdir(parents=True)
        lines = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
        truth["test"], truth["ood"] = [], []
        for i, sign in enumerate((16, 1, 38, 10, 42, 19, 0, 10)):
            picture = pictures(1)[0]
            Image.fromarray(picture).save(place / f"{i:05}.ppm")
            lines.append(f"{i:05}.ppm;64;64;5;5;59;59;{sign}")
            if 10 <= sign <= 19:
                truth["test"].append((picture[..., 0], sign - 10))
            else:
                truth["ood"].append((picture[..., 0], sign if sign < 10 else sign - 10))
        (folder / "GT-final_test.csv").write_text("\n".join(lines) + "\n")
        return {
            split: (np.stack([p for p, _ in pairs]), np.array([label for _, label in pairs]))
            for split, pairs in truth.items()
        }


class Omniglot:
    name, key = "omniglot", "Omniglot"

    @staticmethod
    def write(root, monkeypatch):
        sums, truth = {}, {}
        for split, part in (("train", "background"), ("test", "evaluation")):
            folder = root / f"omniglot-py/images_{part}"
            images, labels = [], []
            characters = ("Atemayar/character01", "Atemayar/character02", "Glagolitic/character01")
            for label, character in enumerate(characters):
                (folder / character).mkdir(parents=True)
                for drawer in range(1, 4):
                    ink = pictures(1)[0, ..., 0] > 127
                    # One bit a pixel, white paper, as the published files are.
                    Image.fromarray(ink).save(folder / character / f"{label:04}_{drawer:02}.png")
                    images.append(ink.astype(np.uint8) * 255)
                    labels.append(label)
            archive = folder.with_name(f"images_{part}.zip")
            archive.write_bytes(part.encode())
            sums[f"images_{part}"] = md5(archive)
            truth[split] = np.stack(images), np.array(labels)
        monkeypatch.setattr(torchvision.datasets.Omniglot, "zips_md5", sums)
        return truth

    @staticmethod
    def damage(root):
        return root / "omniglot-py/images_evaluation.zip"


class Places365:
    name, key = "places365", "Places365"

    @staticmethod
    def write(root, monkeypatch):
        folder = root / "places365"
        (folder / "val_256").mkdir(parents=True)
        names = ("/a/airfield", "/a/apartment_building/outdoor", "/z/zen_garden")
        categories = folder / "categories_places365.txt"
        categories.write_text("".join(f"{name} {i}\n" for i, name in enumerate(names)))
        images, labels, lines = [], (2, 0, 1, 2), []
        for i, label in enumerate(labels):
            name = f"Places365_val_{i + 1:08}.jpg"
            Image.fromarray(pictures(1)[0]).save(folder / "val_256" / name, quality=95)
            images.append(official(np.asarray(Image.open(folder / "val_256" / name))))
            lines.append(f"{name} {label}\n")
        listed = folder / "places365_val.txt"
        listed.write_text("".join(lines))
        kind = torchvision.datasets.Places365
        monkeypatch.setattr(kind, "_CATEGORIES_META", (categories.name, md5(categories)))
        monkeypatch.setattr(
            kind, "_FILE_LIST_META", {**kind._FILE_LIST_META, "val": (listed.name, md5(listed))}
        )
        return {"test": (np.stack(images), np.array(labels))}

    @staticmethod
    def damage(root):
        return root / "places365/places365_val.txt"


SETS = (Svhn, Cifar10, Gtsrb, Omniglot, Places365)
each = pytest.mark.parametrize("kind", SETS, ids=lambda kind: kind.name)


def read(name, split, root, **wanted):
    return load(name, split, root=root, cache=root / "cache", **wanted)


@each
def test_reads_back_what_was_written(kind, tmp_path, monkeypatch):
    truth = kind.write(tmp_path, monkeypatch)
    info = CATALOGUE[kind.name]
    assert set(truth) == set(info.splits) - set(info.optional_splits)
    for split, (images, labels) in truth.items():
        for _ in range(2):  # decoded, and from the cache
            found = read(kind.name, split, tmp_path)
            assert (found.name, found.split) == (kind.name, split)
            np.testing.assert_array_equal(found.images[:, 0], images)
            assert found.labels.tolist() == labels.tolist()


@each
def test_the_first_of_each_class(kind, tmp_path, monkeypatch):
    truth = kind.write(tmp_path, monkeypatch)
    for split, (images, labels) in truth.items():
        seen, rows = set(), []
        for row, label in enumerate(labels.tolist()):
            if label not in seen:
                rows.append(row)
            seen.add(label)
        found = read(kind.name, split, tmp_path, per_class=1)
        assert found.split == split
        np.testing.assert_array_equal(found.images[:, 0], images[rows])
        assert found.labels.tolist() == labels[rows].tolist()
        # The selection is not taken for the whole.
        assert len(read(kind.name, split, tmp_path)) == len(labels)


@each
def test_colour_of_another_size(kind, tmp_path, monkeypatch):
    kind.write(tmp_path, monkeypatch)
    found = read(kind.name, "test", tmp_path, image_format=ImageFormat(size=32, channels=3))
    assert found.images.shape[1:] == (3, 32, 32)


@each
def test_missing_files_are_one_line(kind, tmp_path):
    for split in CATALOGUE[kind.name].splits:
        with pytest.raises(AttractorError) as caught:
            read(kind.name, split, tmp_path)
        line = str(caught.value)
        assert line.startswith(f"data set {kind.name!r} needs {tmp_path}/")
        assert f"attractor-ae data download {kind.name}" in line
        assert "\n" not in line


@pytest.mark.parametrize(
    "kind", [k for k in SETS if hasattr(k, "damage")], ids=lambda kind: kind.name
)
def test_a_file_that_is_not_the_official_one_is_refused(kind, tmp_path, monkeypatch):
    kind.write(tmp_path, monkeypatch)
    file = kind.damage(tmp_path)
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(AttractorError) as caught:
        read(kind.name, "test", tmp_path)
    assert f"attractor-ae data download {kind.name}" in str(caught.value)


def test_a_pickle_is_not_opened_before_its_checksum_is_right(tmp_path, monkeypatch):
    Cifar10.write(tmp_path, monkeypatch)
    mark = tmp_path / "code was run"

    class Evil:
        def __reduce__(self):
            return type(mark).touch, (mark,)

    (tmp_path / "cifar-10-batches-py/data_batch_1").write_bytes(pickle.dumps(Evil()))
    for split in ("train", "test"):
        with pytest.raises(AttractorError):
            read("cifar10", split, tmp_path)
    assert not mark.exists()


def test_published_checksums_are_in_place():
    # What the tests above replace.
    datasets = torchvision.datasets
    sums = [entry[1] for entry in datasets.CIFAR10.train_list + datasets.CIFAR10.test_list]
    sums += [entry[2] for entry in datasets.SVHN.split_list.values()]
    sums += datasets.Omniglot.zips_md5.values()
    assert all(len(entry) == 32 for entry in sums)


def test_signs_agree_with_torchvision(tmp_path, monkeypatch):
    Gtsrb.write(tmp_path, monkeypatch)
    oracle = torchvision.datasets.GTSRB(tmp_path, split="test")
    wanted = [(np.asarray(p.convert("L")), s - 10) for p, s in oracle if 10 <= s <= 19]
    found = read("gtsrb", "test", tmp_path)
    assert found.labels.tolist() == [label for _, label in wanted]
    np.testing.assert_array_equal(found.images[:, 0], [picture for picture, _ in wanted])
    assert found.classes == tuple(f"sign {sign}" for sign in range(10, 20))
    assert read("gtsrb", "ood", tmp_path).classes[9:11] == ("sign 9", "sign 20")


def test_class_names(tmp_path, monkeypatch):
    Omniglot.write(tmp_path, monkeypatch)
    Places365.write(tmp_path, monkeypatch)
    assert read("omniglot", "test", tmp_path).classes == (
        "Atemayar/character01",
        "Atemayar/character02",
        "Glagolitic/character01",
    )
    assert read("places365", "test", tmp_path).classes == (
        "airfield",
        "apartment_building/outdoor",
        "zen_garden",
    )


DOWNLOADS = [name for name, info in CATALOGUE.items() if hasattr(info.source, "download")]


def test_what_can_be_downloaded():
    names = "mnist fashion svhn cifar10 gtsrb omniglot places365"
    assert " ".join(DOWNLOADS) == names


@pytest.fixture
def asked(monkeypatch):
    """Take the network away; collect the addresses that are asked for."""
    addresses = []

    def refuse(url, *arguments, **options):
        addresses.append(url)
        raise urllib.error.URLError("Name or service not known")

    for module in ("utils", "mnist", "svhn", "cifar", "gtsrb", "omniglot", "places365"):
        where = sys.modules[f"torchvision.datasets.{module}"]
        for name in ("download_url", "download_and_extract_archive"):
            if hasattr(where, name):
                monkeypatch.setattr(where, name, refuse)
    return addresses


@pytest.mark.parametrize("name", DOWNLOADS)
def test_without_a_network_one_line_says_what_to_place_where(name, asked, tmp_path, capsys):
    with pytest.raises(AttractorError) as caught:
        download(name, tmp_path)
    line = str(caught.value)
    assert asked
    assert line.startswith(f"data set {name!r} could not be downloaded (")
    assert f"; to provide {tmp_path}/" in line
    assert "http" in line
    assert "\n" not in line
    assert "attractor-ae data download" not in line


def test_official_addresses_and_sums_are_handed_to_torchvision(tmp_path, monkeypatch):
    calls = []
    module = sys.modules["torchvision.datasets.gtsrb"]
    monkeypatch.setattr(
        module,
        "download_and_extract_archive",
        lambda url, **options: calls.append((url.rsplit("/", 1)[1], options["md5"])),
    )
    with pytest.raises(AttractorError):  # nothing came
        download("gtsrb", tmp_path)
    assert calls[0][0] == "GTSRB-Training_fixed.zip"
    assert len(calls[0][1]) == 32


def test_what_is_there_is_not_fetched_again(tmp_path, monkeypatch):
    Cifar10.write(tmp_path, monkeypatch)
    module = sys.modules["torchvision.datasets.cifar"]
    monkeypatch.delattr(module, "download_and_extract_archive")
    download("cifar10", tmp_path)


@pytest.mark.parametrize("name", [name for name in CATALOGUE if name not in DOWNLOADS])
def test_what_cannot_be_downloaded_says_how_to_get_it(name, tmp_path):
    with pytest.raises(AttractorError) as caught:
        download(name, tmp_path)
    assert str(caught.value) == (
        f"data set {name!r} cannot be downloaded; {CATALOGUE[name].obtain}"
    )


def test_torchvision_is_imported_only_to_read(tmp_path):
    script = (
        "import sys; from pathlib import Path\n"
        "from attractor_ae.data import find_dataset, CATALOGUE\n"
        f"for name in CATALOGUE: find_dataset(name, Path({str(tmp_path)!r})).status()\n"
        "print(sorted({'torch', 'torchvision', 'lmdb', 'pandas'} & set(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert run.stdout.strip() == "[]"
