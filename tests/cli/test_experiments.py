"""Sweeps, tables, figures and suites at the terminal."""

import json
import re

import pytest
import torch
from at_terminal import error_line, invoke, options
from small_models import FEW

from attractor_ae import Run

TINY = [
    "dataset.nbr_of_samples_per_class=4",
    "training.epochs=1",
    *FEW,
    "evaluation.out_samples_per_class=5",
]


@pytest.fixture(scope="module")
def swept(tmp_path_factory, sweeps_train_here):
    """A sweep of two seeds, and what it printed."""
    folder = tmp_path_factory.mktemp("sweep")
    config = folder / "digits.toml"
    config.write_text("[dataset]\nname = 'mnist5k'\n")
    runs = folder / "runs"
    told = invoke("sweep", config, "--seeds", "0-1", "--out", runs, "--workers", 1, *options(TINY))
    return runs, told


@pytest.fixture(scope="module")
def evaluated(swept):
    """What the evaluation of the sweep printed."""
    return invoke("evaluate", swept[0], "--out-datasets", "faces,photos", "--trials", 3)


def test_a_sweep_trains_each_seed_and_says_what_to_do_next(swept):
    runs, told = swept
    assert told.exit_code == 0, told.output
    assert "training runs: 2/2 runs" in told.stdout
    assert f"2 trained, 0 finished before: {runs}" in told.stdout
    assert f"attractor-ae evaluate {runs}" in told.stdout
    assert Run(runs / "seed1").finished
    again = invoke(
        "sweep", runs.parent / "digits.toml", "--seeds", "0-1", "--out", runs, *options(TINY)
    )
    assert "0 trained, 2 finished before" in again.stdout


def test_a_failed_run_is_told_at_the_end(swept, tmp_path):
    settings = [*TINY, "training.learning_rate=1e30", "training.optimizer=SGD"]
    config = swept[0].parent / "digits.toml"
    told = invoke("sweep", config, "--seeds", "3", "--out", tmp_path, *options(settings))
    assert told.exit_code == 2
    assert "failed: " in told.stderr
    assert "lower training.learning_rate" in told.stderr
    assert str(tmp_path / "seed3" / "log.txt") in told.stderr


@pytest.mark.slow
def test_many_runs_are_evaluated_into_one_table(swept, evaluated):
    assert evaluated.exit_code == 0, evaluated.output
    for run in ("seed0", "seed1"):
        stored = json.loads((swept[0] / run / "evaluation" / "metrics.json").read_text())
        assert set(stored["recursions"][0]["out"]) == {"faces", "photos"}
        assert stored["provenance"]["experiment"]["evaluation"]["trials"] == 3
    assert "MC-AE" in evaluated.stdout
    assert "±" in evaluated.stdout


@pytest.mark.slow
def test_a_table_is_printed_and_written(swept, evaluated, tmp_path):
    told = invoke("table", swept[0], "--out", tmp_path, "--grid", "paper", "--significance")
    assert told.exit_code == 0, told.output
    assert "MC-AE" in told.stdout
    assert {path.name for path in tmp_path.iterdir()} >= {"table.tex", "table.md", "table.csv"}
    out = invoke("table", swept[0], "--orientation", "out")
    assert out.exit_code == 0
    assert out.stdout != told.stdout


@pytest.mark.slow
def test_figures_are_drawn(swept, evaluated, tmp_path):
    told = invoke("figures", swept[0] / "seed*", "--out", tmp_path)
    assert told.exit_code == 0, told.output
    assert str(tmp_path / "roc.png") in told.stdout


@pytest.mark.parametrize("command", ["table", "evaluate"])
@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--grid", "papper", "unknown grid 'papper'; did you mean 'paper'"),
        ("--orientation", "inn", "unknown orientation 'inn'; did you mean 'in'"),
    ],
)
def test_a_wrong_name_is_one_line_before_anything_is_measured(
    swept, command, option, value, message
):
    assert message in error_line(invoke(command, swept[0], option, value))


