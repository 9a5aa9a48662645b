"""What a terminal shows, and names that a shell hands over."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attractor_ae import EvaluationResult, ExperimentConfig, ImageSet
from attractor_ae.__main__ import main
from attractor_ae.cli._terminal import out, terminal_reporter
from attractor_ae.cli.experiments import _named_outs
from attractor_ae.experiment.config import override

FULL = Path("/dev/full")
NAME = "[lr=1e-3] v1 [/x] :smile: Bäume"


def images(name):
    return ImageSet(name, "test", np.zeros((4, 1, 16, 16), np.uint8), np.arange(4) % 2, ("a", "b"))


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """The folder of a result with names that a terminal may fail to show."""
    folder = tmp_path_factory.mktemp("result")
    scores = np.array([0.1, 0.2, 0.3, 0.4])
    p = np.full((4, 2), 0.5)
    outs = [(images(NAME), 1 - scores)]
    found = EvaluationResult.from_scores("MC-AE", images("known"), scores, outs, probabilities=p)
    found.save(folder)
    return folder


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "attractor_ae", *map(str, arguments)],
        capture_output=True,
        env={**os.environ, "COLUMNS": "200", "PYTHONUTF8": "0", **environment},
    )


@pytest.mark.skipif(not FULL.exists(), reason="no such device")
def test_output_that_cannot_be_written_is_one_line():
    command = [sys.executable, "-m", "attractor_ae", "data", "list"]
    with FULL.open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "output: No space left on device; free space" in done.stderr


def test_ctrl_c_while_the_command_line_is_imported(monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "attractor_ae.cli")
    monkeypatch.setattr(sys, "meta_path", [type("", (), {"find_spec": interrupt})])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 130


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii", "shift_jis"])
def test_a_table_is_printed_in_what_the_stream_can_show(result, tmp_path, encoding):
    told = run("table", result, "--out", tmp_path, PYTHONIOENCODING=encoding)
    assert (told.returncode, told.stderr) == (0, b"")
    shown = told.stdout.decode(encoding)
    assert "[lr=1e-3] v1 [/x] :smile: B" in shown
    assert ("Bäume" in shown) == (encoding in {"utf-8", "cp1252"})
    assert ("±" in shown) == (encoding != "ascii")
    # Files do not depend on the terminal.
    assert "±" in (tmp_path / "table.md").read_text(encoding="utf-8")
    assert "Bäume" in (tmp_path / "table.csv").read_text(encoding="utf-8")


@pytest.mark.skipif(sys.platform != "linux", reason="the system refuses such names")
def test_a_name_that_is_not_text_is_shown(tmp_path):
    told = run("evaluate", tmp_path / "caf\udce9")
    assert told.returncode == 2
    assert b"caf\\xe9: there is no run" in told.stderr


def test_brackets_in_the_names_of_tasks(capsys, monkeypatch):
    monkeypatch.setattr(out, "_force_terminal", True)
    with terminal_reporter() as reporter:
        reporter.progress(f"preparing {NAME}", 1, 2, NAME)
    assert capsys.readouterr().out.count(NAME) >= 2


def named(values, root):
    values = override({}, _named_outs(values, root))
    return values["evaluation"]["out_datasets"]


@given(
    st.lists(st.text(min_size=1).filter(lambda name: name.strip() and "," not in name), min_size=1)
)
def test_a_name_is_taken_literally(tmp_path_factory, names):
    root = tmp_path_factory.getbasetemp()
    assert named(names, root) == names
    table = {"dataset": {"name": "mnist5k"}}
    config = ExperimentConfig.from_dict(override(table, _named_outs(names, root)))
    assert config.evaluation.out_datasets == tuple(names)


def test_a_comma_separates_names_unless_it_is_part_of_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "root" / "in, root").mkdir(parents=True)
    (tmp_path / "a,b").mkdir()
    root = tmp_path / "root"
    assert named(["faces, photos,", "mnist"], root) == ["faces", "photos", "mnist"]
    assert named(["a,b"], root) == ["a,b"]
    assert named(["in, root", "x,y"], root) == ["in, root", "x", "y"]
