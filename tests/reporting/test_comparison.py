"""Methods side by side: against scikit-learn and SciPy on the probabilities themselves."""

import dataclasses
import inspect
import json
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sklearn_metrics

from attractor_ae import EvaluationResult, evaluate, load
from attractor_ae._errors import AttractorError
from attractor_ae.experiment.result import DatasetScores
from attractor_ae.metrics import detection_metrics, misclassification_metrics
from attractor_ae.reporting import compare
from attractor_ae.reporting.comparison import ACCURACY_METRICS, DETECTION_METRICS
from attractor_ae.reporting.grid import Column, ComparedMethod, make_grid

CLASSES = tuple("abcd")


def close(value):
    return pytest.approx(value, rel=1e-12, nan_ok=True)


def scores_of(rng, name, role, *, split="test", n=30, recursions=1, skill=1.0):
    """Random distributions over four classes; a larger skill favours the true class."""
    labels = np.full(n, -1) if role == "out" else np.arange(n) % 4
    logits = rng.normal(size=(recursions, n, 4))
    if role != "out":
        logits[:, np.arange(n), labels] += skill
    p = np.exp(logits)
    p = (p / p.sum(-1, keepdims=True)).astype(np.float32)
    return DatasetScores(name, split, role, labels, p, {"step": rng.uniform(0, 3, (recursions, n))})


def result_of(seed, *, method=0, outs=("svhn", "lsun"), shifts=("moved",), known=True, **options):
    rng = np.random.default_rng([method, seed])
    recursions = options.get("recursions", 1)
    return EvaluationResult(
        "any",
        CLASSES,
        min(2, recursions - 1),
        scores_of(rng, "mnist", "in", **options),
        tuple(scores_of(rng, name, "covariate_shift", **options) for name in shifts),
        tuple(scores_of(rng, name, "out", **options) for name in outs),
        {"experiment": {"training": {"seed": seed}}} if known else {},
    )


@pytest.fixture(scope="module")
def results():
    """As in the paper: two methods of several seeds, one of them with recursions; an ensemble."""
    return {
        "MC-AE": [result_of(seed, recursions=4, skill=1.5) for seed in range(7)],
        "MC dropout": [result_of(seed, method=1, outs=("lsun", "faces")) for seed in range(6)],
        "deep ensemble": [result_of(0, method=2, known=False)],
    }


def entropies(scores, recursion):
    return stats.entropy(scores.probabilities[recursion].astype(float), base=4, axis=-1)


# ---- the numbers -------------------------------------------------------------------------------


def fpr95(positive, ranking):
    fpr, tpr, _ = sklearn_metrics.roc_curve(positive, ranking, drop_intermediate=False)
    return fpr[tpr >= 0.95][0]


@pytest.mark.parametrize("orientation", ["in", "out"])
def test_detection_is_scikit_learns_on_each_seed(results, orientation):
    table = compare(results, orientation=orientation).detection
    for method, recursion in (("MC-AE", 2), ("MC dropout", 0), ("deep ensemble", 0)):
        for k, out in enumerate(scores.name for scores in results[method][0].out_scores):
            expected = {"auroc": [], "aupr": [], "fpr95": []}
            for result in results[method]:
                known, unknown = result.in_scores, result.out_scores[k]
                u = np.r_[entropies(known, recursion), entropies(unknown, recursion)]
                is_out = np.r_[np.zeros(30), np.ones(30)]
                if orientation == "in":
                    positive, ranking = 1 - is_out, -u
                else:
                    positive, ranking = is_out, u
                expected["auroc"].append(sklearn_metrics.roc_auc_score(is_out, u))
                ap = sklearn_metrics.average_precision_score(positive, ranking)
                expected["aupr"].append(ap)
                expected["fpr95"].append(fpr95(positive, ranking))
            for metric, values in expected.items():
                cell = table.cell(method, out, metric)
                assert cell.values == close(tuple(values))
                assert cell.mean == close(np.mean(values))
                assert cell.n == len(values)
                deviation = np.sqrt(np.mean((values - np.mean(values)) ** 2))
                assert cell.deviation == close(deviation if len(values) > 1 else math.nan)


def area_of_share(counted, u, *, certain):
    """Area over the thresholds of the share of ``counted`` among the certain, or the uncertain."""
    total = 0.0
    # Between neighbouring scores it is constant; among none it counts as 1.
    for low, high in pairwise(np.unique(np.r_[0, u, 1])):
        selected = (u < (low + high) / 2) == certain
        total += (high - low) * (counted[selected].mean() if selected.any() else 1.0)
    return total


