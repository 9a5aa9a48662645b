import dataclasses
import json
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from attractor_ae import (
    EvaluationResult,
    ExperimentConfig,
    ImageSet,
    Run,
    fit_detector,
    load,
    load_detector,
    metrics,
    run_ensemble_evaluation,
    run_evaluation,
    run_training,
    train,
)
from attractor_ae._errors import AttractorError
from attractor_ae._reporter import Reporter
from attractor_ae.data import Dataset
from attractor_ae.experiment import evaluate as evaluation
from attractor_ae.experiment.compare import draw_runs, measured_runs
from attractor_ae.experiment.config import preset
from attractor_ae.experiment.plan import Plan, make_plan
from attractor_ae.reporting import compare

SETTINGS = {
    "dataset": {"name": "mnist5k", "nbr_of_samples_per_class": 4},
    "training": {"epochs": 1, "batch_size": 16, "loss": "mse"},
    "evaluation": {"recursions": 2, "recursion": 1, "trials": 2, "out_samples_per_class": 5},
}


@pytest.fixture
def own(digits):
    """Own arrays under another name and with other classes."""
    even = (digits.labels % 2).astype(np.int64)
    return ImageSet("mine", "train", digits.images, even, ("even", "odd"))


def test_own_arrays_are_trained_fitted_and_scored(own, tmp_path):
    """The README's way with own data."""
    run = train(ExperimentConfig.from_dict(SETTINGS), own, tmp_path / "mine")
    detector = fit_detector(run.path, own, overrides=["evaluation.trials=3"])
    assert detector.trials == 3
    assert detector.augmentation is not None
    u = detector.predict(own.images)
    assert u.shape == (40,)
    assert torch.equal(detector.classes_, torch.tensor([0, 1]))


def test_a_run_is_not_evaluated_on_a_set_that_it_was_not_trained_on(own, digits, tmp_path):
    run = train(ExperimentConfig.from_dict(SETTINGS), own, tmp_path / "mine")
    with pytest.raises(AttractorError, match="was trained on dataset mine, not mnist5k"):
        run_evaluation(run.path)
    with pytest.raises(AttractorError, match="was trained on dataset mine, not mnist5k"):
        fit_detector(run.path, digits)


@pytest.mark.parametrize(("dropout", "method"), [(0.33, "MC dropout"), (0.0, "deep ensemble")])
def test_a_classifier_is_evaluated_too(digits, tmp_path, dropout, method):
    """With the scores that it has, and without pictures of what it does not do."""
    settings = {
        **SETTINGS,
        "model": {"type": "conv", "dropout": dropout},
        "evaluation": {
            **SETTINGS["evaluation"],
            "nbr_of_samples_per_class": 2,
            "scores": ["mutual_information", "reconstruction_error", "knn_distance"],
            "out_datasets": ["textures"],
        },
    }
    run = train(ExperimentConfig.from_dict(settings), digits, tmp_path / "conv")
    # As an evaluation by an earlier version may have left it.
    run.evaluation_folder.mkdir()
    (run.evaluation_folder / "recursions.png").touch()
    result = run_evaluation(run.path)
    assert (result.method, result.recursions) == (method, 1)
    assert result.score_names == ("entropy", "mutual_information")
    assert {p.name for p in run.evaluation_folder.iterdir()} == {
        "entropy.pdf",
        "entropy.png",
        "metrics.json",
        "scores.safetensors",
    }
    again = EvaluationResult.load(run.evaluation_folder)
    assert again.metrics() == result.metrics()
    detector = load_detector(run.detector_file)
    assert detector.method == method
    u = detector.predict(load("textures", "test", per_class=7).images[:5])
    np.testing.assert_allclose(result.out_scores[0].score(0)[:5], u, rtol=1e-5)


