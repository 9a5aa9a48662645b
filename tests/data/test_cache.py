import io
import json
import os
import resource
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attractor_ae._errors import AttractorError
from attractor_ae._reporter import Reporter
from attractor_ae.data.cache import BrokenFilesError, Encoded, cache_root, clear, prepare
from attractor_ae.data.decode import ImageFormat, decode
from attractor_ae.data.image_set import Wanted

FORM = ImageFormat(size=32)
CLASSES = ("a", "b", "c")


class Counted(Reporter):
    """A reporter that counts what is prepared."""

    def __init__(self):
        self.steps = []

    def progress(self, task, done, total, detail="", seconds_left=None):
        self.steps.append((done, total))


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def sources(tmp_path):
    """Sixty files with noise of several sizes, in no order of their names."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    folder.mkdir()
    paths = [folder / f"{i}.png" for i in rng.permutation(60)]
    for i, path in enumerate(paths):
        Image.fromarray(rng.integers(0, 256, (20 + i % 7, 25), dtype=np.uint8)).save(path)
    return paths


def run(cache, sources, *, name="toy", form=FORM, classes=CLASSES, key=(), labels=None,
        images=None, reporter=None, max_broken=0.05, **options):  # fmt: skip
    labels = np.arange(len(sources)) % 3 if labels is None else labels
    reporter = reporter or Counted()
    wanted = Wanted(image_format=form, cache=cache, max_broken=max_broken, reporter=reporter)
    images = sources if images is None else images
    return prepare(
        name, "train", list(sources), lambda: (images, labels), classes,
        key=(labels.tobytes(), *key), wanted=wanted, **options,
    )  # fmt: skip


def decoded(cache, sources, **options):
    """Prepare, check the images, and return whether they had to be decoded."""
    reporter = Counted()
    found = run(cache, sources, reporter=reporter, **options)
    readable = [path for path in sources if "\0" not in str(path) and path.exists()]
    form = options.get("form", FORM)
    np.testing.assert_array_equal(found.images, np.stack([decode(path, form) for path in readable]))
    return bool(reporter.steps)


def files(cache):
    return sorted(path.relative_to(cache) for path in cache.rglob("*") if path.is_file())


@pytest.mark.parametrize("form", [FORM, ImageFormat(16, 3), ImageFormat(64, 1, True)])
def test_holds_what_decoding_one_by_one_gives(cache, sources, form):
    for _ in range(2):  # decoded, and opened
        found = run(cache, sources, form=form)
        np.testing.assert_array_equal(found.images, [decode(path, form) for path in sources])
        assert found.labels.tolist() == [i % 3 for i in range(60)]
        assert (found.name, found.split, found.classes) == ("toy", "train", CLASSES)
        assert found.paths == tuple(map(str, sources))
        assert isinstance(found.images, np.memmap)
        assert not found.images.flags.writeable
        assert found.take([3, 0]).images.flags.writeable


def test_the_files_are_plain_numpy(cache, sources):
    found = run(cache, sources)
    (path,) = cache.rglob("images.npy")
    np.testing.assert_array_equal(np.load(path), found.images)
    (path,) = cache.rglob("labels.npy")
    np.testing.assert_array_equal(np.load(path), found.labels)
    assert [path.name for path in files(cache)] == ["contents.json", "images.npy", "labels.npy"]


def test_progress_counts_every_image_once(cache, sources):
    reporter = Counted()
    run(cache, sources, reporter=reporter)
    assert reporter.steps == [(i + 1, 60) for i in range(60)]


def rewrite(path, later=1):
    before = path.stat()
    Image.new("L", (9, 9), 77).save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + later))


@pytest.mark.parametrize(
    "change",
    [
        lambda paths: rewrite(paths[2]),
        lambda paths: rewrite(paths[2], later=0),  # the inode's own time changes all the same
        lambda paths: os.utime(paths[2], ns=(0, 0)),
        lambda paths: os.utime(paths[2], ns=(0, -1)),
        lambda paths: os.utime(paths[2], (0, 2**34 - 1)),  # does not fit into int64 as ns
        lambda paths: paths[2].unlink(),
        lambda paths: paths.__setitem__(2, paths[2].rename(paths[2].with_suffix(".jpg"))),
        lambda paths: paths.pop(),
        lambda paths: paths.append(paths[0]),
        lambda paths: paths.reverse(),
        lambda paths: paths.__setitem__(2, Path("nul\0.png")),
    ],
    ids=["one nanosecond", "content alone", "touched", "before 1970", "after 2262", "removed",
         "renamed", "fewer", "more", "order", "impossible name"],
)  # fmt: skip
def test_another_listing_is_decoded_anew(cache, sources, change):
    assert decoded(cache, sources)
    assert not decoded(cache, sources)
    change(sources)
    assert decoded(cache, sources)
    assert not decoded(cache, sources)


def test_a_file_that_was_missing_is_used_when_it_is_there(cache, sources):
    moved = sources[0].rename(sources[0].with_suffix(".moved"))
    assert len(run(cache, sources)) == 59
    moved.rename(sources[0])
    assert len(run(cache, sources)) == 60


def test_settings_have_entries_of_their_own(cache, sources):
    variants = [
        {},
        {"form": ImageFormat(size=48)},
        {"form": ImageFormat(size=32, channels=3)},
        {"form": ImageFormat(size=32, crop=True)},
        {"key": ("elsewhere",)},
        {"key": ("\udce9",)},
        {"key": ("a", "b")},
        {"key": ("ab",)},
        {"name": "toy2"},
        {"name": "to/y"},
        {"labels": np.zeros(60, dtype=np.int64)},
        {"classes": ("x", "b", "c")},
    ]
    assert all(decoded(cache, sources, **options) for options in variants)
    assert not any(decoded(cache, sources, **options) for options in variants)


def truncate(path, by=1):
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - by)


def save(path, values):
    with path.open("wb") as file:
        np.save(file, values)


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "contents.json"])
@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        Path.unlink,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\x80\x04garbage" * 9),
        lambda path: save(path, np.zeros((60, 1, 8, 8), np.uint8)),
        lambda path: save(path, np.array([{}], dtype=object)),
    ],
    ids=["truncated", "removed", "empty", "garbage", "other shape", "pickle"],
)
def test_a_damaged_entry_is_made_anew(cache, sources, name, damage):
    assert decoded(cache, sources)
    (path,) = cache.rglob(name)
    damage(path)
    assert decoded(cache, sources)
    assert not decoded(cache, sources)
    assert len(files(cache)) == 3


@pytest.mark.parametrize(
    "values", [{"shape": 3}, {"shape": [59, 1, 32, 32]}, {"broken": None}, {"labels": "0"}]
)
def test_changed_contents_are_made_anew(cache, sources, values):
    assert decoded(cache, sources)
    (path,) = cache.rglob("contents.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    assert decoded(cache, sources)


class Interrupting(Counted):
    def progress(self, *step):
        raise KeyboardInterrupt


def test_an_interruption_leaves_nothing(cache, sources):
    with pytest.raises(KeyboardInterrupt):
        run(cache, sources, reporter=Interrupting())
    assert files(cache) == []
    assert not list(cache.rglob(".*"))


def test_a_full_disk_is_one_line_and_leaves_nothing(cache, sources):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(AttractorError) as caught:
            run(cache, sources)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(str(caught.value).splitlines()) == 1
    assert "ATTRACTOR_AE_CACHE" in str(caught.value)
    assert files(cache) == []
    assert decoded(cache, sources)


def test_a_cache_that_is_a_file_is_one_line(tmp_path, sources):
    (tmp_path / "file").touch()
    with pytest.raises(AttractorError) as caught:
        run(tmp_path / "file", sources)
    assert str(tmp_path / "file") in str(caught.value)


CHILD = """
import sys, time
from pathlib import Path
import numpy as np
from attractor_ae._reporter import Reporter
from attractor_ae.data.cache import prepare
from attractor_ae.data.decode import ImageFormat
from attractor_ae.data.image_set import Wanted

