import errno
import json
import os

import pytest
import torch
from safetensors.torch import load_file

from attractor_ae._errors import AttractorError
from attractor_ae._files import (
    atomic_path,
    load_weights,
    read_tensors,
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
    assert metadata == {"epoch": "3"}


@pytest.mark.parametrize("keep", [0, 5, 60, -1])
def test_a_truncated_tensor_file_is_named(tmp_path, keep):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"x": torch.rand(10)}, {})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(AttractorError, match="a.safetensors: is truncated or damaged"):
        read_tensors(path)


def test_a_pickle_is_not_opened(tmp_path):
    path = tmp_path / "a.safetensors"
    torch.save({"x": torch.rand(3)}, path)
    with pytest.raises(AttractorError, match="truncated or damaged"):
        read_tensors(path)


def test_weights_of_another_model_are_named(tmp_path):
    with pytest.raises(AttractorError, match="does not contain the weights of this model"):
        load_weights(torch.nn.Linear(2, 2), {"weight": torch.zeros(3, 2)}, tmp_path / "w")
