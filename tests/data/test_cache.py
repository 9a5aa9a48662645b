import errno
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from attractor_ae._errors import AttractorError
from attractor_ae.data.cache import CacheEntry, cache_root, clear
from attractor_ae.data.decode import ImageFormat

FORM = ImageFormat(size=32)
CLASSES = ("a", "b", "c")
IMAGES = np.random.default_rng(0).integers(0, 256, (60, 1, 32, 32), dtype=np.uint8)
LABELS = np.arange(60) % 3


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def sources(tmp_path):
    """Files that the images are said to be made of; their content is of no concern."""
    paths = [tmp_path / "pictures" / f"{i}.png" for i in range(5)]
    paths[0].parent.mkdir()
    for path in paths:
        path.write_bytes(b"picture")
    return paths


def nothing(done, count):
    pass


def entry(cache, sources, *, name="toy", form=FORM, classes=CLASSES, variant=""):
    made = CacheEntry.of(name, "train", classes, form, variant, cache)
    made.made_of([str(path) for path in sources], LABELS.tobytes())
    return made


def build(cache, sources, images=IMAGES, on_progress=nothing, **options):
    batches = [(images[:40], []), (images[40:], [])]
    return entry(cache, sources, **options).built(batches, LABELS, [], on_progress)


def fits(cache, sources, **options):
    """Return whether there are images that are still the right ones."""
    opened = entry(cache, sources, **options).opened()
    if opened is not None:
        np.testing.assert_array_equal(opened.images, IMAGES)
        np.testing.assert_array_equal(opened.labels, LABELS)
    return opened is not None


def files(cache):
    return sorted(path.relative_to(cache) for path in cache.rglob("*") if path.is_file())


def test_the_files_are_plain_numpy(cache, sources):
    opened = build(cache, sources)
    (found,) = cache.rglob("images-*.npy")
    np.testing.assert_array_equal(np.load(found), IMAGES)
    np.testing.assert_array_equal(opened.images, IMAGES)
    (found,) = cache.rglob("labels-*.npy")
    np.testing.assert_array_equal(np.load(found), LABELS)
    assert len(files(cache)) == 3


def test_what_cannot_be_used_is_left_out_and_listed(cache, sources, broken_files):
    failed = [(3, ("x.png", "is empty")), (39, ("y.png", "is damaged"))]
    kept = np.delete(np.arange(60), [3, 39])
    batches = [(IMAGES[kept[:38]], failed), (IMAGES[40:], [])]
    known = [("z.png", "lies elsewhere")]
    seen = []
    opened = entry(cache, sources).built(batches, LABELS, known, lambda *done: seen.append(done))
    assert seen == [(40, 60), (60, 60)]
    np.testing.assert_array_equal(opened.images, IMAGES[kept])
    np.testing.assert_array_equal(opened.labels, LABELS[kept])
    listed = [*known, ("x.png", "is empty"), ("y.png", "is damaged")]
    assert broken_files(cache) == listed
    assert list(entry(cache, sources).opened().broken) == listed


def test_pixels_that_were_written_to_are_noticed(cache, sources):
    build(cache, sources)
    assert fits(cache, sources)
    with next(cache.rglob("images-*.npy")).open("r+b") as opened:
        opened.seek(200)
        opened.write(b"damaged!")
    assert not fits(cache, sources)


def rewrite(path, content=b"another", later=1):
    before = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + later))


