import csv
import re
import shutil
import tomllib

import numpy as np
import pytest

from attractor_ae import (
    EvaluationResult,
    ExperimentConfig,
    evaluate,
    fit_detector,
    load,
    run_evaluation,
    run_reproduction,
    train,
)
from attractor_ae._errors import AttractorError
from attractor_ae._reporter import Reporter
from attractor_ae.experiment.compare import compare_runs, draw_runs, measured_runs
from attractor_ae.reporting.renderers import markdown

# Trains and evaluates whole suites: only here everything is put together.
pytestmark = pytest.mark.slow

TINY = """
in_dataset = "mnist5k"
out_datasets = ["faces", "omniglot"]

[methods."MC-AE"]
quick = [
  "dataset.nbr_of_samples_per_class=8", "dataset.calibration_fraction=0.5", "training.epochs=1",
  "evaluation.recursions=2", "evaluation.trials=2", "evaluation.nbr_of_samples_per_class=2",
  "evaluation.scores=['entropy']", "evaluation.out_samples_per_class=5",
]

[methods."MC-AE, fused"]
score = "ood_score"
quick = [
  "dataset.nbr_of_samples_per_class=8", "dataset.calibration_fraction=0.5", "training.epochs=1",
  "evaluation.recursions=2", "evaluation.trials=2", "evaluation.nbr_of_samples_per_class=2",
  "evaluation.scores=['entropy']", "evaluation.out_samples_per_class=5",
]

[methods.ensemble]
ensemble = true
settings = ["model.type=conv", "model.metric=", "model.dropout=0", "dataset.calibration_fraction=0"]
quick = [
  "dataset.nbr_of_samples_per_class=4", "training.epochs=1", "evaluation.recursions=1",
  "evaluation.recursion=0", "evaluation.score=entropy", "evaluation.scores=[]",
  "evaluation.nbr_of_samples_per_class=2", "evaluation.out_samples_per_class=5",
]
"""


class Told(Reporter):
    def __init__(self, told):
        self.told = told

    def progress(self, task, done, total, detail="", seconds_left=None):
        self.told.append(task)


@pytest.fixture
def undrawn(monkeypatch):
    """Without figures and report, which take most of the time; `reproduced` has them."""
    monkeypatch.setattr("attractor_ae.experiment.reproduce.suite_figures", lambda *_, **__: [])
    monkeypatch.setattr("attractor_ae.experiment.reproduce.save_report", lambda *_, **__: None)
    monkeypatch.setattr("attractor_ae.experiment.evaluate._write_figures", lambda *_: None)


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    path = tmp_path_factory.mktemp("suite") / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def reproduced(suite, sweeps_train_here):
    """The suite, made once."""
    return reproduce(suite, [])


def reproduce(suite, told, **options):
    return run_reproduction(
        suite,
        suite.parent / "made",
        quick=True,
        seeds=(0, 1),
        workers=1,
        data_root=suite.parent,
        reporter=Told(told),
        **options,
    )


def test_everything_is_trained_measured_and_written(reproduced):
    folder = reproduced.folder
    assert list(reproduced.results) == ["MC-AE", "MC-AE, fused", "ensemble"]
    assert [len(found) for found in reproduced.results.values()] == [2, 2, 1]
    assert [found[0].score for found in reproduced.results.values()] == [
        "entropy",
        "ood_score",
        "entropy",
    ]
    # Both of the autoencoder's rows are of the same runs.
    assert sorted(path.name for path in (folder / "runs").iterdir()) == ["MC-AE", "ensemble"]
    assert len(reproduced.training.finished) == 4
    figures = {path.stem for path in (folder / "figures").glob("*.png")}
    assert {"entropy-MC-AE", "recursions", "trials", "roc", "reconstructions-MC-AE"} <= figures
    assert (folder / "report.html").read_text(encoding="utf-8").count("<article") == 3
    with (folder / "table.csv").open(encoding="utf-8") as file:
        assert len(list(csv.reader(file))) > 3
    assert r"\toprule" in (folder / "table.tex").read_text()


