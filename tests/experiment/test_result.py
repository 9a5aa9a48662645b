import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import entropy as scipy_entropy
from sklearn.metrics import average_precision_score, roc_auc_score

from attractor_ae import EvaluationResult, ImageSet, evaluate, load
from attractor_ae._errors import AttractorError
from attractor_ae._reporter import Reporter
from attractor_ae.experiment.compare import compare_runs
from attractor_ae.reporting import compare, detection_table


@pytest.fixture(scope="module")
def sets():
    return {
        "in": load("mnist5k", "test", per_class=3),
        "covariate_shift": load("digits8", "test", per_class=2),
        "faces": load("faces", "test", per_class=10),
        "photos": load("photos", "test", per_class=2),
    }


@pytest.fixture
def result(detector, sets):
    return evaluate(
        detector,
        sets["in"],
        [sets["faces"], sets["photos"]],
        [sets["covariate_shift"]],
        provenance={"seed": 0},
    )


def test_each_data_set_is_scored_once(sets, detector, monkeypatch):
    seen = []
    original = type(detector).predict_scores

    def counting(self, images, names, **options):
        seen.append(len(images))
        return original(self, images, names, **options)

    class Tasks(Reporter):
        def __init__(self):
            self.steps = []

        def progress(self, task, done, total, detail="", seconds_left=None):
            self.steps.append((task, done, total))

    monkeypatch.setattr(type(detector), "predict_scores", counting)
    reporter = Tasks()
    evaluate(
        detector,
        sets["in"],
        [sets["faces"], sets["photos"]],
        [sets["covariate_shift"]],
        reporter=reporter,
    )
    assert sorted(seen) == sorted(len(images) for images in sets.values())
    tasks = {task for task, _, _ in reporter.steps}
    assert tasks == {f"scoring {images.name}" for images in sets.values()}
    assert all(done <= total for _, done, total in reporter.steps)


def test_images_without_a_label_are_not_wrong(detector, sets, tmp_path):
    known = sets["in"]
    right = (detector.predict_label(known.images).numpy() == known.labels)[:15]
    half = np.where(np.arange(len(known)) < 15, known.labels, -1)
    labels = {"half": half, "none": np.full(len(known), -1)}
    results = {}
    for name, some in labels.items():
        images = dataclasses.replace(known, labels=some)
        results[name] = evaluate(detector, images, [sets["faces"]])
        results[name].save(tmp_path / name)
        results[name] = EvaluationResult.load(tmp_path / name)
    metrics = results["half"].metrics()
    assert (metrics["labelled"], metrics["accuracy"]) == (15, right.mean())
    assert results["half"].misclassification().curves.ac.max() == right.sum()
    assert len(results["half"].in_scores.labels) == 30  # for the detection, all count
    assert results["none"].metrics()["labelled"] == 0
    assert math.isnan(results["none"].accuracy())
    for name, (shown, caption) in {"half": (True, "15 of 30"), "none": (False, "0 of 30")}.items():
        table = detection_table(results[name])
        accuracy = str(next(table.columns[-1].cells))
        assert (accuracy != "") == shown
        assert caption in str(table.caption)
    assert len(compare({"a": [results["none"]]}).accuracy.cells) == 1


def test_a_class_that_was_not_trained_is_never_right(detector, sets):
    known = sets["in"]
    classes = (*known.classes, "new")
    labels = np.where(np.arange(len(known)) < 15, known.labels, 10)
    images = dataclasses.replace(known, labels=labels, classes=classes)
    result = evaluate(detector, images, [sets["faces"]])
    predicted = detector.predict_label(known.images).numpy()
    assert result.metrics()["labelled"] == 30
    assert result.accuracy() == (predicted == labels).sum() / 30


