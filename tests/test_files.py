import errno
import json
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from attractor_ae._errors import AttractorError
from attractor_ae._files import (
    atomic_path,
    file_name,
    load_weights,
    one_writer,
    read_tensors,
    remove_leftovers,
    write_json,
    write_tensors,
    write_text,
)


def test_a_file_is_whole_or_as_it_was(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    write_text(path, "old")

    def write_half():
        with atomic_path(path) as temporary:
            temporary.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    path = tmp_path / "file.txt"

    def write_to_full_disk():
        with atomic_path(path) as temporary:
            temporary.write_text("x")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(temporary))

    with pytest.raises(AttractorError, match="cannot be written .No space left on device.; free"):
        write_to_full_disk()
    assert not list(tmp_path.iterdir())


def test_new_files_have_the_permissions_of_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        write_text(tmp_path / "a", "")
    finally:
        os.umask(old)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_a_file_system_that_refuses_chmod(tmp_path, monkeypatch):
    """exFAT, and mounts without metadata."""

    def refuse(path, *_, **__):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(path))

    monkeypatch.setattr(os, "chmod", refuse)
    write_text(tmp_path / "a", "x")
    assert (tmp_path / "a").read_text() == "x"


@pytest.mark.skipif(os.name == "nt", reason="the rule that is simulated is that of Windows")
def test_windows_flushes_only_files_that_are_open_for_writing(tmp_path, monkeypatch):
    import fcntl

    fsync = os.fsync

    def as_on_windows(number):
        if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        fsync(number)

    monkeypatch.setattr(os, "fsync", as_on_windows)
    write_text(tmp_path / "a", "x")
    assert (tmp_path / "a").read_text() == "x"


@pytest.mark.parametrize(("code", "written"), [(errno.EINVAL, True), (errno.EIO, False)])
def test_a_file_system_without_fsync_and_a_broken_disk(tmp_path, monkeypatch, code, written):
    def fail(_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    if written:
        write_text(tmp_path / "a", "x")
    else:
        with pytest.raises(AttractorError, match="a: cannot be written"):
            write_text(tmp_path / "a", "x")
    assert [path.name for path in tmp_path.iterdir()] == ["a"] * written


def test_a_name_that_is_too_long_is_called_that(tmp_path):
    with pytest.raises(AttractorError, match="too long.*shorter name"):
        write_text(tmp_path / ("x" * 300), "")
    write_text(tmp_path / ("x" * 250), "long, but possible")
    assert [len(path.name) for path in tmp_path.iterdir()] == [250]


@given(st.text(min_size=1))
def test_a_label_is_a_short_file_name(label):
    name = file_name(label * 40)
    assert 1 <= len(name.encode()) <= 80
    assert name == file_name(name)


def test_long_labels_keep_apart():
    assert file_name("a" * 300) != file_name("a" * 301)


def test_leftovers_of_killed_processes_are_removed(tmp_path):
    with atomic_path(tmp_path / "checkpoint.safetensors") as temporary:
        (tmp_path / "copy").write_text("what kill -9 leaves")
        os.link(temporary, tmp_path / f"{temporary.name[:-12]}01234567.tmp")
    kept = [".mine.tmp", "a.01234567.tmp", "notes.txt"]
    for name in kept:
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted([*kept, "checkpoint.safetensors", "copy"])


def test_a_text_that_is_not_utf_8_is_one_line(tmp_path):
    with pytest.raises(AttractorError, match="udce9.*rename") as caught:
        write_text(tmp_path / "a", "name = 'caf\udce9'")
    assert str(caught.value).isprintable()
    assert not list(tmp_path.iterdir())


def test_json_is_strict(tmp_path):
    write_json(tmp_path / "a.json", {"x": [1, 2.5, None]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [1, 2.5, None]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "b.json", {"x": float("nan")})
    assert not (tmp_path / "b.json").exists()


def test_tensors_are_plain_safetensors(tmp_path):
    path = tmp_path / "a.safetensors"
    image = torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)
    write_tensors(path, {"x": image}, {"epoch": "3"})
    assert torch.equal(load_file(path)["x"], image)
    tensors, metadata = read_tensors(path)
    assert torch.equal(tensors["x"], image)
    assert metadata["epoch"] == "3"


@pytest.mark.parametrize("keep", [0, 5, 60, -1])
def test_a_truncated_tensor_file_is_named(tmp_path, keep):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"x": torch.rand(10)}, {})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(AttractorError, match="a.safetensors: is truncated or damaged"):
        read_tensors(path)


def test_a_change_of_any_byte_is_noticed(tmp_path):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"x": torch.rand(10), "n": torch.arange(3)}, {"epoch": "3"})
    whole = path.read_bytes()
    for place in range(len(whole)):
        for flip in (1, 32, 128):
            damaged = bytearray(whole)
            damaged[place] ^= flip
            path.write_bytes(damaged)
            with pytest.raises(AttractorError, match="a.safetensors: is truncated or damaged"):
                read_tensors(path)
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + whole[place + 1 :])  # one byte lost
        with pytest.raises(AttractorError, match="a.safetensors: is truncated or damaged"):
            read_tensors(path)


def test_a_file_of_another_program_has_no_digest(tmp_path):
    path = tmp_path / "a.safetensors"
    for metadata in (None, {"format": "pt"}):
        save_file({"x": torch.ones(2)}, path, metadata)
        tensors, found = read_tensors(path)
        assert torch.equal(tensors["x"], torch.ones(2))
        assert found == (metadata or {})


def test_a_pickle_is_not_opened(tmp_path):
    path = tmp_path / "a.safetensors"
    torch.save({"x": torch.rand(3)}, path)
    with pytest.raises(AttractorError, match="truncated or damaged"):
        read_tensors(path)


def test_weights_of_another_model_are_named(tmp_path):
    with pytest.raises(AttractorError, match="does not contain the weights of this model"):
        load_weights(torch.nn.Linear(2, 2), {"weight": torch.zeros(3, 2)}, tmp_path / "w")


def test_a_link_stays_a_link(tmp_path):
    """Also one to a file that does not exist yet."""
    link, target = tmp_path / "link.csv", tmp_path / "deep" / "target.csv"
    link.symlink_to(target)
    for text in ("new", "newer"):
        write_text(link, text)
        assert link.is_symlink()
        assert target.read_text() == text
    assert [path.name for path in target.parent.iterdir()] == [target.name]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no flock")
@pytest.mark.parametrize("make", [os.mkdir, lambda path: path.touch()])
def test_one_process_writes_at_a_time(tmp_path, make):
    path = tmp_path / "there"
    make(path)
    other = "import fcntl, os, sys; f = os.open(sys.argv[1], os.O_RDONLY); "
    other += "fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", other, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        with pytest.raises(AttractorError, match="another process"), one_writer(path):
            raise AssertionError
        process.kill()
    with one_writer(path):
        pass
    with pytest.raises(AttractorError, match="cannot be written"), one_writer(tmp_path / "none"):
        raise AssertionError


@pytest.mark.skipif(os.name == "nt", reason="Windows has no flock")
def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with one_writer(tmp_path):
        (tmp_path / "x").touch()
