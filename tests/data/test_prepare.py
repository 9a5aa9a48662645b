import io
import os
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from attractor_ae.data.prepare import BrokenFilesError, Encoded, Item, prepare, prepare_arrays
from PIL import Image
from torchvision.transforms import v2

from attractor_ae._errors import AttractorError
from attractor_ae.data.decode import ImageFormat, decode

FORM = ImageFormat(size=32)
CLASSES = ("a", "b", "c")


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def items(tmp_path):
    """Two hundred files with noise of several sizes, in no order of their names."""
    rng = np.random.default_rng(0)
    made = []
    for i in rng.permutation(200):
        path = tmp_path / "pictures" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        size = (20 + i % 7, 25)
        Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(path)
        made.append(Item(path, int(i) % 3))
    return made


def run(items, cache, form=FORM, classes=CLASSES, **options):
    return prepare("toy", "train", items, classes, form, cache=cache, **options)


def files(cache):
    return sorted(path.relative_to(cache) for path in cache.rglob("*") if path.is_file())


def made_anew(items, cache, **options):
    """Prepare, and return whether images were decoded."""
    calls = []
    run(items, cache, on_progress=lambda done, count: calls.append((done, count)), **options)
    return bool(calls)


@pytest.mark.parametrize("workers", [1, 3, None])
@pytest.mark.parametrize("form", [FORM, ImageFormat(16, 3), ImageFormat(64, 1, True)])
def test_holds_what_decoding_one_by_one_gives(items, cache, form, workers):
    images = run(items, cache, form, workers=workers)
    expected = np.stack([decode(item.path, form) for item in items])
    np.testing.assert_array_equal(images.images, expected)
    assert images.labels.tolist() == [item.label for item in items]
    assert (images.name, images.split, images.classes) == ("toy", "train", CLASSES)


def test_opens_a_read_only_map_that_works_as_any_set(items, cache):
    made = run(items, cache)
    again = run(items, cache)
    for images in (made, again):
        assert isinstance(images.images, np.memmap)
        assert not images.images.flags.writeable
        chosen = images.first_per_class(5).take([3, 0])
        assert chosen.images.flags.owndata
        assert chosen.images.flags.writeable
    np.testing.assert_array_equal(made.images, again.images)
    np.testing.assert_array_equal(made.labels, again.labels)


def test_paths_may_be_text(items, cache):
    made = run([Item(str(item.path), item.label) for item in items], cache)
    np.testing.assert_array_equal(
        made.images, np.stack([decode(item.path, FORM) for item in items])
    )
    assert not made_anew(items, cache)


def test_progress_counts_every_image_once(items, cache):
    seen = []
    caller = threading.get_ident()

    def on_progress(done, count):
        assert threading.get_ident() == caller
        seen.append((done, count))

    run(items, cache, on_progress=on_progress)
    assert seen == sorted(seen)
    assert seen[-1] == (200, 200)
    assert len(seen) > 1
    assert not made_anew(items, cache)


