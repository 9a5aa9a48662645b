import errno
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import v2

from attractor_ae.data.decoding import ImageFormat, decode
from attractor_ae.data.prepare import (
    BrokenFilesError,
    Item,
    broken_files,
    cache_root,
    clear,
    prepare,
    prepare_arrays,
)
from attractor_ae.errors import AttractorError

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


def test_the_files_are_plain_numpy(items, cache):
    images = run(items, cache)
    (found,) = cache.rglob("images-*.npy")
    np.testing.assert_array_equal(np.load(found), images.images)
    (found,) = cache.rglob("labels-*.npy")
    np.testing.assert_array_equal(np.load(found), images.labels)
    assert len(files(cache)) == 3


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
        lambda items: items.__setitem__(3, replace(items[3], label=-1)),
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


def test_another_version_is_made_anew(items, cache, monkeypatch):
    run(items, cache)
    monkeypatch.setattr("attractor_ae.data.prepare.VERSION", 2)
    assert made_anew(items, cache)


def truncate(path, by=1):
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - by)


def append(path):
    with path.open("ab") as file:
        file.write(b"\0")


def edit(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("pattern", ["images-*", "labels-*", "manifest.json"])
@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        append,
        Path.unlink,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\x80\x04garbage" * 9),
        lambda path: np.save(path.open("wb"), np.zeros((200, 1, 8, 8), np.uint8)),
        lambda path: np.save(path.open("wb"), np.array([{}], dtype=object), allow_pickle=True),
    ],
    ids=["truncated", "longer", "removed", "empty", "garbage", "other shape", "pickle"],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of these lines' own open files
def test_a_damaged_cache_is_made_anew(items, cache, pattern, damage):
    expected = np.array(run(items, cache).images)
    (path,) = cache.rglob(pattern)
    damage(path)
    if (pattern, damage) == ("manifest.json", append):
        path.write_text(path.read_text() + "}")
    assert made_anew(items, cache)
    np.testing.assert_array_equal(run(items, cache).images, expected)
    assert len(files(cache)) == 3


@pytest.mark.parametrize(
    "values",
    [{"token": "../../x"}, {"token": 3}, {"images": 199}, {"images": "200"}, {"broken": None}],
)
def test_a_changed_manifest_is_made_anew(items, cache, values):
    run(items, cache)
    (path,) = cache.rglob("manifest.json")
    edit(path, **values)
    assert made_anew(items, cache)


@pytest.fixture
def partly_broken(items):
    items[10].path.write_bytes(b"")
    items[150].path.write_text("no picture")
    return items


def test_broken_files_are_left_out_and_listed(partly_broken, cache):
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
    assert broken_files("toy", "train", FORM, cache) == listed
    assert not made_anew(partly_broken, cache)
    with pytest.raises(BrokenFilesError, match=r"2 of 200 files cannot be used") as caught:
        run(partly_broken, cache, max_broken=0.009)
    assert list(caught.value.broken) == listed
    assert str(partly_broken[10].path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_mended_file_is_used(partly_broken, cache):
    run(partly_broken, cache)
    for place in (10, 150):
        Image.new("L", (9, 9)).save(partly_broken[place].path)
    assert len(run(partly_broken, cache)) == 200
    assert broken_files("toy", "train", FORM, cache) == []


def test_missing_files_are_broken_until_they_are_there(items, cache):
    path = items[5].path
    moved = path.rename(path.with_suffix(".moved"))
    assert len(run(items, cache)) == 199
    assert broken_files("toy", "train", FORM, cache) == [(str(path), "No such file or directory")]
    moved.rename(path)
    assert len(run(items, cache)) == 200


def test_files_known_to_be_unusable_count_as_broken(items, cache):
    listed = [("x.png", "lies elsewhere"), ("y\udce9.png", "lies elsewhere")]
    assert len(run(items, cache, unusable=listed)) == 200
    shown = [("x.png", "lies elsewhere"), ("y\\xe9.png", "lies elsewhere")]
    assert broken_files("toy", "train", FORM, cache) == shown
    with pytest.raises(BrokenFilesError, match="2 of 202 files"):
        run(items, cache, unusable=listed, max_broken=0.0)
    with pytest.raises(BrokenFilesError, match="2 of 2 files cannot be used, that is, all"):
        run([], cache, unusable=listed)


def test_all_broken_is_an_error_whatever_is_allowed(tmp_path, cache):
    with pytest.raises(BrokenFilesError, match="1 of 1 files cannot be used, that is, all"):
        run([Item(tmp_path / "missing.png", 0)], cache, max_broken=1.0)


def test_names_that_are_no_utf8_are_listed(items, tmp_path, cache):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    path.touch()
    good = Path(os.fsdecode(os.fsencode(tmp_path) + b"/na\xefve.png"))
    Image.new("L", (9, 9), 200).save(good)
    images = run([*items, Item(path, 0), Item(good, 0)], cache)
    assert images.images[-1].min() == 200
    assert broken_files("toy", "train", FORM, cache) == [
        (f"{tmp_path}/caf\\xe9.png", "is empty (0 bytes)")
    ]


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


def test_an_interrupted_preparation_leaves_nothing(items, cache):
    def interrupt(done, count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(items, cache, on_progress=interrupt)
    assert files(cache) == []
    assert threading.active_count() == 1

    expected = np.array(run(items, cache).images)
    rewrite(items[0].path)
    with pytest.raises(KeyboardInterrupt):
        run(items, cache, on_progress=interrupt)
    assert len(files(cache)) == 3  # those of before
    assert not np.array_equal(run(items, cache).images, expected)


CHILD = """
import sys, time
from pathlib import Path
from attractor_ae.data.decoding import ImageFormat
from attractor_ae.data.prepare import Item, prepare

def slow(done, count):
    print(done, flush=True)
    time.sleep(float(sys.argv[3]))

paths = sorted(Path(sys.argv[1]).iterdir())
images = prepare("toy", "train", [Item(path, 0) for path in paths], ("a",), ImageFormat(size=32),
                 cache=Path(sys.argv[2]), on_progress=slow)
print(len(images), int(images.images.sum(dtype="int64")), flush=True)
"""


def start(folder, cache, pause):
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder), str(cache), str(pause)],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_what_a_killed_process_left_is_removed_by_the_next(items, cache):
    folder = items[0].path.parent
    with start(folder, cache, 60) as child:
        child.stdout.readline()
        run(items, cache)  # does not take the other's files for leftovers
        assert len(files(cache)) == 4
        child.send_signal(signal.SIGKILL)
    assert len(files(cache)) == 4
    rewrite(items[0].path)
    run(items, cache)
    assert len(files(cache)) == 3