def test_the_table_is_of_the_stored_scores(reproduced):
    stored = [
        EvaluationResult.load(reproduced.folder / f"runs/MC-AE/seed{seed}/evaluation")
        for seed in (0, 1)
    ]
    for label, score in (("MC-AE", "entropy"), ("MC-AE, fused", "ood_score")):
        expected = [result.rates("faces", score).auroc for result in stored]
        found = [result.metrics()["out"]["faces"]["auroc"] for result in reproduced.results[label]]
        assert found == expected
    text = (reproduced.folder / "table.md").read_text()
    values = [result.rates("faces", "entropy").auroc for result in stored]
    assert f"{100 * np.mean(values):.1f} ± {100 * np.std(values):.1f}" in text


def test_a_missing_set_is_reported_and_left_out(reproduced):
    assert list(reproduced.missing) == ["omniglot"]
    assert "needs" in reproduced.missing["omniglot"]
    result = reproduced.results["MC-AE"][0]
    assert [scores.name for scores in result.out_scores] == ["faces"]


def test_the_page_says_what_was_run(reproduced):
    text = (reproduced.folder / "README.md").read_text()
    assert re.search(r"attractor-ae reproduce \S+tiny.toml --quick --seeds 0,1", text)
    assert re.search(r"\*\*ensemble\*\*: 2 networks as one ensemble, 1 epoch,", text)
    assert "left out: omniglot" in text
    assert "torch" in text
    assert (reproduced.folder / "table.md").read_text().strip() in text


@pytest.mark.usefixtures("undrawn")
def test_a_second_call_trains_and_measures_nothing(reproduced, suite):
    told = []
    again = reproduce(suite, told)
    assert told == []
    assert len(again.training.skipped) == 4
    for label, found in reproduced.results.items():
        assert [r.metrics() for r in again.results[label]] == [r.metrics() for r in found]


def test_runs_are_compared_and_drawn_by_their_folders(reproduced, tmp_path):
    runs = reproduced.folder / "runs"
    measured = measured_runs([runs / "MC-AE", runs / "ensemble"])
    assert {label: len(found) for label, found in measured.items()} == {
        "MC-AE": 2,
        "deep ensemble": 1,
    }
    assert measured_runs([runs / "ensemble" / "ensemble"]).keys() == {"deep ensemble"}
    table = compare_runs([runs / "MC-AE", runs / "ensemble"], score="entropy")
    assert "deep ensemble" in markdown(table.detection)
    drawn = draw_runs([str(runs / "MC-AE" / "seed*")], tmp_path)
    assert (tmp_path / "roc.png") in drawn
    assert all(path.is_file() for path in drawn)


def test_a_run_that_was_not_evaluated_is_named(reproduced, digits, tmp_path):
    folder = tmp_path / "seed0"
    folder.mkdir()
    for name in ("config.toml", "weights.safetensors"):
        source = reproduced.folder / "runs" / "MC-AE" / "seed0" / name
        (folder / name).write_bytes(source.read_bytes())
    with pytest.raises(AttractorError, match="was not evaluated; run: attractor-ae eval"):
        measured_runs([folder])


def test_runs_in_folders_of_one_name_are_told_apart(reproduced, digits, tmp_path):
    runs = reproduced.folder / "runs" / "MC-AE"
    copies = []
    for place in ("a", "b"):
        copies.append(tmp_path / place / "seed0")
        shutil.copytree(runs / "seed0", copies[-1])
    # Another experiment: its result says so.
    stored = EvaluationResult.load(copies[1] / "evaluation")
    stored.provenance["experiment"]["evaluation"]["trials"] = 7
    stored.save(copies[1] / "evaluation")
    assert list(measured_runs(copies)) == ["MC-AE (a/seed0)", "MC-AE (b/seed0)"]


def test_an_ensemble_goes_before_its_members(reproduced):
    runs = reproduced.folder / "runs" / "ensemble"
    run_evaluation(runs / "seed0", overrides=["evaluation.out_datasets=['faces']"])
    (found,) = measured_runs([runs]).values()
    assert [run.run.path.name for run in found] == ["ensemble"]
    assert measured_runs([str(runs.parent / "*" / "ensemble")]).keys() == {"deep ensemble"}


def test_what_no_run_could_do_is_told_before_training(suite, tmp_path):
    path = tmp_path / "wrong.toml"
    path.write_text(TINY.replace('"model.dropout=0", ', ""))
    with pytest.raises(AttractorError, match="'ensemble': the members of an ensemble are"):
        run_reproduction(path, tmp_path / "made", quick=True, data_root=tmp_path)
    path.write_text(TINY.replace('"mnist5k"', '"cifar10"'))
    with pytest.raises(AttractorError, match="'cifar10' needs"):
        run_reproduction(path, tmp_path / "made", quick=True, data_root=tmp_path)
    assert not (tmp_path / "made").exists()