@pytest.mark.parametrize("orientation", ["in", "out"])
def test_accuracy_is_scikit_learns_on_each_seed(results, orientation):
    table = compare(results, orientation=orientation).accuracy
    assert table.labels == ("mnist", "moved")
    assert {metric.key for metric in table.metrics} == {metric.key for metric in ACCURACY_METRICS}
    for i, result in enumerate(results["MC-AE"]):
        for scores in (result.in_scores, *result.covariate_shift_scores):
            predicted = scores.probabilities[2].argmax(-1)
            right = predicted == scores.labels
            u = entropies(scores, 2)
            positive, ranking = (right, -u) if orientation == "in" else (~right, u)

            accepted = (u[:, None] < np.unique(np.r_[0, u, 1])).astype(float)
            steps = np.array([(~right) @ accepted, right @ accepted]) / len(u)
            expected = {
                "accuracy": sklearn_metrics.accuracy_score(scores.labels, predicted),
                "misclassification_auroc": sklearn_metrics.roc_auc_score(~right, u),
                "misclassification_aupr": sklearn_metrics.average_precision_score(
                    positive, ranking
                ),
                "misclassification_fpr95": fpr95(positive, ranking),
                # A threshold drawn uniformly accepts an image of uncertainty u with chance 1 - u.
                "area_u_sen": u[~right].mean(),
                "area_u_spec": 1 - u[right].mean(),
                "area_u_pre": area_of_share(~right, u, certain=False),
                "area_u_acc": np.where(right, 1 - u, u).mean(),
                "area_p_accurate_certain": area_of_share(right, u, certain=True),
                "area_p_uncertain_inaccurate": u[~right].mean(),
                "area_pavpu": np.where(right, 1 - u, u).mean(),
                "area_remaining_error_rate": (~right * (1 - u)).mean(),
                "area_remaining_accuracy_rate": (right * (1 - u)).mean(),
                "area_error_over_accuracy": np.trapezoid(*steps),
            }
            found = {key: table.cell("MC-AE", scores.name, key).values[i] for key in expected}
            assert found == {key: pytest.approx(value) for key, value in expected.items()}


def test_the_papers_grid_is_that_of_the_metrics(results):
    comparison = compare(results, grid="paper")
    for i, result in enumerate(results["MC dropout"]):
        known, faces = result.in_scores, result.out_scores[1]
        expected = detection_metrics(known.score(0), faces.score(0), grid="paper")
        for key, value in (("auroc", expected.auroc), ("fpr95", expected.fpr95_in)):
            assert comparison.detection.cell("MC dropout", "faces", key).values[i] == value
        right = known.predicted(0) == known.labels
        errors = misclassification_metrics(known.score(0), right, grid="paper")
        cell = comparison.accuracy.cell("MC dropout", "mnist", "area_u_pre")
        assert cell.values[i] == errors.areas["u_pre"]


def test_a_real_evaluation_says_the_same_alone_and_side_by_side(detector):
    known = load("mnist5k", "test", per_class=2)
    result = evaluate(detector, known, [load("faces", "test", per_class=10)])
    metrics = result.metrics()
    comparison = compare({"MC-AE": [result]})
    cell = comparison.detection.cell("MC-AE", "faces", "aupr")
    assert cell.mean == metrics["out"]["faces"]["aupr_in"]
    assert (cell.best, cell.tied) == (False, False)
    cell = comparison.accuracy.cell("MC-AE", "mnist5k", "accuracy")
    assert cell.mean == metrics["accuracy"]
    cell = comparison.accuracy.cell("MC-AE", "mnist5k", "area_u_spec")
    assert cell.mean == metrics["misclassification"]["areas"]["u_spec"]
    assert comparison.in_dataset == "mnist5k"


# ---- what is reported --------------------------------------------------------------------------


def test_methods_with_fewer_recursions_report_their_own(results):
    by_default, first = compare(results), compare(results, recursion=1)
    assert [m.recursion for m in by_default.detection.methods] == [2, 0, 0]
    assert [m.recursion for m in first.detection.methods] == [1, 0, 0]
    u = [
        entropies(s, 1) for s in (results["MC-AE"][3].in_scores, results["MC-AE"][3].out_scores[0])
    ]
    auroc = sklearn_metrics.roc_auc_score(np.repeat([0, 1], 30), np.concatenate(u))
    assert first.detection.cell("MC-AE", "svhn", "auroc").values[3] == close(auroc)