def rewrite(path):
    status = path.stat()
    Image.new("L", (9, 9), 77).save(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


@pytest.mark.parametrize(
    "change",
    [
        lambda items: rewrite(items[7].path),
        lambda items: os.utime(items[7].path, ns=(0, 0)),
        lambda items: items.pop(),
        lambda items: items.append(items[0]),
        lambda items: items.reverse(),
        lambda items: items.__setitem__(3, items[3]._replace(label=-1)),
    ],
    ids=["rewritten", "touched", "removed", "added", "order", "label"],
)
def test_a_stale_cache_is_made_anew(items, cache, change):
    assert made_anew(items, cache)
    assert not made_anew(items, cache)
    change(items)
    assert made_anew(items, cache)
    images = run(items, cache)
    np.testing.assert_array_equal(
        images.images, np.stack([decode(item.path, FORM) for item in items])
    )
    assert images.labels.tolist() == [item.label for item in items]
    assert len(files(cache)) == 3


def test_settings_have_places_of_their_own(items, cache):
    variants = [
        {},
        {"form": ImageFormat(size=48)},
        {"form": ImageFormat(size=32, channels=3)},
        {"form": ImageFormat(size=32, crop=True)},
        {"variant": "elsewhere"},
        {"variant": "\udce9"},
    ]
    assert all(made_anew(items, cache, **options) for options in variants)
    assert not any(made_anew(items, cache, **options) for options in variants)
    assert made_anew(items, cache, classes=("x", "b", "c"))


@pytest.fixture
def partly_broken(items):
    items[10].path.write_bytes(b"")
    items[150].path.write_text("no picture")
    return items


def test_broken_files_are_left_out_and_listed(partly_broken, cache, broken_files):
    images = run(partly_broken, cache)
    kept = [item for i, item in enumerate(partly_broken) if i not in (10, 150)]
    np.testing.assert_array_equal(
        images.images, np.stack([decode(item.path, FORM) for item in kept])
    )
    assert images.labels.tolist() == [item.label for item in kept]
    listed = [
        (str(partly_broken[10].path), "is empty (0 bytes)"),
        (str(partly_broken[150].path), "is no image of a format that can be read"),
    ]
    assert broken_files(cache) == listed
    assert not made_anew(partly_broken, cache)
    with pytest.raises(BrokenFilesError, match=r"2 of 200 files cannot be used") as caught:
        run(partly_broken, cache, max_broken=0.009)
    assert list(caught.value.broken) == listed
    assert str(partly_broken[10].path) in str(caught.value)
    assert str(caught.value).endswith(
        "; mend or remove them, or allow a larger share: --max-broken, "
        "dataset.max_broken in a config"
    )
    assert "\n" not in str(caught.value)


def test_a_mended_file_is_used(partly_broken, cache, broken_files):
    run(partly_broken, cache)
    for place in (10, 150):
        Image.new("L", (9, 9)).save(partly_broken[place].path)
    assert len(run(partly_broken, cache)) == 200
    assert broken_files(cache) == []


def test_missing_files_are_broken_until_they_are_there(items, cache, broken_files):
    path = items[5].path
    moved = path.rename(path.with_suffix(".moved"))
    assert len(run(items, cache)) == 199
    assert broken_files(cache) == [(str(path), "No such file or directory")]
    moved.rename(path)
    assert len(run(items, cache)) == 200


def test_files_known_to_be_unusable_count_as_broken(items, cache, broken_files):
    listed = [("x.png", "lies elsewhere"), ("y\udce9.png", "lies elsewhere")]
    assert len(run(items, cache, unusable=listed)) == 200
    shown = [("x.png", "lies elsewhere"), ("y\\xe9.png", "lies elsewhere")]
    assert broken_files(cache) == shown
    with pytest.raises(BrokenFilesError, match="2 of 202 files"):
        run(items, cache, unusable=listed, max_broken=0.0)
    with pytest.raises(BrokenFilesError, match="2 of 2 files cannot be used, that is, all"):
        run([], cache, unusable=listed)


def test_all_broken_is_an_error_whatever_is_allowed(tmp_path, cache):
    with pytest.raises(BrokenFilesError, match="1 of 1 files cannot be used, that is, all"):
        run([Item(tmp_path / "missing.png", 0)], cache, max_broken=1.0)


def test_names_that_are_no_utf8_are_listed(items, tmp_path, cache, broken_files):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    path.touch()
    good = Path(os.fsdecode(os.fsencode(tmp_path) + b"/na\xefve.png"))
    Image.new("L", (9, 9), 200).save(good)
    images = run([*items, Item(path, 0), Item(good, 0)], cache)
    assert images.images[-1].min() == 200
    assert broken_files(cache) == [(f"{tmp_path}/caf\\xe9.png", "is empty (0 bytes)")]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"items": []}, r"data set 'toy' \(train\) has no images"),
        ({"items": [Item(Path("x.png"), 3)]}, r"labels must lie in -1\.\.2, got 3\.\.3"),
        ({"max_broken": 1.5}, r"max_broken must lie in \[0, 1\], got 1\.5"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
    ],
)
def test_refuses(items, cache, changed, message):
    with pytest.raises(AttractorError, match=message):
        run(**({"items": items, "cache": cache} | changed))