def test_metrics_are_scikit_learns_on_the_stored_scores(result):
    """The whole way from stored probabilities to a number, recomputed by scikit-learn."""
    for r in range(result.recursions):
        metrics = result.metrics(r)
        known = result.in_scores

        def u(scores, r=r):
            return scipy_entropy(scores.probabilities[r].astype(float), base=10, axis=-1)

        predicted = known.probabilities[r].argmax(-1)
        assert metrics["accuracy"] == pytest.approx((predicted == known.labels).mean())
        for scores in result.out_scores:
            row = metrics["out"][scores.name]
            y = np.r_[np.ones(len(known.labels)), np.zeros(len(scores.labels))]
            s = np.r_[u(known), u(scores)]
            assert row["auroc"] == pytest.approx(roc_auc_score(y, -s))
            assert row["aupr_in"] == pytest.approx(average_precision_score(y, -s))
            assert row["aupr_out"] == pytest.approx(average_precision_score(1 - y, s))
    assert result.metrics() == result.metrics(result.recursion)


def test_roles_and_labels(result, sets):
    assert (result.in_scores.labels == sets["in"].labels).all()
    assert [s.role for s in result.covariate_shift_scores] == ["covariate_shift"]
    assert (result.covariate_shift_scores[0].labels == sets["covariate_shift"].labels).all()
    assert all((s.labels == -1).all() for s in result.out_scores)
    assert set(result.metrics()["out"]) == {"faces", "photos"}
    assert set(result.metrics()["covariate_shift"]) == {"digits8"}


def test_a_shift_is_scored_by_the_name_of_its_classes(detector, sets):
    """The shifted set lists its classes in another order; the accuracy stays the same."""
    shift = sets["covariate_shift"]
    turned = ImageSet(
        "turned", "test", shift.images, 9 - shift.labels, tuple(reversed(shift.classes))
    )
    a = evaluate(detector, sets["in"], [], [shift]).metrics()["covariate_shift"]["digits8"]
    b = evaluate(detector, sets["in"], [], [turned]).metrics()["covariate_shift"]["turned"]
    assert a == b


def test_a_result_is_read_back_as_it_was(result, tmp_path):
    result.save(tmp_path)
    again = EvaluationResult.load(tmp_path)
    assert again.metrics(0) == result.metrics(0)
    assert again.classes == result.classes == tuple("0123456789")
    assert again.provenance == {"seed": 0}
    assert np.array_equal(again.out_scores[1].probabilities, result.out_scores[1].probabilities)
    stored = json.loads((tmp_path / "metrics.json").read_text())
    assert stored["in_dataset"] == "mnist5k"
    assert stored["recursions"][1]["out"]["faces"]["auroc"] == pytest.approx(
        result.metrics(1)["out"]["faces"]["auroc"]
    )
    assert stored["grid"] == "exact"
    on_grid, rates = stored["paper_grid"][1], result.rates("faces", None, 1, "paper")
    assert on_grid["out"]["faces"]["auroc"] == rates.auroc
    assert on_grid["out"]["faces"]["fpr95_in"] == rates.fpr95_in
    areas = result.misclassification(None, None, 1, "paper").areas
    assert on_grid["misclassification"]["areas"]["pavpu"] == areas["pavpu"]


@pytest.fixture
def scored(detector, sets):
    detector.calibrate(load("mnist5k", per_class=9).images[-50:], np.arange(50) % 10)
    return evaluate(
        detector,
        sets["in"],
        [sets["faces"], sets["photos"]],
        scores=["entropy", "reconstruction_error"],
    )


def test_a_result_of_probabilities_alone_is_saved(result, tmp_path):
    """The entropy is computed from them, and its metrics are those of the stored one."""
    bare = {
        name: tuple(dataclasses.replace(s, scores={}) for s in getattr(result, name))
        for name in ("out_scores", "covariate_shift_scores")
    }
    known = dataclasses.replace(result.in_scores, scores={})
    without = dataclasses.replace(result, in_scores=known, score="entropy", **bare)
    with_all = dataclasses.replace(result, score="entropy", _computed={})
    for name, saved in (("bare", dataclasses.replace(without, _computed={})), ("all", with_all)):
        saved.save(tmp_path / name)
    first, second = (
        json.loads((tmp_path / name / "metrics.json").read_text())["paper_grid"]
        for name in ("bare", "all")
    )
    assert first == second
    assert len(first) == result.recursions