def test_another_score_is_shown_and_one_beyond_one_cannot_judge_predictions(results):
    comparison = compare(results, score="step")
    assert {m.score for m in comparison.detection.methods} == {"step"}
    result = results["MC dropout"][0]
    u = [scores.scores["step"][0] for scores in (result.in_scores, result.out_scores[0])]
    auroc = sklearn_metrics.roc_auc_score(np.repeat([0, 1], 30), np.concatenate(u))
    assert comparison.detection.cell("MC dropout", "lsun", "auroc").values[0] == close(auroc)
    assert comparison.accuracy.cell("MC-AE", "mnist", "accuracy").n == 7
    for metric in ACCURACY_METRICS[1:]:
        cell = comparison.accuracy.cell("MC-AE", "mnist", metric.key)
        assert cell.n == 0
        assert math.isnan(cell.mean)
    assert any(note.startswith("MC-AE has") for note in comparison.accuracy.notes)


def test_what_a_method_was_not_measured_on_is_empty(results):
    table = compare(results).detection
    assert table.labels == ("svhn", "lsun", "faces")
    empty = table.cell("MC dropout", "svhn", "auroc")
    assert (empty.values, empty.n, empty.best, empty.tied) == ((), 0, False, False)
    # One seed alone was not: the others have a mean.
    partly = {"MC-AE": [result_of(0), result_of(1, outs=("lsun",)), result_of(2)]}
    cell = compare(partly).detection.cell("MC-AE", "svhn", "auroc")
    assert cell.n == 2
    assert math.isnan(cell.values[1])
    assert cell.mean == close((cell.values[0] + cell.values[2]) / 2)


def test_a_seed_without_a_wrong_prediction_has_no_misclassification():
    perfect = result_of(0, skill=50.0)
    both = {"MC-AE": [perfect, result_of(1)], "sure": [perfect]}
    table = compare(both).accuracy
    cell = table.cell("MC-AE", "mnist", "misclassification_auroc")
    assert math.isnan(cell.values[0])
    assert (cell.mean, cell.n) == (cell.values[1], 1)
    assert math.isnan(cell.deviation)
    assert table.cell("sure", "mnist", "misclassification_auroc").n == 0
    assert table.cell("sure", "mnist", "area_u_sen").n == 0
    assert table.cell("sure", "mnist", "accuracy").mean == 1


def test_splits_of_one_data_set_are_told_apart():
    rng = np.random.default_rng(0)
    splits = ("test-adults", "test-seats")
    result = EvaluationResult(
        "any",
        CLASSES,
        0,
        scores_of(rng, "sviro", "in", split=splits[0]),
        (
            scores_of(rng, "sviro", "covariate_shift", split=splits[1]),
            scores_of(rng, "tesla", "covariate_shift"),
        ),
        tuple(scores_of(rng, "lsun", "out", split=split) for split in ("train", "test")),
    )
    comparison = compare({"MC-AE": [result]})
    assert comparison.accuracy.labels == (*splits, "tesla")
    assert comparison.detection.labels == ("lsun train", "lsun test")


def test_without_d_out_there_is_accuracy(results):
    comparison = compare({"MC-AE": [result_of(0, outs=())]})
    assert comparison.detection.columns == ()
    assert comparison.accuracy.cell("MC-AE", "mnist", "accuracy").n == 1


def test_a_comparison_is_plain_values(results):
    plain = dataclasses.asdict(compare(results, significance=True))
    assert json.loads(json.dumps(plain))["detection"]["cells"][0][0]["n"] == 7


# ---- marks -------------------------------------------------------------------------------------

AUROC, _, FPR95 = DETECTION_METRICS


def table_of(values, metric=AUROC, significance=False, seeds=None):
    """A table of one column; one list of values per method."""
    seeds = seeds or [tuple(range(len(found))) for found in values]
    return make_grid(
        "title",
        [ComparedMethod(f"m{i}", s, 0, "entropy") for i, s in enumerate(seeds)],
        [Column("svhn", "test", "svhn", metric)],
        [[found] for found in values],
        significance=significance,
    )