def test_an_interrupted_preparation_ends_its_threads(items, cache):
    def interrupt(done, count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(items, cache, on_progress=interrupt)
    assert threading.active_count() == 1
    assert files(cache) == []


def test_memory_does_not_grow_with_the_images(items, cache):
    def peak(several):
        tracemalloc.start()
        prepare("toy", "train", several, CLASSES, ImageFormat(size=128), cache=cache, workers=2)
        _, high = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return high

    peak(items[:9])  # imports
    once, often = peak(items * 2), peak(items * 6)  # 6.5 MB and 20 MB of images
    assert often < once + 2_000_000


PIXELS = np.random.default_rng(0).integers(0, 256, (150, 28, 30, 3), dtype=np.uint8)
LABELS = np.arange(150) % 3


def run_arrays(cache, source, chunks, labels=LABELS, form=FORM):
    return prepare_arrays(
        "toy", "test", chunks, labels, CLASSES, form, source_files=[source], cache=cache
    )


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("pixels", [PIXELS, np.ascontiguousarray(PIXELS[..., 0])])
def test_arrays_are_prepared_as_torchvision_does(tmp_path, cache, pixels, channels):
    source = tmp_path / "source"
    source.touch()
    form = ImageFormat(32, channels)
    images = run_arrays(cache, source, iter([pixels[:1], pixels[1:100], pixels[100:]]), form=form)
    mode = "L" if channels == 1 else "RGB"
    expected = np.stack(
        [
            v2.functional.pil_to_tensor(
                v2.functional.resize(Image.fromarray(picture).convert(mode), [32, 32])
            )
            for picture in pixels
        ]
    )
    np.testing.assert_array_equal(images.images, expected)
    np.testing.assert_array_equal(images.labels, LABELS)


def test_arrays_are_read_only_when_a_source_changed(tmp_path, cache):
    source = tmp_path / "source"
    source.touch()
    reads = []

    def chunks():
        reads.append("images")
        yield PIXELS

    def labels():
        reads.append("labels")
        return LABELS

    first = run_arrays(cache, source, chunks(), labels)
    again = run_arrays(cache, source, chunks(), labels)
    assert sorted(reads) == ["images", "labels"]
    np.testing.assert_array_equal(first.images, again.images)
    source.write_text("changed")
    run_arrays(cache, source, chunks(), labels)
    assert len(reads) == 4
    run_arrays(cache, source, chunks(), LABELS[::-1].copy())
    assert len(reads) == 5


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        ([PIXELS[:149]], "150 labels, but 149 images"),
        ([PIXELS, PIXELS[:1]], "150 labels, but more images"),
        ([PIXELS.astype(np.float32)], "got float32"),
        ([PIXELS[..., :2]], r"got uint8 \(150, 28, 30, 2\)"),
    ],
)
def test_refuses_arrays(tmp_path, cache, chunks, message):
    with pytest.raises(AttractorError, match=message):
        run_arrays(cache, tmp_path / "source", iter(chunks))
    assert files(cache) == []


def test_opening_decodes_nothing(items, cache, monkeypatch):
    run(items, cache)
    monkeypatch.setattr("attractor_ae.data.prepare.decode", None)
    assert len(run(items, cache)) == 200


def test_arrays_without_pixels_are_broken(cache):
    chunks, labels = [PIXELS[:, :0]], np.zeros(150, dtype=np.int64)
    options = {"source_files": [], "cache": cache, "max_broken": 1.0}
    with pytest.raises(
        BrokenFilesError, match="150 of 150 .* the first is an image: has no pixels"
    ):
        prepare_arrays("toy", "test", chunks, labels, ("a",), FORM, **options)


def test_encoded_images_are_decoded_and_the_damaged_ones_left_out(cache):
    stream = io.BytesIO()
    Image.new("L", (9, 9), 77).save(stream, "png")
    chunks = [[Encoded("one", stream.getvalue()), Encoded("two", b"?")], [Encoded("three", b"")]]
    labels = np.arange(3)
    options = {"source_files": [], "cache": cache}
    with pytest.raises(BrokenFilesError, match="2 of 3 files .* two: is no image"):
        prepare_arrays("toy", "test", chunks, labels, ("a", "b", "c"), FORM, **options)
    found = prepare_arrays(
        "toy", "test", [], labels, ("a", "b", "c"), FORM, max_broken=0.7, **options
    )
    assert found.labels.tolist() == [0]
    assert (found.images == 77).all()
    assert [name for name, _ in found.left_out] == ["two", "three"]