class Slow(Reporter):
    def progress(self, task, done, total, detail="", seconds_left=None):
        print(done, flush=True)
        time.sleep(float(sys.argv[3]))

images = [np.full((8, 8), i, dtype=np.uint8) for i in range(20)]
wanted = Wanted(image_format=ImageFormat(size=32), cache=Path(sys.argv[2]), reporter=Slow())
read = lambda: (images, np.zeros(20, dtype=np.int64))
found = prepare("toy", "train", [sys.argv[1]], read, ("a",), key=(), wanted=wanted)
print(len(found.images), int(found.images.sum(dtype="int64")), flush=True)
"""


def start(source, cache, pause):
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(source), str(cache), str(pause)],
        stdout=subprocess.PIPE,
        text=True,
    )


WHOLE = f"20 {sum(range(20)) * 32 * 32}"


def test_a_process_killed_in_the_middle_leaves_nothing_wrong(cache, sources):
    with start(sources[0], cache, 60) as child:
        child.stdout.readline()
        child.send_signal(signal.SIGKILL)
    (left,) = (cache / "prepared" / "toy").iterdir()
    assert left.name.startswith(".")
    child = start(sources[0], cache, 0)
    assert child.communicate(timeout=60)[0].splitlines()[-1] == WHOLE
    assert left.exists()  # it could be that of another process at work
    os.utime(left, (0, 0))
    run(cache, sources)
    assert not left.exists()


def test_processes_that_prepare_at_once(cache, sources):
    children = [start(sources[0], cache, 0.02) for _ in range(3)]
    last = {child.communicate(timeout=60)[0].splitlines()[-1] for child in children}
    assert [child.returncode for child in children] == [0, 0, 0]
    assert last == {WHOLE}
    assert len(files(cache)) == 3
    assert len(list((cache / "prepared" / "toy").iterdir())) == 1


@pytest.fixture
def partly_broken(sources):
    sources[10].write_bytes(b"")
    sources[50].write_text("no picture")
    return sources


def test_broken_files_are_left_out_and_listed(partly_broken, cache):
    kept = [path for i, path in enumerate(partly_broken) if i not in (10, 50)]
    for _ in range(2):  # decoded, and opened
        found = run(cache, partly_broken)
        np.testing.assert_array_equal(found.images, [decode(path, FORM) for path in kept])
        assert found.labels.tolist() == [i % 3 for i in range(60) if i not in (10, 50)]
        assert found.paths == tuple(map(str, kept))
        assert [path for path, _ in found.left_out] == [str(partly_broken[i]) for i in (10, 50)]
    with pytest.raises(BrokenFilesError) as caught:
        run(cache, partly_broken, max_broken=0.02)
    assert caught.value.broken == found.left_out
    assert str(partly_broken[10]) in str(caught.value)
    assert "--max-broken" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_repaired_file_is_used(partly_broken, cache):
    run(cache, partly_broken)
    for place in (10, 50):
        Image.new("L", (9, 9)).save(partly_broken[place])
    found = run(cache, partly_broken)
    assert (len(found), found.left_out) == (60, ())


def test_files_known_to_be_unusable_count_as_broken_and_ignored_ones_do_not(cache, sources):
    unusable = [("x.png", "no"), ("y\udce9.png", "no")]
    ignored = [("z.png", "stray")]
    found = run(cache, sources, unusable=unusable, ignored=ignored)
    assert len(found) == 60
    assert found.left_out == (("z.png", "stray"), ("x.png", "no"), ("y\\xe9.png", "no"))
    with pytest.raises(BrokenFilesError) as caught:
        run(cache, sources, unusable=unusable, ignored=ignored, max_broken=0.0)
    assert len(caught.value.broken) == 2
    with pytest.raises(BrokenFilesError):
        run(cache, [], unusable=unusable)


def test_all_broken_is_an_error_whatever_is_allowed(tmp_path, cache):
    with pytest.raises(BrokenFilesError):
        run(cache, [tmp_path / "missing.png"], max_broken=1.0)


def test_names_that_are_not_utf8_are_listed(sources, tmp_path, cache):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    path.touch()
    good = Path(os.fsdecode(os.fsencode(tmp_path) + b"/na\xefve.png"))
    Image.new("L", (9, 9), 200).save(good)
    for _ in range(2):
        found = run(cache, [*sources, path, good])
        assert found.images[-1].min() == 200
        assert found.paths[-1] == str(good)
        assert [name for name, _ in found.left_out] == [f"{tmp_path}/caf\\xe9.png"]


@pytest.mark.parametrize(
    "changed",
    [
        {"sources": []},
        {"labels": np.full(60, 3)},
        {"max_broken": 1.5},
        {"images": [np.zeros((8, 8), np.uint8)] * 59},
        {"images": [np.zeros((8, 8), np.uint8)] * 61},
    ],
)
def test_refuses(sources, cache, changed):
    with pytest.raises(AttractorError):
        run(**({"sources": sources, "cache": cache} | changed))


PIXELS = np.random.default_rng(0).integers(0, 256, (60, 28, 30), dtype=np.uint8)
COLOURS = np.random.default_rng(1).integers(0, 256, (60, 28, 30, 3), dtype=np.uint8)


@pytest.mark.parametrize("pixels", [PIXELS, COLOURS])
def test_arrays_are_decoded_as_files_are(cache, sources, tmp_path, pixels):
    found = run(cache, sources, images=list(pixels))
    for i in (0, 31, 59):
        Image.fromarray(pixels[i]).save(tmp_path / "one.png")
        np.testing.assert_array_equal(found.images[i], decode(tmp_path / "one.png", FORM))
    assert found.paths == ()


def test_arrays_without_pixels_are_broken(cache, sources):
    with pytest.raises(BrokenFilesError) as caught:
        run(cache, sources, images=list(PIXELS[:, :0]), max_broken=1.0)
    assert len(caught.value.broken) == 60


def test_encoded_images_are_decoded_and_the_damaged_ones_left_out(cache, sources):
    stream = io.BytesIO()
    Image.new("L", (9, 9), 77).save(stream, "png")
    images = [Encoded("one", stream.getvalue()), Encoded("two", b"?"), Encoded("three", b"")]
    found = run(cache, sources[:3], images=images, max_broken=0.7)
    assert found.labels.tolist() == [0]
    assert (found.images == 77).all()
    assert [name for name, _ in found.left_out] == ["two", "three"]


def test_memory_stays_small(cache, sources):
    def endless():
        for i in range(2000):
            yield np.full((64, 64), i % 256, dtype=np.uint8)

    labels = np.zeros(2000, dtype=np.int64)
    run(cache, sources, name="warm up")
    tracemalloc.start()
    try:
        found = run(cache, sources, images=endless(), labels=labels, form=ImageFormat(64))
        assert tracemalloc.get_traced_memory()[1] < 2_000_000  # of 8 MB of pixels
    finally:
        tracemalloc.stop()
    assert len(found) == 2000


def test_images_stay_whole_when_the_cache_is_cleared(cache, sources):
    found = run(cache, sources)
    before = found.images.copy()
    clear(cache=cache)
    np.testing.assert_array_equal(found.images, before)


def test_cache_root(tmp_path, monkeypatch):
    monkeypatch.delenv("ATTRACTOR_AE_CACHE", raising=False)
    assert cache_root().name == "attractor-ae"
    monkeypatch.setenv("ATTRACTOR_AE_CACHE", str(tmp_path))
    assert cache_root() == tmp_path
    assert cache_root(Path("x")) == Path("x")


def test_clear_removes_a_set_or_all_and_nothing_else(cache, sources):
    for name in ("toy", "..", "a/b", "caf\udce9"):
        run(cache, sources, name=name)
    (cache / "thesis.txt").write_text("mine")
    sizes = {path: path.stat().st_size for path in cache.rglob("*") if path.is_file()}
    assert all(path.is_relative_to(cache) for path in sizes)

    freed = clear("toy", cache)
    assert freed == sum(size for path, size in sizes.items() if "toy" in path.parts)
    assert freed > 60 * 32 * 32
    assert clear("toy", cache) == 0
    rest = [s for path, s in sizes.items() if "toy" not in path.parts and path.suffix != ".txt"]
    assert clear(cache=cache) == sum(rest)
    assert files(cache) == [Path("thesis.txt")]
    assert clear("never prepared", cache) == 0