def test_several_processes_at_once(items, cache):
    folder = items[0].path.parent
    children = [start(folder, cache, 0.01) for _ in range(3)]
    last = {child.communicate(timeout=60)[0].splitlines()[-1] for child in children}
    assert [child.returncode for child in children] == [0, 0, 0]
    in_order = [Item(path, 0) for path in sorted(folder.iterdir())]
    images = run(in_order, cache, classes=("a",))
    assert last == {f"200 {images.images.sum(dtype=np.int64)}"}
    assert len(files(cache)) == 3


def test_images_stay_whole_when_they_are_prepared_anew_or_cleared(items, cache):
    images = run(items, cache)
    expected = np.array(images.images)
    rewrite(items[0].path)
    run(items, cache)
    clear(cache=cache)
    np.testing.assert_array_equal(images.images, expected)


def test_a_full_disk_is_one_line(items, cache):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(AttractorError, match="cannot be written .*ATTRACTOR_AE_CACHE"):
            run(items, cache)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files(cache) == []


def test_a_cache_that_is_no_folder_is_one_line(items, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(AttractorError, match="file.* cannot be written"):
        run(items, tmp_path / "file")


def test_an_error_of_the_listener_is_not_taken_for_a_full_disk(items, cache):
    def fail(done, count):
        raise BrokenPipeError(errno.EPIPE, "terminal is gone")

    with pytest.raises(BrokenPipeError):
        run(items, cache, on_progress=fail)


def test_memory_does_not_grow_with_the_images(items, cache):
    def peak(several):
        tracemalloc.start()
        prepare("toy", "train", several, CLASSES, ImageFormat(size=128), cache=cache, workers=2)
        _, high = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return high

    peak(items)  # imports
    once, often = peak(items * 2), peak(items * 8)  # 6.5 MB and 26 MB of images
    assert often < once + 2_000_000


def test_cache_root(tmp_path, monkeypatch):
    monkeypatch.delenv("ATTRACTOR_AE_CACHE", raising=False)
    assert cache_root().name == "attractor-ae"
    monkeypatch.setenv("ATTRACTOR_AE_CACHE", str(tmp_path))
    assert cache_root() == tmp_path
    assert cache_root(Path("x")) == Path("x")


def test_clear_removes_a_set_or_all_and_nothing_else(items, cache):
    note = cache / "prepared" / "toy" / "note.txt"
    for name in ("toy", "..", "a/b", "caf\udce9"):
        prepare(name, "train", items[:3], CLASSES, FORM, cache=cache)
    (cache / "thesis.txt").write_text("mine")
    note.write_text("mine")
    sizes = {path: path.stat().st_size for path in cache.rglob("*") if path.is_file()}
    assert all(path.is_relative_to(cache) for path in sizes)

    freed = clear("toy", cache)
    assert freed == sum(
        size for path, size in sizes.items() if "toy" in path.parts and path != note
    )
    assert freed > 3 * 32 * 32
    assert clear("toy", cache) == 0
    assert clear(cache=cache) == sum(
        size for path, size in sizes.items() if "toy" not in path.parts and "npy" in path.suffix
    ) + sum(
        size for path, size in sizes.items() if "toy" not in path.parts and path.suffix == ".json"
    )
    assert files(cache) == [Path("prepared/toy/note.txt"), Path("thesis.txt")]
    assert clear("never prepared", cache) == 0


def test_broken_files_of_what_was_not_prepared(cache):
    with pytest.raises(AttractorError, match=r"'toy' \(train\) has not been prepared"):
        broken_files("toy", "train", FORM, cache)


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
        ([PIXELS[:, :0]], "toy: an image: has no pixels"),
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