def marks(values, metric=AUROC):
    cells = [row[0] for row in table_of(values, metric).cells]
    assert not any(cell.best and cell.tied for cell in cells)
    return "".join("b" if cell.best else "t" if cell.tied else "-" for cell in cells)


@pytest.mark.parametrize(
    ("values", "larger", "smaller"),
    [
        # Means 0.5, 0.7, 0.9 with deviations 0.1, 0.1, 0.2: neighbours touch, or nearly.
        ([[0.4, 0.6], [0.6, 0.8], [0.7, 1.1]], "-tb", "bt-"),
        # A single value is a point.
        ([[0.5], [0.5001]], "-b", "b-"),
        ([[0.4, 0.6], [0.6]], "tb", "bt"),
        # Equal means of other numbers of seeds are equal, whatever rounding says.
        ([[0.1] * 3, [0.1] * 10, [0.0]], "bb-", "--b"),
        # Nothing is said of one method alone.
        ([[0.5, 0.6]], "-", "-"),
        ([[0.5, 0.6], [], [math.nan]], "---", "---"),
        ([[], [0.5], [0.2]], "-b-", "--b"),
        ([[0.3, 0.3], [math.nan, 0.2]], "b-", "-b"),
    ],
)
def test_the_best_and_its_ties_by_hand(values, larger, smaller):
    assert marks(values) == larger
    assert marks(values, FPR95) == smaller


@given(
    st.lists(
        st.lists(st.integers(0, 1000).map(lambda k: k / 1000), min_size=1, max_size=5),
        min_size=2,
        max_size=5,
    ),
    st.booleans(),
)
def test_ties_are_overlapping_intervals(values, larger):
    cells = [row[0] for row in table_of(values, AUROC if larger else FPR95).cells]
    means = [np.mean(found) for found in values]
    top = max(means) if larger else min(means)
    intervals = [(np.mean(v) - np.std(v), np.mean(v) + np.std(v)) for v in values]
    winners = [i for i, mean in enumerate(means) if abs(mean - top) < 1e-9]
    for i, cell in enumerate(cells):
        assert cell.best == (i in winners)
        overlaps = [
            min(intervals[i][1], intervals[k][1]) - max(intervals[i][0], intervals[k][0])
            for k in winners
        ]
        # Where intervals touch, rounding decides.
        if abs(max(overlaps)) > 1e-9:
            assert cell.tied == (i not in winners and max(overlaps) > 0)


def test_errors_and_false_positives_are_better_if_few():
    smaller = {m.key for m in (*DETECTION_METRICS, *ACCURACY_METRICS) if not m.larger_is_better}
    assert smaller == {
        "fpr95",
        "misclassification_fpr95",
        "area_remaining_error_rate",
        "area_error_over_accuracy",
    }


# ---- significance ------------------------------------------------------------------------------


def test_the_test_is_scipys_on_seeds_that_match():
    rng = np.random.default_rng(3)
    values = [rng.uniform(0.6, 1, 9), rng.uniform(0.5, 0.9, 8)]
    seeds = [tuple(range(9)), (7, 6, 5, 4, 3, 2, 1, 12)]
    (test,) = table_of([list(v) for v in values], significance=True, seeds=seeds).tests
    assert (test.best, test.other, test.pairs) == ("m0", "m1", 7)
    expected = stats.wilcoxon(values[0][[7, 6, 5, 4, 3, 2, 1]], values[1][:7])
    assert test.p_value == close(expected.pvalue)


def test_results_without_seeds_are_paired_by_position():
    rng = np.random.default_rng(4)
    one, other = rng.uniform(size=7), rng.uniform(size=7)
    values = [list(one), list(other)]
    seeds = [tuple(range(7)), (None,) * 7]
    (test,) = table_of(values, significance=True, seeds=seeds).tests
    assert test.p_value == close(stats.wilcoxon(one, other).pvalue)


def test_p_values_by_hand():
    better = [0.9, 0.91, 0.92, 0.93, 0.94, 0.95]
    worse = [0.8, 0.79, 0.78, 0.77, 0.76, 0.75]
    # All six differences have one sign: 2 of the 2^6 ways to give signs are as extreme.
    (test,) = table_of([worse, better], significance=True).tests
    assert (test.best, test.other, test.p_value) == ("m1", "m0", close(2 / 64))
    (test,) = table_of([better, better], significance=True).tests
    assert test.p_value == 1
    # Of five pairs no outcome is below 5 %: 2 / 2^5.
    (test,) = table_of([worse[:5], better[:5]], significance=True).tests
    assert test.pairs == 5
    assert math.isnan(test.p_value)