def test_what_is_no_run_is_one_line(tmp_path, swept):
    assert "nowhere" in error_line(invoke("evaluate", tmp_path / "nowhere"))
    assert "--ensemble" in error_line(invoke("evaluate", swept[0], "--out", tmp_path / "x"))
    assert "is an autoencoder" in error_line(invoke("evaluate", swept[0], "--ensemble"))
    assert "must have the form 3 or 0-9" in error_line(invoke("sweep", "quick", "--seeds", "a-b"))
    assert "must have the form NAME=AMOUNT" in error_line(
        invoke("sweep", "quick", "--out", tmp_path / "y", "--resource", "GPU")
    )


@pytest.mark.slow
def test_an_ensemble_at_the_terminal(tmp_path):
    settings = [*TINY[:3], "model.type=conv", "model.dropout=0", *TINY[-2:]]
    runs = tmp_path / "members"
    config = tmp_path / "conv.toml"
    config.write_text("[dataset]\nname = 'mnist5k'\n")
    swept = invoke(
        "sweep", config, "--seeds", "0,4", "--out", runs, "--workers", 1, *options(settings)
    )
    assert swept.exit_code == 0, swept.output
    told = invoke("evaluate", runs, "--ensemble", "--out-datasets", "faces")
    assert told.exit_code == 0, told.output
    assert "deep ensemble on mnist5k" in told.stdout
    assert "every recursion" not in told.stdout  # there is one
    assert (runs / "ensemble" / "detector.safetensors").is_file()
    assert invoke("table", runs).exit_code == 0


def test_an_unknown_suite_is_one_line():
    assert "did you mean 'builtin'" in error_line(invoke("reproduce", "bulitin"))


def test_a_run_of_the_original_is_imported(tmp_path, autoencoder):
    from attractor_ae.experiment.convert import ORIGINAL_LAYERS

    folder = tmp_path / "original"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "cfg.toml").write_text("[dataset]\nname = 'mnist'\n[model]\ntype = 'dropout-cae'\n")
    ours = autoencoder.state_dict()
    state = {
        f"{theirs}.{kind}": ours[f"{own}.{kind}"]
        for theirs, own in ORIGINAL_LAYERS["dropout-cae"].items()
        for kind in ("weight", "bias")
    }
    torch.save(state, folder / "checkpoints" / "last_model.pth")
    told = invoke("import-run", folder, "--out", tmp_path / "run", "--seed", "3")
    assert told.exit_code == 0, told.output
    assert Run.open(tmp_path / "run").finished
    assert Run.open(tmp_path / "run").config().training.seed == 3
    assert "cfg.toml: cannot be read" in error_line(invoke("import-run", tmp_path / "nothing"))


def test_train_validates_on_the_splits_of_d_in(tmp_path):
    extra = [
        "dataset.name=mnist5k",
        "evaluation.accuracy_splits=['train']",
        "evaluation.covariate_shift_datasets=['digits8']",
    ]
    told = invoke(
        "train", "paper", "--validate", "--out", tmp_path / "run", *options([*TINY, *extra])
    )
    assert told.exit_code == 0, told.output
    log = Run.open(tmp_path / "run").log_file.read_text()
    found = re.findall(r"epoch 1, ([^,]+?): (\d+) test images: accuracy", log)
    assert found == [("mnist5k", "20"), ("mnist5k:train", "20")]


def test_mistakes_beside_a_preset_are_told_of_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "default").mkdir()  # no file: the preset is meant
    line = error_line(invoke("train", "default", "--set", "training.optmizer=Adam"))
    assert line.startswith("error: preset default: unknown key in [training]: 'optmizer'")
    line = error_line(invoke("train", "defalt"))
    assert "unknown folder, TOML file or preset 'defalt'; did you mean 'default'?" in line
    assert "no such file" in error_line(invoke("train", "defalt.toml"))