def test_a_suite_without_any_of_its_sets_is_one_line(suite, tmp_path):
    path = tmp_path / "none.toml"
    path.write_text(TINY.replace('["faces", "omniglot"]', '["omniglot"]'))
    with pytest.raises(AttractorError, match=r"none of its D_outs is present \(omniglot\)"):
        run_reproduction(path, tmp_path / "made", quick=True, data_root=tmp_path)
    assert not (tmp_path / "made").exists()


def test_runs_on_several_known_sets_are_drawn_side_by_side(reproduced, digits, tmp_path):
    """The paper's figure of reconstructions: several D_in beside each other."""
    runs = reproduced.folder / "runs" / "MC-AE"
    values = tomllib.loads((runs / "seed0" / "config.toml").read_text())
    values["dataset"] |= {"name": "photos", "split": "test", "nbr_of_samples_per_class": 8}
    values["dataset"] |= {"calibration_fraction": 0.0}
    values["evaluation"] |= {"out_datasets": ["faces"], "score": "entropy", "scores": []}
    images = load("photos", "test", per_class=8)
    other = train(ExperimentConfig.from_dict(values), images, tmp_path / "other")
    detector = fit_detector(other.path, images)
    detector.save(other.detector_file)
    result = evaluate(
        detector, images, [load("faces", "test", per_class=5)], provenance={"experiment": values}
    )
    result.save(other.evaluation_folder)
    drawn = draw_runs([runs / "seed0", other.path], tmp_path / "drawn")
    assert tmp_path / "drawn" / "reconstructions.png" in drawn
    assert {path.parent.name for path in drawn} == {"drawn", "mnist5k", "photos"}


CONFIG = """
[dataset]
name = "mnist5k"
nbr_of_samples_per_class = 8
[training]
epochs = 1
[evaluation]
head = "knn"
recursions = 2
recursion = 1
trials = 2
nbr_of_samples_per_class = 2
out_samples_per_class = 5
out_datasets = ["faces"]
"""


@pytest.mark.usefixtures("undrawn")
def test_a_config_is_trained_and_evaluated_and_its_run_can_be_given(tmp_path):
    path = tmp_path / "cae.toml"
    path.write_text(CONFIG)
    first = run_reproduction(path, tmp_path / "first", seeds=[0, 1])
    assert list(first.results) == ["MC-AE"]
    assert len(first.results["MC-AE"]) == 2
    assert (tmp_path / "first/wasserstein_table.csv").is_file()
    (faces,) = first.results["MC-AE"][0].out_scores
    assert len(faces.labels) == 10  # two classes
    runs = [tmp_path / "first/runs/MC-AE/seed1"]
    again = run_reproduction(path, tmp_path / "again", runs=runs)
    assert not (tmp_path / "again/runs").exists()
    (result,) = again.results["MC-AE"]
    assert result.metrics() == first.results["MC-AE"][1].metrics()
    with pytest.raises(AttractorError, match="has 4 methods"):
        run_reproduction("builtin", tmp_path / "other", runs=runs)


@pytest.mark.usefixtures("undrawn")
def test_the_seeds_of_an_open_set_suite_have_different_unknown_classes(suite, tmp_path):
    path = tmp_path / "open.toml"
    text = TINY.split('[methods."MC-AE, fused"]')[0].replace('"omniglot"', '"photos"')
    path.write_text("open_set = true\n" + text)
    made = run_reproduction(path, tmp_path / "made", quick=True, seeds=(0, 1), workers=1)
    results = made.results["MC-AE"]
    digits = load("mnist5k", "test", per_class=2)
    for split, result in enumerate(results):
        known, unknown = digits.open_set(split)
        assert result.classes == known.classes
        assert [s.name for s in result.out_scores] == ["unknown classes", "faces", "photos"]
        assert len(result.out_scores[0].labels) == len(unknown)
    assert results[0].classes != results[1].classes
    expected = np.mean([result.rates("unknown classes").auroc for result in results])
    assert f"{100 * expected:.1f} ±" in (made.folder / "table.md").read_text()