def test_undefined_values_are_no_pairs():
    values = [[0.9, 0.8, 0.9, 0.8, 0.9, 0.7, math.nan], [math.nan, *[0.1, 0.2, 0.3, 0.1, 0.2, 0.1]]]
    (test,) = table_of(values, significance=True).tests
    assert test.pairs == 5


def test_every_other_method_is_tested_on_request_alone(results):
    assert compare(results).detection.tests == ()
    comparison = compare(results, significance=True)
    # svhn: two methods, one test; lsun: three methods, two tests; faces: one method, none.
    labels = [test.column.label for test in comparison.detection.tests]
    assert labels == ["svhn"] * 3 + ["lsun"] * 6
    for test in comparison.detection.tests:
        at = test.column.label, test.column.metric.key
        assert comparison.detection.cell(test.best, *at).best
        assert comparison.detection.cell(test.other, *at).n


# ---- what is refused ---------------------------------------------------------------------------


def changed(result, **changes):
    return dataclasses.replace(result, **changes)


def refused(message, results, **options):
    with pytest.raises(AttractorError, match=message) as caught:
        inspect.unwrap(compare)(results, **options)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_compared_is_named(results):
    one = result_of(0)
    rng = np.random.default_rng(0)
    refused("nothing to compare", {})
    refused("'MC-AE' has no results", {"MC-AE": []})
    other = changed(one, in_scores=scores_of(rng, "fashion", "in"))
    refused(r"'b' was measured on fashion \(test\), 'a' on mnist", {"a": [one], "b": [other]})
    other = changed(one, in_scores=scores_of(rng, "mnist", "in", split="train"))
    refused(r"'b' was measured on mnist \(train\), 'a' on mnist", {"a": [one], "b": [other]})
    other = result_of(0, n=20)
    refused(r"'b' and 'a' .* other images of mnist \(20 and 30\)", {"a": [one], "b": [other]})
    other = changed(one, out_scores=(scores_of(rng, "svhn", "out", n=7),))
    refused(r"other images of svhn \(7 and 30\)", {"a": [one], "b": [other]})
    other = changed(one, classes=tuple("abce"))
    refused("'b' and 'a' have different classes of mnist", {"a": [one], "b": [other]})
    refused("'MC-AE' contain seed 3 twice", {"MC-AE": [result_of(3), result_of(3)]})
    mixed = [result_of(0, recursions=4), changed(result_of(1, recursions=4), recursion=1)]
    refused("'MC-AE' report entropy at recursion 1 and entropy at .* 2", {"MC-AE": mixed})
    refused(r"no method has recursion 4; choose one of 0\.\.3", results, recursion=4)
    refused(r"no method has recursion -1", results, recursion=-1)
    refused("MC-AE: unknown score 'stepp'; did you mean 'step'", results, score="stepp")
    refused("unknown orientation 'outt'; did you mean 'out'", results, orientation="outt")
    refused("unknown grid 'papers'; did you mean 'paper'", results, grid="papers")
    refused(r"MC-AE: step of svhn: .*\[0, 1\]", results, grid="paper", score="step")


# ---- Wasserstein sums --------------------------------------------------------------------------


def test_wasserstein_sums_are_scipys_with_three_decimals(results):
    table = compare(results).wasserstein
    other = compare(results, reference="faces").wasserstein
    sums, to_faces = [], []
    for result in results["MC dropout"]:
        outs = [scores.score(0) for scores in result.out_scores]
        faces = next(scores.score(0) for scores in result.out_scores if scores.name == "faces")
        sums.append(sum(stats.wasserstein_distance(result.in_scores.score(0), u) for u in outs))
        to_faces.append(sum(stats.wasserstein_distance(faces, u) for u in outs))
    cell = table.cell("MC dropout", "mnist", "in_to_out")
    assert cell.values == close(tuple(sums))
    assert cell.text(table.metrics[0]) == f"{np.mean(sums):.3f} ± {np.std(sums):.3f}"
    assert other.cell("MC dropout", "mnist", "reference_to_out").values == close(tuple(to_faces))
    assert other.metrics[1].title == "faces to others"
    with pytest.raises(AttractorError, match="unknown D_out 'face'; did you mean 'faces'"):
        compare(results, reference="face")