@pytest.mark.parametrize(
    "change",
    [
        lambda paths: rewrite(paths[2]),
        lambda paths: rewrite(paths[2], b"longer than it was", later=0),
        lambda paths: os.utime(paths[2], ns=(0, 0)),
        lambda paths: os.utime(paths[2], ns=(0, -1)),
        lambda paths: os.utime(paths[2], (0, 2**34 - 1)),  # does not fit into int64 as ns
        lambda paths: paths[2].chmod(0o200),
        lambda paths: paths[2].chmod(0o640),
        lambda paths: paths[2].unlink(),
        lambda paths: paths[2].rename(paths[2].with_suffix(".jpg")),
        lambda paths: paths.pop(),
        lambda paths: paths.append(paths[0]),
        lambda paths: paths.reverse(),
        lambda paths: paths.__setitem__(2, Path("nul\0.png")),
    ],
    ids=[
        "one nanosecond",
        "size alone",
        "touched",
        "before 1970",
        "after 2262",
        "nobody reads",
        "others do not read",
        "removed",
        "renamed",
        "fewer",
        "more",
        "order",
        "impossible name",
    ],
)
def test_what_the_images_were_made_of_is_watched(cache, sources, change):
    build(cache, sources)
    assert fits(cache, sources)
    change(sources)
    assert not fits(cache, sources)
    build(cache, sources)
    assert fits(cache, sources)
    assert len(files(cache)) == 3


def test_writing_permission_is_of_no_concern(cache, sources):
    sources[0].chmod(0o644)
    build(cache, sources)
    sources[0].chmod(0o444)
    assert fits(cache, sources)


def test_files_that_are_not_there_are_so_until_they_are(cache, sources):
    moved = sources[0].rename(sources[0].with_suffix(".moved"))
    build(cache, sources)
    assert fits(cache, sources)
    moved.rename(sources[0])
    assert not fits(cache, sources)


def test_settings_have_places_of_their_own(cache, sources):
    variants = [
        {},
        {"form": ImageFormat(size=32, crop=True)},
        {"variant": "elsewhere"},
        {"variant": "\udce9"},
        {"name": "toy2"},
        {"name": "to/y"},
    ]
    for options in variants:
        assert not fits(cache, sources, **options)
        build(cache, sources, **options)
    assert all(fits(cache, sources, **options) for options in variants)
    assert not fits(cache, sources, classes=("x", "b", "c"))
    assert not fits(cache, sources, form=ImageFormat(size=48))
    assert not fits(cache, sources, form=ImageFormat(size=32, channels=3))


def test_another_version_does_not_fit(cache, sources, monkeypatch):
    build(cache, sources)
    monkeypatch.setattr("attractor_ae.data.cache.VERSION", -1)
    assert not fits(cache, sources)


def truncate(path, by=1):
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - by)


def append(path):
    with path.open("ab") as file:
        file.write(b"\0")


def save(path, values):
    with path.open("wb") as file:
        np.save(file, values)


@pytest.mark.parametrize("pattern", ["images-*", "labels-*", "manifest.json"])
@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        append,
        Path.unlink,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\x80\x04garbage" * 9),
        lambda path: save(path, np.zeros((60, 1, 8, 8), np.uint8)),
        lambda path: save(path, np.array([{}], dtype=object)),
    ],
    ids=["truncated", "longer", "removed", "empty", "garbage", "other shape", "pickle"],
)
def test_a_damaged_cache_does_not_fit(cache, sources, pattern, damage):
    build(cache, sources)
    (path,) = cache.rglob(pattern)
    damage(path)
    assert not fits(cache, sources)
    build(cache, sources)
    assert fits(cache, sources)
    assert len(files(cache)) == 3