def test_further_scores_are_measured_with_the_reported_one(scored):
    assert scored.score == "ood_score"
    assert scored.score_names == ("entropy", "ood_score", "reconstruction_error")
    for name in scored.score_names:
        known = scored.in_scores.score(1, name)
        for scores in scored.out_scores:
            s = np.r_[known, scores.score(1, name)]
            y = np.r_[np.zeros(len(known)), np.ones(len(scores.labels))]
            assert scored.rates(scores.name, name, 1).auroc == pytest.approx(roc_auc_score(y, s))
    metrics = scored.metrics()
    assert metrics["score"] == "ood_score"
    assert metrics["out"]["faces"]["auroc"] == scored.rates("faces", "ood_score").auroc
    by_entropy = dataclasses.replace(scored, score="entropy").metrics()
    assert by_entropy["out"]["faces"]["auroc"] == scored.rates("faces", "entropy").auroc
    assert by_entropy["out"] != metrics["out"]
    with pytest.raises(AttractorError, match="unknown score 'step'"):
        scored.rates("faces", "step")
    with pytest.raises(AttractorError, match="unknown data set 'facse'"):
        scored.rates("facse")


def test_scores_are_read_back_as_they_were(scored, tmp_path):
    scored.save(tmp_path)
    again = EvaluationResult.load(tmp_path)
    assert again.score == "ood_score"
    assert again.score_names == scored.score_names
    for name in again.score_names:
        for out in ("faces", "photos"):
            assert again.rates(out, name) == scored.rates(out, name)
    stored = json.loads((tmp_path / "metrics.json").read_text())
    assert stored["reported_score"] == "ood_score"
    found = stored["scores"]["reconstruction_error"][2]["photos"]["auroc"]
    assert found == pytest.approx(scored.rates("photos", "reconstruction_error", 2).auroc)


def test_a_damaged_result_is_named(result, tmp_path):
    result.save(tmp_path)
    path = tmp_path / "scores.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(AttractorError, match=r"scores.safetensors: is truncated or damaged"):
        EvaluationResult.load(tmp_path)
    with pytest.raises(AttractorError, match="no such file"):
        EvaluationResult.load(tmp_path / "none")


def test_impossible_requests_are_refused(detector, sets):
    with pytest.raises(AttractorError, match="'faces' is named twice"):
        evaluate(detector, sets["in"], [sets["faces"], sets["faces"]])
    with pytest.raises(AttractorError, match="'faces' has the class"):
        evaluate(detector, sets["in"], [], [sets["faces"]])
    with pytest.raises(AttractorError, match="'photos'.* has no images"):
        evaluate(detector, sets["in"], [sets["photos"].take([])])
    few = sets["in"].take(np.flatnonzero(sets["in"].labels < 5))
    few = ImageSet("few", "test", few.images, few.labels, few.classes[:5])
    with pytest.raises(AttractorError, match="'few' has 5 classes, but the .* the label 9"):
        evaluate(detector, few, [])


def test_the_documented_row_of_another_detector(tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "reproduce.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(page.split("```python")[1].split("```")[0], names)
    known, unknown = names["known"], names["unknown"]
    brightness = [images.images.mean((1, 2, 3)) for images in (known, *unknown)]
    p = np.eye(10)[known.labels]
    pairs = list(zip(unknown, brightness[1:], strict=True))
    other = EvaluationResult.from_scores("bright", known, brightness[0], pairs, probabilities=p)
    other.save("results/bright")

    comparison = compare_runs(["results/forest", "results/*"])
    assert [m.name for m in comparison.detection.methods] == ["isolation forest", "bright"]
    assert all(math.isnan(c.mean) for c in comparison.accuracy.cells[0])
    assert comparison.accuracy.cell("bright", "mnist5k", "accuracy").mean == 1
    for method, scores in {"isolation forest": names["scores"], "bright": brightness}.items():
        for images, outside in zip(unknown, scores[1:], strict=True):
            is_out = np.arange(len(known) + len(images)) >= len(known)
            expected = roc_auc_score(is_out, np.concatenate((scores[0], outside)))
            cell = comparison.detection.cell(method, images.name, "auroc")
            assert cell.mean == pytest.approx(expected)
