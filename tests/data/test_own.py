import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from attractor_ae._errors import AttractorError
from attractor_ae._reporter import Reporter
from attractor_ae.data import decode as decode_module
from attractor_ae.data import find_dataset, walk
from attractor_ae.data.cache import BrokenFilesError
from attractor_ae.data.decode import ImageFormat, decode, image_suffixes
from attractor_ae.data.sources.own import find_images

FORM = ImageFormat(size=16)


def draw(path, grey):
    """Write an image of one grey, which tells it from others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (5, 4), grey).save(path)


class Notes(Reporter):
    def __init__(self):
        self.lines = []

    def note(self, line):
        self.lines.append(line)


def greys(images):
    return images.images[:, 0, 0, 0].tolist()


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

    assert list(zip(found.found.paths, found.labels.tolist(), strict=True)) == oracle.imgs
    assert images.paths == tuple(path for path, _ in oracle.imgs)
    assert list(images.classes) == oracle.classes
    assert images.labels.tolist() == oracle.targets
    np.testing.assert_array_equal(
        images.images, np.stack([decode(Path(path), FORM) for path, _ in oracle.imgs])
    )
    assert images.name == "animals"


def test_other_files_are_skipped(animals, load):
    images = load(animals)
    assert images.classes == ("10", "cat", "dog")
    assert len(images) == 44
    assert images.left_out == ()


def test_a_seeded_split_is_stratified_disjoint_and_complete(animals, load):
    train, test = load(animals, "train"), load(animals, "test")
    assert np.bincount(test.labels).tolist() == [1, 4, 4]
    assert np.bincount(train.labels).tolist() == [2, 17, 16]
    assert sorted(greys(train) + greys(test)) == sorted(greys(load(animals)))
    assert train.classes == test.classes
    assert greys(load(animals, "test", split_seed=0)) == greys(test)
    assert greys(load(animals, "test", split_seed=1)) != greys(test)


def test_splits_are_known_in_any_case(tmp_path, load):
    for i, (split, label) in enumerate([("Train", "b"), ("Train", "a"), ("TEST", "a")]):
        draw(tmp_path / "pets" / split / label / "1.png", i)
    assert greys(load(tmp_path / "pets", "train")) == [1, 0]
    assert greys(load(tmp_path / "pets", "test")) == [2]
    assert load(tmp_path / "pets", "all").classes == ("a", "b")


def test_train_alone_is_divided(tmp_path, load):
    for i in range(10):
        draw(tmp_path / "pets/train" / "ab"[i % 2] / f"{i}.png", i)
    train, test = load(tmp_path / "pets", "train"), load(tmp_path / "pets", "test")
    assert (len(train), len(test)) == (8, 2)
    assert sorted(greys(train) + greys(test)) == list(range(10))


def test_what_a_network_is_tested_on(tmp_path):
    for split in ("train", "val"):
        draw(tmp_path / "pets" / split / "a" / "1.png", 1)
    assert find_dataset(str(tmp_path / "pets")).info.test_split == "val"
    draw(tmp_path / "pets/test/a/1.png", 2)
    assert find_dataset(str(tmp_path / "pets")).info.test_split == "test"
    assert find_dataset(str(tmp_path / "pets/train/a")).info.test_split == "all"


def test_images_next_to_the_classes_are_listed_and_are_not_broken(tmp_path, load):
    for i in range(10):
        draw(tmp_path / "pets" / "ab"[i % 2] / f"{i}.png", i)
    draw(tmp_path / "pets/preview.png", 99)
    images = load(tmp_path / "pets", per_class=2)
    assert len(images) == 4
    assert [path for path, _ in images.left_out] == [f"{tmp_path}/pets/preview.png"]
    assert load(tmp_path / "pets", per_class=2).left_out == images.left_out  # from the cache


def test_a_split_of_the_name_of_everything_is_refused(tmp_path):
    (tmp_path / "x.csv").write_text("path,label,split\na.png,a,train\nb.png,b,all\n")
    with pytest.raises(AttractorError, match="'all'"):
        find_images(tmp_path / "x.csv")


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


@pytest.mark.parametrize(
    "names", [("training", "testing", "validation"), ("Train", "TEST", "Valid")]
)
def test_the_spellings_of_a_split(tmp_path, load, names):
    root = tmp_path / "mp"
    for i, name in enumerate(names):
        for label in "ab":
            draw(root / name / label / "1.png", i)
    source = find_images(root)
    assert source.classes == ("a", "b")
    assert [greys(load(root, split)) for split in ("train", "test", "val")] == [
        [0] * 2,
        [1] * 2,
        [2] * 2,
    ]


def test_splits_without_labels(tmp_path, load):
    for name in ("Training", "val"):
        draw(tmp_path / "x" / name / "1.png", 1)
    assert find_images(tmp_path / "x").classes == ()
    assert list(find_images(tmp_path / "x").splits) == ["train", "val", "all"]


def test_results_and_caches_are_never_data(tmp_path, load):
    root = tmp_path / "pets"
    for i in range(4):
        draw(root / "ab"[i % 2] / f"{i}.png", i)
    results = {
        "runs/x-seed0": "config.toml environment.json evaluation/entropy.png",
        "runs/ensemble/evaluation": "metrics.json scores.safetensors entropy.png",
        "figures": "roc.png roc.pdf precision-recall.pdf reliability.pdf",
        "original": "cfg.toml checkpoints/last.pth images/1.png",
        "a/cache": "CACHEDIR.TAG 1.png",
        ".ipynb_checkpoints": "1.png",
        "training": "config.toml history.csv evaluation/1.png",
    }
    for folder, names in results.items():
        for name in names.split():
            draw(root / folder / "x.png", 99)
            (root / folder / name).parent.mkdir(parents=True, exist_ok=True)
            (root / folder / "x.png").rename(root / folder / name)
    reporter = Notes()
    images = load(root, reporter=reporter)
    assert images.classes == ("a", "b")
    assert greys(images) == [0, 2, 1, 3]
    noted = "\n".join(reporter.lines)
    for folder in results:
        assert str(root / folder) in noted
    # Given as data sets themselves, they have no images.
    with pytest.raises(AttractorError, match="no images"):
        load(root / "runs")


def test_an_image_is_known_by_its_content(animals, load):
    names = ["photo", "1.jpg?w=300", "2.jpg_large", "3.dat", "4.download", "5.PNG "]
    if os.name == "nt":  # refuses two of them
        names[1:6:4] = "1", "5"
    for i, name in enumerate(names):
        draw(animals / "new" / "x.png", 240 + i)
        (animals / "new" / "x.png").rename(animals / "new" / name)
    for name in ("Makefile", "6.bin", "notes", "7.json"):
        (animals / "new" / name).write_bytes(b"no image \0")
    (animals / "new" / "empty").touch()
    if hasattr(os, "mkfifo"):
        os.mkfifo(animals / "new" / "pipe")
    images = load(animals)
    assert images.classes == ("10", "cat", "dog", "new")
    assert sorted(greys(images))[-6:] == [240, 241, 242, 243, 244, 245]
    assert images.left_out == ()


HEIC = b"\0\0\0\x18ftypheic" + bytes(100)
AVIF = b"\0\0\0\x1cftypavif" + bytes(100)


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("IMG_1.HEIC", HEIC, r"attractor-ae\[heic\]"),
        ("IMG_1.jpg", HEIC, r"attractor-ae\[heic\]"),
        ("IMG_1", HEIC, r"attractor-ae\[heic\]"),
        ("1.avif", AVIF, "AVIF"),
        ("1.jxl", b"\xff\x0a" + bytes(50), "JPEG XL"),
        ("1.heic", b"text", "not an image"),
    ],
)
def test_photographs_that_cannot_be_read_are_counted_with_a_reason(
    animals, load, monkeypatch, name, data, reason
):
    formats = tuple(f for f in decode_module.readable_formats() if f not in {"HEIF", "AVIF"})
    suffixes = image_suffixes() - {".heic", ".heif", ".hif", ".avif"}
    monkeypatch.setattr(decode_module, "readable_formats", lambda: formats)
    monkeypatch.setattr(walk, "image_suffixes", lambda: suffixes)
    (animals / "only").mkdir()
    (animals / "only" / name).write_bytes(data)
    with pytest.raises(BrokenFilesError, match=f"1 of 45 .*{name}.*{reason}"):
        load(animals)
    images = load(animals, max_broken=0.1)
    assert [path for path, _ in images.left_out] == [str(animals / "only" / name)]


def test_a_class_of_files_that_are_never_read_is_listed(animals, load):
    (animals / "scan").mkdir()
    for i in range(3):
        (animals / "scan" / f"{i}.dcm").write_bytes(bytes(128) + b"DICM")
    (animals / "boxes").mkdir()
    (animals / "boxes" / "1.txt").write_text("0 1 2 3 4")
    images = load(animals)
    assert len(images) == 44
    [(path, reason)] = images.left_out
    assert path == str(animals / "scan")
    assert "3 files" in reason


def test_raw_photographs_are_listed(animals, load):
    for i in range(14):
        (animals / "dog" / f"{i}.NEF").write_bytes(b"II*\0" + bytes(40))
    reporter = Notes()
    assert len(load(animals, reporter=reporter)) == 44
    lines = [line for line in reporter.lines if "nef" in line]
    assert len(lines) == 11
    assert "4 other files" in lines[-1]


def test_heic_is_read_with_its_extra(tmp_path, load):
    heif = pytest.importorskip("pillow_heif")
    picture = Image.new("RGB", (64, 48), (200, 200, 200))
    for name in ("1.HEIC", "2"):
        (tmp_path / "phone" / "a").mkdir(parents=True, exist_ok=True)
        heif.from_pillow(picture).save(tmp_path / "phone" / "a" / "x.heic", quality=100)
        (tmp_path / "phone" / "a" / "x.heic").rename(tmp_path / "phone" / "a" / name)
    np.testing.assert_allclose(greys(load(tmp_path / "phone")), [200, 200], atol=2)


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

    class Refusing(Reporter):
        def progress(self, *step):
            raise AssertionError("an image was decoded again")

    load(tmp_path / "x" / "set", reporter=Refusing())


def test_what_looks_like_an_image_and_is_not_is_listed(animals, load):
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
    reasons = dict(images.left_out)

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
    assert len(images) == 44  # those of before, once each
    assert not {250, 251} & set(greys(images))


def test_a_link_that_leads_back_ends(tmp_path, load):
    draw(tmp_path / "loops" / "a" / "1.png", 1)
    (tmp_path / "loops" / "a" / "self").symlink_to(".", target_is_directory=True)
    assert greys(load(tmp_path / "loops")) == [1]


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("missing", lambda path: None),
        ("x.txt", Path.touch),
        ("x", Path.mkdir),
        ("x.csv", Path.mkdir),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, load, name, write):
    write(tmp_path / name)
    with pytest.raises(AttractorError) as caught:
        load(tmp_path / name)
    assert len(str(caught.value).splitlines()) == 1
    assert name in str(caught.value)


def test_a_negative_seed_is_refused(animals):
    with pytest.raises(AttractorError, match="seed"):
        find_images(animals, seed=-1)


def test_links_that_lead_back_by_a_detour_are_not_followed(tmp_path):
    for name in ("a", "b"):
        draw(tmp_path / "pets" / name / "1.png", 1)
    (tmp_path / "pets" / "a" / "to_b").symlink_to(tmp_path / "pets" / "b")
    (tmp_path / "pets" / "b" / "to_a").symlink_to(tmp_path / "pets" / "a")
    (tmp_path / "pets" / "b" / "up").symlink_to(tmp_path)
    found = find_images(tmp_path / "pets").found
    names = [path.removeprefix(f"{tmp_path}/pets/") for path in found.paths]
    # Each folder once on every way to it.
    assert names == ["a/1.png", "a/to_b/1.png", "b/1.png", "b/to_a/1.png"]


def test_an_empty_folder_of_a_split_is_one(tmp_path):
    (tmp_path / "test").mkdir()
    (tmp_path / "train").mkdir()
    draw(tmp_path / "train" / "1.png", 1)
    source = find_images(tmp_path)
    assert source.classes == ()
    assert list(source.splits) == ["train", "all"]


def test_a_class_without_images_is_noted(animals, load):
    """It would vanish without a word."""
    (animals / "cow" / "deep").mkdir(parents=True)
    reporter = Notes()
    assert load(animals, reporter=reporter).classes == ("10", "cat", "dog")
    (line,) = (line for line in reporter.lines if "not classes" in line)
    assert str(animals / "cow") in line