@pytest.mark.parametrize(
    "values",
    [{"token": "../../x"}, {"token": 3}, {"images": 59}, {"images": "60"}, {"broken": None}],
)
def test_a_changed_manifest_does_not_fit(cache, sources, values):
    build(cache, sources)
    (path,) = cache.rglob("manifest.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    assert not fits(cache, sources)


def test_an_interruption_leaves_nothing(cache, sources):
    def interrupt(done, count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(cache, sources, on_progress=interrupt)
    assert files(cache) == []

    build(cache, sources)
    before = files(cache)
    with pytest.raises(KeyboardInterrupt):
        build(cache, sources, on_progress=interrupt)
    assert files(cache) == before
    assert fits(cache, sources)


CHILD = """
import sys, time
from pathlib import Path
import numpy as np
from attractor_ae.data.cache import CacheEntry
from attractor_ae.data.decode import ImageFormat

def slow(done, count):
    print(done, flush=True)
    time.sleep(float(sys.argv[3]))

entry = CacheEntry.of("toy", "train", ("a",), ImageFormat(size=32), "", Path(sys.argv[2]))
entry.made_of([sys.argv[1]])
batches = [(np.full((1, 1, 32, 32), i, dtype=np.uint8), []) for i in range(20)]
labels = np.zeros(20, dtype=np.int64)
opened = entry.opened() or entry.built(batches, labels, (), slow)
print(len(opened.images), int(opened.images.sum(dtype="int64")), flush=True)
"""


def start(source, cache, pause):
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(source), str(cache), str(pause)],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_what_a_killed_process_left_is_removed_by_the_next(cache, sources):
    with start(sources[0], cache, 60) as child:
        child.stdout.readline()
        build(cache, sources)  # does not take the other's files for leftovers
        assert len(files(cache)) == 4
        child.send_signal(signal.SIGKILL)
    assert len(files(cache)) == 4
    build(cache, sources)
    assert len(files(cache)) == 3


def test_several_processes_at_once(cache, sources):
    children = [start(sources[0], cache, 0.01) for _ in range(3)]
    last = {child.communicate(timeout=60)[0].splitlines()[-1] for child in children}
    assert [child.returncode for child in children] == [0, 0, 0]
    assert last == {f"20 {sum(range(20)) * 32 * 32}"}
    assert len(files(cache)) == 3


def test_images_stay_whole_when_they_are_made_anew_or_cleared(cache, sources):
    opened = build(cache, sources)
    build(cache, sources, 255 - IMAGES)
    clear(cache=cache)
    np.testing.assert_array_equal(opened.images, IMAGES)


def test_a_full_disk_is_one_line(cache, sources):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(AttractorError, match="cannot be written .*ATTRACTOR_AE_CACHE"):
            build(cache, sources)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files(cache) == []


def test_a_cache_that_is_no_folder_is_one_line(tmp_path, sources):
    (tmp_path / "file").touch()
    with pytest.raises(AttractorError, match="file.* cannot be written"):
        build(tmp_path / "file", sources)


def test_an_error_of_the_listener_is_not_taken_for_a_full_disk(cache, sources):
    def fail(done, count):
        raise BrokenPipeError(errno.EPIPE, "terminal is gone")

    with pytest.raises(BrokenPipeError):
        build(cache, sources, on_progress=fail)


def test_cache_root(tmp_path, monkeypatch):
    monkeypatch.delenv("ATTRACTOR_AE_CACHE", raising=False)
    assert cache_root().name == "attractor-ae"
    monkeypatch.setenv("ATTRACTOR_AE_CACHE", str(tmp_path))
    assert cache_root() == tmp_path
    assert cache_root(Path("x")) == Path("x")


def test_clear_removes_a_set_or_all_and_nothing_else(cache, sources):
    note = cache / "prepared" / "toy" / "note.txt"
    for name in ("toy", "..", "a/b", "caf\udce9"):
        build(cache, sources, name=name)
    (cache / "thesis.txt").write_text("mine")
    note.write_text("mine")
    sizes = {path: path.stat().st_size for path in cache.rglob("*") if path.is_file()}
    assert all(path.is_relative_to(cache) for path in sizes)

    freed = clear("toy", cache)
    assert freed == sum(
        size for path, size in sizes.items() if "toy" in path.parts and path != note
    )
    assert freed > 60 * 32 * 32
    assert clear("toy", cache) == 0
    assert clear(cache=cache) == sum(
        size for path, size in sizes.items() if "toy" not in path.parts and "npy" in path.suffix
    ) + sum(
        size for path, size in sizes.items() if "toy" not in path.parts and path.suffix == ".json"
    )
    assert files(cache) == [Path("prepared/toy/note.txt"), Path("thesis.txt")]
    assert clear("never prepared", cache) == 0
