import gzip
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torchvision
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image
from torchvision.transforms import functional

from attractor_ae._errors import AttractorError
from attractor_ae.data import CATALOGUE, cache, data_root, find_dataset, load
from attractor_ae.data.image_set import Wanted
from attractor_ae.data.sources import torchvision as module
from attractor_ae.data.sources.torchvision import IdxFiles, read_idx

CODES = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}
IMAGES = np.random.default_rng(0).integers(0, 256, (60, 28, 28), dtype=np.uint8)
LABELS = np.random.default_rng(1).permutation(60).astype(np.uint8) % 10


def encode(array):
    """Write IDX as its description says, independently of the reader."""
    kind = array.dtype.str[1:]
    head = struct.pack(">BBBB", 0, 0, CODES[kind], array.ndim)
    head += struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(f">{kind}").tobytes()


def write(folder, images=IMAGES, labels=LABELS, prefix="train", suffix="", pack=bytes):
    folder.mkdir(parents=True, exist_ok=True)
    for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
        (folder / f"{prefix}-{kind}-ubyte{suffix}").write_bytes(pack(encode(array)))


def toy(**changed):
    return IdxFiles("toy", "MNIST/raw", tuple("0123456789"), **changed)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    array=st.sampled_from(sorted(CODES)).flatmap(
        lambda kind: npst.arrays(kind, npst.array_shapes(min_dims=1, max_dims=3, max_side=5))
    ),
    pack=st.sampled_from([bytes, gzip.compress]),
)
def test_reads_what_was_written(tmp_path, array, pack):
    file = tmp_path / "values"
    file.write_bytes(pack(encode(array)))
    values = read_idx(file)
    np.testing.assert_array_equal(values, array)


def test_gzip_is_recognized_by_content_not_by_name(tmp_path):
    for name, pack in (("plain.gz", bytes), ("zipped", gzip.compress)):
        (tmp_path / name).write_bytes(pack(encode(IMAGES)))
        np.testing.assert_array_equal(read_idx(tmp_path / name), IMAGES)


SMALL = encode(np.arange(6, dtype=np.int16).reshape(2, 3))
ZIPPED = gzip.compress(SMALL, mtime=0)  # no time stamp: the same bytes every time


def damaged_checksum(content):
    packed = bytearray(gzip.compress(content, mtime=0))
    packed[-8] ^= 1
    return bytes(packed)


DAMAGED = [
    *(SMALL[:length] for length in range(len(SMALL))),
    *(gzip.compress(SMALL[:length], mtime=0) for length in range(len(SMALL))),
    *(ZIPPED[:length] for length in range(2, len(ZIPPED))),
    b"\x89PNG\r\n\x1a\n",
    b"\0\1" + SMALL[2:],
    b"\0\0\x0a" + SMALL[3:],  # no such type
    b"\0\0\x08\xff" + bytes(2000),
    SMALL + b"\0",
    gzip.compress(SMALL + b"\0", mtime=0),
    ZIPPED + b"trailing",
    damaged_checksum(SMALL),
    ZIPPED[:10] + b"\xff" * 20,
    b"\0\0\x0e\x05" + b"\xff" * 16 + bytes(4),
]


def test_damaged_files_are_one_line(tmp_path):
    for place, content in enumerate(DAMAGED):
        file = tmp_path / f"values{place}"
        file.write_bytes(content)
        with pytest.raises(AttractorError) as caught:
            read_idx(file)
        assert str(caught.value).startswith(f"{file}: ")
        assert len(str(caught.value).splitlines()) == 1


def test_memory_is_not_taken_on_the_word_of_the_header(tmp_path):
    file = tmp_path / "values"
    file.write_bytes(b"\0\0\x0e\x03" + struct.pack(">3I", 60_000, 5000, 5000) + bytes(100))
    tracemalloc.start()
    try:
        with pytest.raises(AttractorError):
            read_idx(file)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", [".", "missing"])
