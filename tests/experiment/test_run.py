import os
import subprocess

import pytest
import torch

from attractor_ae import ExperimentConfig, Run
from attractor_ae._errors import AttractorError
from attractor_ae._files import write_tensors, write_text
from attractor_ae.experiment.run import _git_revision, claimed, environment


@pytest.fixture
def run(tmp_path):
    run = Run(tmp_path / "run")
    config = ExperimentConfig.from_dict({"dataset": {"name": "mnist5k"}})
    write_text(run.config_file, config.to_toml())
    write_tensors(run.weights_file, {"x": torch.zeros(1)}, {})
    return run


def test_a_finished_run_opens(run):
    assert Run.open(str(run.path)) == run
    assert run.config().dataset.name == "mnist5k"


def test_what_is_no_finished_run_is_named(run, tmp_path):
    with pytest.raises(AttractorError, match="none: no such run folder"):
        Run.open(tmp_path / "none")
    with pytest.raises(AttractorError, match="is not a run folder"):
        Run.open(tmp_path)
    run.weights_file.unlink()
    with pytest.raises(AttractorError, match="training is not finished; to finish it, run"):
        Run.open(run.path)


def test_the_log_grows_by_lines_with_times(run):
    run.log("one")
    run.log("two")
    lines = run.log_file.read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == ["one", "two"]


def test_the_environment_names_versions_and_revision():
    _git_revision.cache_clear()  # of an earlier test, before a commit
    made = environment("cpu", "float32")
    assert made["packages"]["torch"] == torch.__version__
    assert made["threads"] == torch.get_num_threads()
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    revision = made["git_revision"]
    if head.returncode == 0 and revision is not None:
        assert revision.startswith(head.stdout.strip())


@pytest.mark.skipif(os.name == "nt", reason="Windows has no flock")
def test_a_run_folder_has_one_process(tmp_path):
    """It stays only if something is in it, or was there before."""
    (tmp_path / "old").mkdir()
    for name, left in (("new", False), ("old", True)):
        run = Run(tmp_path / name)
        with claimed(run), pytest.raises(AttractorError, match="another process"), claimed(run):
            raise AssertionError
        assert run.path.exists() is left
    with claimed(Run(tmp_path / "new")):
        (tmp_path / "new" / "x").touch()
    assert (tmp_path / "new" / "x").exists()