def test_the_preset_of_the_demo_is_a_config():
    config = preset("quick", ["training.seed=5"])
    assert isinstance(config, ExperimentConfig)
    assert config.training.seed == 5
    assert config.dataset.name == "mnist5k"
    assert config.evaluation.covariate_shift_datasets == ("digits8",)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A tiny run, and its first evaluation."""
    images = load("mnist5k", "train", per_class=4)
    run = train(ExperimentConfig.from_dict(SETTINGS), images, tmp_path_factory.mktemp("run") / "a")
    settings = ["evaluation.nbr_of_samples_per_class=2", "evaluation.out_datasets=['faces']"]
    return run, settings, run_evaluation(run.path, overrides=settings)


class Scored(Reporter):
    """Collects the names of the sets that are scored."""

    def __init__(self):
        self.names = set()

    def progress(self, task, done, total, detail="", seconds_left=None):
        if task.startswith("scoring "):
            self.names.add(task)


class Interrupted(Reporter):
    def progress(self, task, done, total, detail="", seconds_left=None):
        raise KeyboardInterrupt


def counted(run, settings, **options):
    """Evaluate, and return the result and the number of sets that were scored for it."""
    scored = Scored()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "_write_figures", lambda *_: None)
        result = run_evaluation(run.path, overrides=settings, reporter=scored, **options)
    return result, len(scored.names)


def test_an_error_keeps_the_earlier_result(evaluated, monkeypatch):
    run, settings, _ = evaluated
    files = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    del files[run.log_file]

    def fail(*_):
        raise AttractorError("a figure cannot be written")

    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "_write_figures", fail)
        with pytest.raises(AttractorError, match="figure"):
            run_evaluation(run.path, overrides=[*settings, "evaluation.trials=1"])
    left = {path for path in run.path.rglob("*") if path.is_file()} - {run.log_file}
    assert left == files.keys()
    assert {path: path.read_bytes() for path in left} == files
    assert counted(run, settings)[1] == 0  # the stored result is used


def test_a_figure_has_the_name_of_what_it_shows(evaluated, tmp_path):
    run, _, result = evaluated
    detector = load_detector(run.detector_file)
    images = load("mnist5k", "test", per_class=1)
    sets = [dataclasses.replace(images, name=name) for name in ("x" * 300, "a,b")]
    evaluation._write_figures(tmp_path, result, detector, sets)
    names = {path.stem for path in tmp_path.glob("*.png")}
    assert names == {result.score, "recursions", "reconstructions"}


@pytest.mark.slow  # from files to tables and figures
def test_images_without_a_label_do_not_count_in_the_accuracy(tmp_path):
    """The usual layout of a competition: train/ in folders, test/ flat; and a table with gaps."""
    digits = load("mnist5k", "train", per_class=6)
    rows = []
    for i, (image, label) in enumerate(zip(digits.images, digits.labels, strict=True)):
        split = "test" if i % 3 == 0 else "train"
        path = tmp_path / "flat" / split / ("" if split == "test" else f"{label}") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0]).save(path)
        rows.append((split, label, path.relative_to(tmp_path).as_posix()))

    def table(name, labels):
        labels = iter(labels)
        lines = [f"{p},{next(labels) if s == 'test' else n},{s}" for s, n, p in rows]
        (tmp_path / name).write_text("\n".join(["path,label,split", *lines]))

    tests = [label for split, label, _ in rows if split == "test"]
    half = [n if i % 2 else "" for i, n in enumerate(tests)]
    table("half.csv", half)
    table("new.csv", ["unseen" if i % 2 else n for i, n in enumerate(tests)])
    settings = {**SETTINGS, "training": {**SETTINGS["training"], "epochs": 3}}
    found = {}
    for name in ("flat", "half.csv", "new.csv"):
        settings["dataset"] = {"name": str(tmp_path / name), "image_size": 16}
        run = run_training(ExperimentConfig.from_dict(settings), tmp_path / "runs" / name)
        overrides = ["evaluation.out_datasets=['faces']"]
        found[name] = run_evaluation(run.path, overrides=overrides)
    known = found["half.csv"].in_scores
    right = known.predicted(1) == [int(n or -1) for n in half]
    counts = {name: result.metrics()["labelled"] for name, result in found.items()}
    assert counts == {"flat": 0, "half.csv": 10, "new.csv": 20}
    assert found["half.csv"].accuracy() == right.sum() / 10
    assert found["half.csv"].misclassification().curves.ac.max() == right.sum()
    assert np.isnan(found["flat"].accuracy())
    assert found["new.csv"].accuracy() <= 0.5  # a class that was not trained is never right
    # Tables and figures of labels that are there in part, or not at all.
    for name in ("flat", "half.csv"):
        text = compare({name: [found[name]]}).accuracy
        assert ("10 of 20 images" in str(text.notes)) == (name == "half.csv")
        draw_runs([str(tmp_path / "runs" / name)], tmp_path / "figures" / name)
        assert (tmp_path / "figures" / name / "rejection.png").exists() == (name == "half.csv")


@pytest.mark.slow
def test_what_was_measured_is_not_measured_again(evaluated):
    run, settings, first = evaluated
    again, scored = counted(run, settings)
    assert scored == 0
    # As text, since a rate may be NaN, which is not equal to itself.
    assert json.dumps(again.metrics()) == json.dumps(first.metrics())
    assert counted(run, settings, again=True)[1] == 2


@pytest.mark.slow
def test_another_evaluation_is_measured(evaluated):
    run, settings, first = evaluated
    other, scored = counted(run, [*settings, "evaluation.trials=3"])
    assert scored == 2
    assert not np.array_equal(other.in_scores.probabilities, first.in_scores.probabilities)
    assert counted(run, settings)[1] == 2  # it has taken the other's place
    scores = run.evaluation_folder / "scores.safetensors"
    scores.write_bytes(scores.read_bytes()[:-9])
    assert counted(run, settings)[1] == 2  # damaged, so it is made again


def test_an_evaluation_that_fails_leaves_the_result_that_was_there(evaluated):
    run, settings, _ = evaluated
    counted(run, settings)

    with pytest.raises(KeyboardInterrupt):
        run_evaluation(
            run.path, overrides=[*settings, "evaluation.trials=3"], reporter=Interrupted()
        )
    assert counted(run, settings)[1] == 0


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "scored"), [("_write_figures", 0), ("_replace_result", 2)])
def test_a_half_written_evaluation_is_not_taken_for_a_complete_one(
    evaluated, monkeypatch, moment, scored
):
    """While the new result is written, the old one is there; while it is replaced, none."""
    run, settings, _ = evaluated
    counted(run, settings)

    def interrupted(home, *_):
        if moment == "_replace_result":
            (home.evaluation_folder / "metrics.json").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(evaluation, moment, interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_evaluation(run.path, overrides=[*settings, "evaluation.trials=3"])
    assert counted(run, settings)[1] == scored


@pytest.mark.slow
def test_an_interrupted_evaluation_is_in_no_table(evaluated):
    run, settings, _ = evaluated
    counted(run, settings)
    assert next(iter(measured_runs([run.path]).values()))[0].result.in_scores.name == "mnist5k"
    (run.evaluation_folder / "metrics.json").unlink()  # as an interrupted one leaves it
    with pytest.raises(AttractorError, match="was not evaluated"):
        measured_runs([run.path])
    counted(run, settings)


@pytest.mark.slow
def test_what_was_fitted_on_other_images_is_measured(evaluated, monkeypatch):
    """A folder of training images may change after the training."""
    run, settings, _ = evaluated
    counted(run, settings)

    original = Plan.load_training

    def fewer(*args, **kwargs):
        images = original(*args, **kwargs)
        return images.take(range(1, len(images)))

    monkeypatch.setattr(Plan, "load_training", fewer)
    assert counted(run, settings)[1] == 2
    assert counted(run, settings)[1] == 0
    monkeypatch.undo()
    assert counted(run, settings)[1] == 2


@pytest.mark.slow
def test_other_images_are_measured(evaluated, monkeypatch):
    run, settings, _ = evaluated
    counted(run, settings)
    assert counted(run, [*settings, "evaluation.nbr_of_samples_per_class=1"])[1] == 2
    counted(run, settings)
    faces = load("faces", "test", per_class=5).images
    original = Plan.load

    def others(plan, planned, *arguments):
        images = original(plan, planned, *arguments)
        if planned.label == "faces":
            images = dataclasses.replace(images, images=faces[::-1].copy())
        return images

    monkeypatch.setattr(Plan, "load", others)
    assert counted(run, settings)[1] == 2


@pytest.mark.slow
def test_other_weights_are_measured(evaluated, digits, tmp_path):
    run, settings, _ = evaluated
    values = {**SETTINGS, "training": {**SETTINGS["training"], "seed": 5}}
    other = train(ExperimentConfig.from_dict(values), digits, tmp_path / "other")
    counted(run, settings)
    weights = run.weights_file.read_bytes()
    run.weights_file.write_bytes(other.weights_file.read_bytes())
    assert counted(run, settings)[1] == 2
    run.weights_file.write_bytes(weights)


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    """Two tiny classifiers without dropout."""
    images, folder = load("mnist5k", "train", per_class=4), tmp_path_factory.mktemp("members")
    for seed in (0, 1):
        values = {
            **SETTINGS,
            "model": {"type": "conv", "dropout": 0.0},
            "training": {"epochs": 1, "batch_size": 16, "seed": seed},
        }
        train(ExperimentConfig.from_dict(values), images, folder / f"seed{seed}")
    return folder


@pytest.mark.slow
def test_an_ensemble_is_evaluated_in_a_folder_of_its_own(members):
    runs = [members / "seed0", members / "seed1"]
    settings = ["evaluation.nbr_of_samples_per_class=2", "evaluation.out_datasets=['faces']"]
    result = run_ensemble_evaluation(runs, overrides=settings)
    home = members / "ensemble"
    assert json.loads((home / "members.json").read_text()) == {"members": ["../seed0", "../seed1"]}
    assert result.method == "deep ensemble"
    assert result.recursions == 1
    images = load("mnist5k", "test", per_class=2).images
    loaded = load_detector(home / "detector.safetensors")
    np.testing.assert_allclose(loaded.predict(images), result.in_scores.score(0), atol=1e-6)
    scored = Scored()
    again = run_ensemble_evaluation(runs, overrides=settings, reporter=scored)
    assert not scored.names
    assert again.metrics() == result.metrics()
    alone = run_ensemble_evaluation(runs[:1], overrides=settings)
    assert alone.metrics() != result.metrics()
    with pytest.raises(AttractorError, match="is a run"):
        run_ensemble_evaluation(runs, runs[0])
    with pytest.raises(AttractorError, match="at least one run"):
        run_ensemble_evaluation([])


def test_accuracy_splits_and_variations_are_found_by_their_names(evaluated):
    config = evaluated[0].config().model_dump()
    config["evaluation"]["accuracy_splits"] = ("train", "test")
    config["evaluation"]["out_datasets"] = ("faces", "photos")
    plan = make_plan(ExperimentConfig.from_dict(config))
    # The test split is D_in's own row.
    assert [planned.label for planned in plan.covariate_shift] == ["mnist5k:train"]
    assert [planned.label for planned in plan.out] == ["faces", "photos"]
    for settings, named in (
        ({"accuracy_splits": ("nowhere",)}, "'nowhere'"),
        ({"accuracy_splits": (), "out_datasets": ("sviro:tesla",)}, "tesla"),
        ({"out_datasets": ("sviro:tesler",)}, "did you mean 'tesla'"),
    ):
        config["evaluation"] |= settings
        with pytest.raises(AttractorError, match=named):
            make_plan(ExperimentConfig.from_dict(config)).check()


def test_everything_is_read_and_computed_once(evaluated, monkeypatch):
    """One evaluation opens the run once, parses its config once, and loads each set once."""
    run, settings, _ = evaluated
    calls = Counter()

    def count(owner, name):
        original = getattr(owner, name)

        def counting(*args, **kwargs):
            calls[name] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counting)

    count(Run, "open")
    count(ExperimentConfig, "from_toml")
    count(Dataset, "load")
    count(Dataset, "check_present")
    count(metrics, "_exact_rates")
    run_evaluation(run.path, overrides=settings, again=True)
    assert calls["open"] == calls["from_toml"] == 1
    # D_in's two splits and one D_out.
    assert calls["load"] == 3
    # Of 2 recursions of the one score: D_in against faces, right against wrong predictions.
    assert calls["_exact_rates"] <= 4