def test_unreadable_paths(tmp_path, name):
    with pytest.raises(AttractorError) as caught:
        read_idx(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


ORACLES = {
    "written": torchvision.datasets.MNIST,
    "mnist": torchvision.datasets.MNIST,
    "fashion": torchvision.datasets.FashionMNIST,
}
FOUND = [
    pytest.param(name, marks=pytest.mark.real)
    for name in ("mnist", "fashion")
    if find_dataset(name).status().present
]


@pytest.fixture(scope="module", params=["written", *FOUND])
def official(request, tmp_path_factory):
    """Source, data root, and torchvision's reader of the same files, unzipped, by split."""
    folder = tmp_path_factory.mktemp("root")
    if request.param == "written":
        source, root = toy(), folder
        for prefix in ("train", "t10k"):
            write(folder / source.folder, prefix=prefix)
    else:  # the real files, where they are
        root = data_root()
        source = CATALOGUE[request.param].source.used("train", root)
        raw = folder / source.folder
        raw.mkdir(parents=True)
        for place in (*source._find("train", root), *source._find("test", root)):
            with (gzip.open if place.suffix == ".gz" else open)(place, "rb") as packed:
                (raw / place.name.removesuffix(".gz")).write_bytes(packed.read())
    oracle = ORACLES[request.param]
    return source, root, {split: oracle(folder, train=split == "train") for split in SPLITS}


SPLITS = ("train", "test")


@pytest.mark.parametrize("split", SPLITS)
def test_agrees_with_torchvision(official, split):
    source, root, oracles = official
    expected = []
    counts = [0] * 10
    for place, label in enumerate(oracles[split].targets.tolist()):
        counts[label] += 1
        if counts[label] <= 20:
            picture = functional.resize(oracles[split][place][0], [64, 64])
            expected.append((np.asarray(picture), label))

    loaded = source.load(split, root, Wanted(20))

    assert loaded.labels.tolist() == [label for _, label in expected]
    np.testing.assert_array_equal(loaded.images[:, 0], [picture for picture, _ in expected])


def test_raw_values_agree_with_torchvision(official):
    source, root, oracles = official
    for split in SPLITS:
        images, labels = source._find(split, root)
        np.testing.assert_array_equal(read_idx(images), oracles[split].data.numpy())
        np.testing.assert_array_equal(read_idx(labels), oracles[split].targets.numpy())


@pytest.mark.parametrize("name", FOUND)
def test_real_files_hold_what_the_catalogue_says(name):
    for split, info in CATALOGUE[name].splits.items():
        source = CATALOGUE[name].source.used(split, data_root())
        images, labels = map(read_idx, source._find(split, data_root()))
        assert images.shape == (info.images, 28, 28)
        assert len(np.unique(labels)) == info.classes


@pytest.mark.parametrize("name", [param for param in FOUND if param.values == ("mnist",)])
def test_mnist5k_is_the_beginning_of_mnist(name):
    whole = load(name, per_class=500)
    for split, part in (("train", slice(250)), ("test", slice(250, None))):
        ours = load("mnist5k", split)
        for digit in range(10):
            np.testing.assert_array_equal(
                ours.images[ours.labels == digit], whole.images[whole.labels == digit][part]
            )


@pytest.mark.parametrize(
    ("suffix", "pack"), [("", bytes), (".gz", gzip.compress), ("", gzip.compress)]
)
def test_plain_and_gzipped_files_are_found(tmp_path, suffix, pack):
    write(tmp_path / "MNIST/raw", suffix=suffix, pack=pack)
    assert toy().missing("train", tmp_path) == ()
    loaded = toy().load("train", tmp_path, Wanted())
    assert loaded.images.shape == (60, 1, 64, 64)
    assert loaded.labels.tolist() == LABELS.tolist()


def test_images_are_chosen_before_they_are_resized(tmp_path, monkeypatch):
    write(tmp_path / "MNIST/raw")
    resized = []
    real = cache.decoded_or_reason
    monkeypatch.setattr(
        cache, "decoded_or_reason", lambda *arguments: resized.append(1) or real(*arguments)
    )
    assert len(toy().load("train", tmp_path, Wanted(2))) == 20
    assert len(resized) == 20


def test_the_second_load_reads_no_file(tmp_path, monkeypatch):
    write(tmp_path / "MNIST/raw")
    first = toy().load("train", tmp_path, Wanted(cache=tmp_path))
    monkeypatch.setattr(module, "read_idx", None)
    second = toy().load("train", tmp_path, Wanted(cache=tmp_path))
    np.testing.assert_array_equal(second.images, first.images)
    np.testing.assert_array_equal(second.labels, first.labels)


def test_images_of_another_size_become_64_x_64(tmp_path):
    write(tmp_path / "MNIST/raw", images=IMAGES[:, :20])
    loaded = toy().load("train", tmp_path, Wanted())
    picture = functional.resize(Image.fromarray(IMAGES[7, :20]), [64, 64])
    np.testing.assert_array_equal(loaded.images[7, 0], np.asarray(picture))


def test_searches_elsewhere_after_the_root(tmp_path):
    root, other = tmp_path / "root", tmp_path / "other"
    source = toy(elsewhere=(other,))
    write(other, suffix=".gz", pack=gzip.compress)
    assert source.missing("train", root) == ()
    assert source.load("train", root, Wanted()).labels.tolist() == LABELS.tolist()
    write(root / "MNIST/raw", labels=LABELS[::-1].copy())
    assert source.load("train", root, Wanted()).labels.tolist() == LABELS[::-1].tolist()


def test_never_mixes_files_of_two_folders(tmp_path):
    root, other = tmp_path / "root", tmp_path / "other"
    source = toy(elsewhere=(other,))
    write(root / "MNIST/raw", labels=LABELS[::-1].copy())
    (root / "MNIST/raw/train-images-idx3-ubyte").unlink()
    write(other)
    assert source.load("train", root, Wanted()).labels.tolist() == LABELS.tolist()


def test_names_what_is_missing_and_where_it_is_expected(tmp_path):
    raw = tmp_path / "MNIST/raw"
    images, labels = (f"{raw}/t10k-{kind}-ubyte[.gz]" for kind in ("images-idx3", "labels-idx1"))
    source = toy(elsewhere=(Path("/elsewhere"),))
    assert source.missing("test", tmp_path) == (images, labels)
    assert source.expected("test", tmp_path)[:2] == (images, labels)
    assert source.expected("test", tmp_path)[2] == "/elsewhere/t10k-images-idx3-ubyte[.gz]"
    write(raw, prefix="t10k")
    (raw / "t10k-labels-idx1-ubyte").unlink()
    assert source.missing("test", tmp_path) == (labels,)
    with pytest.raises(AttractorError, match="/t10k-labels-idx1-ubyte"):
        source.load("test", tmp_path, Wanted())


@pytest.mark.parametrize(
    ("file", "changed"),
    [
        ("images", {"images": LABELS}),
        ("images", {"images": IMAGES.astype("i2")}),
        ("images", {"images": IMAGES[:, :0]}),
        ("labels", {"labels": LABELS[:-1]}),
        ("labels", {"labels": LABELS.astype("f4")}),
        ("labels", {"labels": np.where(np.arange(60) == 41, 10, LABELS).astype("u1")}),
    ],
)
def test_refuses_files_that_do_not_belong_together(tmp_path, file, changed):
    write(tmp_path / "MNIST/raw", **changed)
    with pytest.raises(AttractorError) as caught:
        toy().load("train", tmp_path, Wanted(cache=tmp_path))
    assert str(caught.value).startswith(f"{tmp_path}/MNIST/raw/train-{file}")


def test_a_truncated_file_is_named(tmp_path):
    write(tmp_path / "MNIST/raw")
    file = tmp_path / "MNIST/raw/train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(AttractorError) as caught:
        toy().load("train", tmp_path, Wanted(1, cache=tmp_path))
    assert str(file) in str(caught.value)
