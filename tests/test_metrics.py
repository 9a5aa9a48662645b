"""Metrics against pair counts, closed forms, literal loops in fractions, and other libraries."""

import dataclasses
import inspect
import json
from fractions import Fraction
from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sklearn_metrics
from sklearn.calibration import calibration_curve

from attractor_ae._errors import AttractorError
from attractor_ae.metrics import (
    DETECTION_RATES,
    PAPER_THRESHOLDS,
    TPR_PERCENTS,
    DetectionMetrics,
    detection_metrics,
    expected_calibration_error,
    misclassification_metrics,
    selective_metrics,
    wasserstein_sums,
)

GRIDS = ("exact", "paper")

# Sixteenths make ties with each other, fiftieths with the paper's thresholds.
tied = st.one_of(
    st.integers(0, 16).map(lambda k: k / 16),
    st.integers(0, 50).map(lambda k: k / 50),
    st.floats(0, 1),
)
uncertainties = st.lists(tied, min_size=1, max_size=40)
constant = st.tuples(tied, st.integers(1, 10)).map(lambda pair: [pair[0]] * pair[1])
sides = st.tuples(st.one_of(uncertainties, constant), st.one_of(uncertainties, constant))


examples = settings(max_examples=40, deadline=None)


def close(value):
    return pytest.approx(value, abs=1e-12, rel=1e-9, nan_ok=True)


def columns(pairs):
    return [list(column) for column in zip(*pairs, strict=True)]


def unchecked(function):
    """Return the function without run-time type checks, which would refuse the wrong type first."""
    return inspect.unwrap(function)


# ---- detection, exact grid ---------------------------------------------------------------------


def literal_exact(inside, outside):
    """Every definition of the exact grid, one threshold after the other, in fractions."""
    n_in, n_out = len(inside), len(outside)
    levels = sorted({*inside, *outside})
    # (positives found, negatives found) from the strict end of the curve to the loose one
    accepting = [(sum(u <= t for u in inside), sum(u <= t for u in outside)) for t in levels]
    flagging = [(sum(u >= t for u in outside), sum(u >= t for u in inside)) for t in levels[::-1]]
    expected = {}
    for side, curve, positives, negatives in (
        ("in", accepting, n_in, n_out),
        ("out", flagging, n_out, n_in),
    ):
        before, area = 0, Fraction(0)
        for tp, fp in curve:
            area += Fraction(tp - before, positives) * Fraction(tp, tp + fp)
            before = tp
        expected[f"aupr_{side}"] = area
        for q in TPR_PERCENTS:
            reached = [fp for tp, fp in curve if Fraction(tp, positives) >= Fraction(q, 100)]
            expected[f"fpr{q}_{side}"] = Fraction(reached[0], negatives)
    return expected


@examples
@given(sides)
def test_exact_detection_metrics_follow_their_definitions(both):
    inside, outside = both
    result = dataclasses.asdict(detection_metrics(inside, outside))
    pairs = (
        stats.mannwhitneyu(outside, inside, method="asymptotic").statistic
        if (len({*inside, *outside}) > 1)
        else len(inside) * len(outside) / 2
    )
    assert result.pop("auroc") == close(pairs / (len(inside) * len(outside)))
    assert (result.pop("n_in"), result.pop("n_out")) == (len(inside), len(outside))
    expected = literal_exact(inside, outside)
    assert result == {name: close(float(value)) for name, value in expected.items()}


@examples
@given(sides)
def test_exact_detection_metrics_are_those_of_scikit_learn(both):
    inside, outside = both
    result = detection_metrics(inside, outside)
    u = np.array([*inside, *outside])
    is_out = np.array([0] * len(inside) + [1] * len(outside))
    assert result.auroc == close(sklearn_metrics.roc_auc_score(is_out, u))
    assert result.aupr_out == close(sklearn_metrics.average_precision_score(is_out, u))
    assert result.aupr_in == close(sklearn_metrics.average_precision_score(1 - is_out, -u))
    fpr, tpr, _ = sklearn_metrics.roc_curve(is_out, u, drop_intermediate=False)
    assert result.fpr95_out == fpr[np.flatnonzero(tpr >= 0.95)[0]]
    fpr, tpr, _ = sklearn_metrics.roc_curve(1 - is_out, -u, drop_intermediate=False)
    assert result.fpr95_in == fpr[np.flatnonzero(tpr >= 0.95)[0]]


def test_exact_detection_metrics_worked_by_hand():
    # Ascending: in in out in out; accepted so far: (1,0) (2,0) (2,1) (3,1) (3,2)
    result = detection_metrics([0.1, 0.2, 0.6], [0.4, 0.8])
    assert result.auroc == close(5 / 6)
    assert result.aupr_in == close((1 + 1 + 3 / 4) / 3)
    assert result.aupr_out == close((1 + 2 / 3) / 2)
    assert (result.fpr30_in, result.fpr50_in, result.fpr80_in, result.fpr95_in) == (0, 0, 0.5, 0.5)
    assert (result.fpr30_out, result.fpr50_out) == (0, 0)
    assert (result.fpr80_out, result.fpr90_out, result.fpr95_out) == close((1 / 3, 1 / 3, 1 / 3))


@pytest.mark.parametrize(("separated", "expected"), [(19, 0.0), (18, 1.0)])
def test_level_of_95_percent_is_reached_by_19_of_20(separated, expected):
    inside = [0.1] * separated + [0.9] * (20 - separated)
    assert detection_metrics(inside, [0.5]).fpr95_in == expected
    assert detection_metrics([0.5], 1 - np.array(inside)).fpr95_out == expected


@examples
@given(sides)
def test_orientations_swap_when_sides_and_order_swap(both):
    inside, outside = map(np.array, both)
    one, other = detection_metrics(inside, outside), detection_metrics(-outside, -inside)
    assert one.auroc == close(other.auroc)
    for name in ("aupr", *(f"fpr{q}" for q in TPR_PERCENTS)):
        assert getattr(one, f"{name}_in") == close(getattr(other, f"{name}_out"))
        assert getattr(one, f"{name}_out") == close(getattr(other, f"{name}_in"))
    assert detection_metrics(outside, inside).auroc == close(1 - one.auroc)


@examples
@given(sides)
def test_exact_metrics_know_the_order_of_the_scores_only(both):
    levels = np.unique(np.concatenate(both))
    # ranks are a strictly monotone map that no rounding can break; so is an exact affine map
    ranks = [np.searchsorted(levels, side) for side in both]
    result = detection_metrics(*both)
    assert detection_metrics(*ranks) == result
    assert detection_metrics(*(1e6 * side - 500 for side in ranks)) == result


@examples
@given(sides, st.randoms(use_true_random=False), st.sampled_from(GRIDS))
def test_order_of_the_images_does_not_matter(both, random, grid):
    shuffled = [random.sample(side, len(side)) for side in both]
    assert detection_metrics(*shuffled, grid=grid) == detection_metrics(*both, grid=grid)


@examples
@given(constant, st.integers(1, 10))
def test_constant_scores_say_nothing(inside, n_out):
    result = detection_metrics(inside, inside[:1] * n_out)
    assert result.auroc == 0.5
    assert result.aupr_in == close(len(inside) / (len(inside) + n_out))
    assert result.aupr_out == close(n_out / (len(inside) + n_out))
    assert result.fpr30_in == result.fpr95_in == result.fpr95_out == 1


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_scores_of_any_precision_are_compared_as_they_are(dtype):
    above = np.nextafter(dtype(0.5), dtype(1))
    result = detection_metrics(np.array([0.5], dtype), np.array([above], dtype))
    assert result.auroc == 1


# ---- detection, the paper's grid (on random inputs: test_paper_grid.py) -------------------------


def test_paper_grid_worked_by_hand():
    # in: one below 0.02, one never accepted; out: one accepted from 0.52, one never.
    result = detection_metrics([0.01, 0.99], [0.5, 0.99], grid="paper")
    # ROC (0, 0), (0, 1/2), (1/2, 1/2); unclosed
    assert result.auroc == 0.25
    # recall 0 -> 1/2 at precision 1 -> 1, then precision falls to 1/2 at the same recall
    assert result.aupr_in == 0.5
    # flagged from 0.98 down: (1, 1), then (2, 1), at 0: (2, 2); recall starts at 1/2 only
    assert result.aupr_out == close(0.5 * (1 / 2 + 2 / 3) / 2)
    assert (result.fpr30_in, result.fpr95_in) == (0, 0)
    # TPR 1/2 and 1 are to be had, at an FPR of 1/2, from the strict end
    assert (result.fpr30_out, result.fpr95_out) == (0.5, 0.5)


def test_paper_thresholds_are_the_fifty_of_the_protocol():
    assert [f"{t:.2f}" for t in PAPER_THRESHOLDS] == [f"{k * 0.02:.2f}" for k in range(50)]
    # As the released code computes them, and not as decimals are read.
    assert [k for k, t in enumerate(PAPER_THRESHOLDS) if float(f"{t:.2f}") != t] == [35, 41, 47]


@pytest.mark.parametrize("step", range(50))
def test_a_score_on_a_threshold_is_not_accepted_by_it(step):
    score = PAPER_THRESHOLDS[step]
    metrics = misclassification_metrics([score], [True], grid="paper")
    accepted = metrics.curves.thresholds[metrics.curves.ac == 1]
    assert len(accepted) == 49 - step
    assert np.all(accepted > score)


def test_paper_grid_understates_auroc_where_much_lies_above_its_last_threshold():
    inside, outside = [0.0, 0.5, 0.985, 0.986], [0.99, 0.995, 0.999]
    assert detection_metrics(inside, outside).auroc == 1
    result = detection_metrics(inside, outside, grid="paper")
    assert result.auroc == 0
    assert result.aupr_in == 0.5
    # the nearest TPR to 95 % is 1/2
    assert result.fpr95_in == 0


def test_equally_near_rates_go_to_the_strict_end():
    # TPR 0.90 and 1.00 are equally far from 0.95; only the stricter threshold has FPR 0
    inside, outside = [0.05] * 9 + [0.55], [0.35]
    assert detection_metrics(inside, outside, grid="paper").fpr95_in == 0
    mirrored = [0.95] * 9 + [0.45]
    assert detection_metrics([0.65], mirrored, grid="paper").fpr95_out == 0


def test_separated_sides_are_perfect_on_both_grids_but_for_the_unclosed_end():
    for grid in GRIDS:
        result = detection_metrics([0.1, 0.2], [0.8, 0.9], grid=grid)
        assert (result.auroc, result.aupr_in) == (1, 1)
        assert all(
            getattr(result, f"fpr{q}_{side}") == 0 for q in TPR_PERCENTS for side in ("in", "out")
        )


def test_grids_agree_where_the_scores_lie_between_thresholds():
    rng = np.random.default_rng(1)
    inside = (rng.integers(0, 30, 200) + 0.5) / 50
    outside = (rng.integers(10, 48, 300) + 0.5) / 50
    exact, paper = (detection_metrics(inside, outside, grid=grid) for grid in GRIDS)
    assert exact.auroc == close(paper.auroc)


# ---- detection, what is refused ----------------------------------------------------------------


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(
    ("inside", "outside", "message"),
    [
        ([], [0.5], r"in_uncertainty has shape \(0,\); .*at least one image"),
        ([0.5], [], r"out_uncertainty has shape \(0,\)"),
        ([[0.5]], [0.5], r"in_uncertainty has shape \(1, 1\)"),
        (0.5, [0.5], r"in_uncertainty has shape \(\)"),
        ([0.5], [0.5, np.nan], r"out_uncertainty at index 1 is nan, but must be finite"),
        ([np.inf], [0.5], r"in_uncertainty at index 0 is inf"),
        (["low"], [0.5], r"in_uncertainty are <U3"),
    ],
)
def test_detection_names_what_it_cannot_score(inside, outside, message, grid):
    with pytest.raises(AttractorError, match=message) as caught:
        unchecked(detection_metrics)(inside, outside, grid=grid)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [-1e-9, 1 + 1e-9, 7.0])
def test_paper_grid_refuses_what_the_exact_grid_can_score(value):
    assert detection_metrics([0.5], [value]).n_out == 1
    with pytest.raises(AttractorError, match=r"out_uncertainty at index 0 is .*\[0, 1\]"):
        detection_metrics([0.5], [value], grid="paper")


@pytest.mark.parametrize("score", [detection_metrics, misclassification_metrics])
def test_unknown_grid_is_named(score):
    with pytest.raises(AttractorError, match="unknown grid 'papers'; did you mean 'paper'"):
        unchecked(score)([0.5], [True], grid="papers")


def test_detection_metrics_are_plain_frozen_values():
    result = detection_metrics(np.float32([0.1, 0.4]), np.float32([0.3]))
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.auroc = 1.0  # pyright: ignore
    values = dataclasses.asdict(result)
    assert list(values) == [*DETECTION_RATES, "n_in", "n_out"]
    assert {type(value) for value in values.values()} == {float, int}
    assert DetectionMetrics(**json.loads(json.dumps(values))) == result


# ---- misclassification -------------------------------------------------------------------------

predictions = st.lists(st.tuples(tied, st.booleans()), min_size=1, max_size=30)


def literal_rates(pairs, threshold, grid="exact"):
    """Counts and rates at one threshold, in fractions; 0 / 0 is NaN or, if selected, 1."""
    selected = Fraction(1) if grid == "exact" else np.nan
    ac = sum(right and u < threshold for u, right in pairs)
    au = sum(right and not u < threshold for u, right in pairs)
    ic = sum(not right and u < threshold for u, right in pairs)
    iu = sum(not right and not u < threshold for u, right in pairs)

    def share(part, whole, empty):
        return Fraction(part, whole) if whole else empty

    rates = {
        "u_sen": share(iu, iu + ic, np.nan),
        "u_spec": share(ac, ac + au, np.nan),
        "u_pre": share(iu, iu + au, selected),
        "u_acc": Fraction(ac + iu, len(pairs)),
        "p_accurate_certain": share(ac, ac + ic, selected),
        "p_uncertain_inaccurate": share(iu, iu + ic, np.nan),
        "pavpu": Fraction(ac + iu, len(pairs)),
        "remaining_error_rate": Fraction(ic, len(pairs)),
        "remaining_accuracy_rate": Fraction(ac, len(pairs)),
    }
    return {"ac": ac, "au": au, "ic": ic, "iu": iu}, rates


@examples
@given(predictions, st.sampled_from(GRIDS))
def test_curves_are_the_literal_counts_at_every_threshold(pairs, grid):
    curves = misclassification_metrics(*columns(pairs), grid=grid).curves
    if grid == "exact":
        assert curves.thresholds.tolist() == sorted({0.0, 1.0, *(u for u, _ in pairs)})
    else:
        assert tuple(curves.thresholds) == PAPER_THRESHOLDS
    for k, threshold in enumerate(curves.thresholds):
        counts, rates = literal_rates(pairs, threshold, grid)
        for name, count in counts.items():
            assert getattr(curves, name).dtype == np.int64
            assert getattr(curves, name)[k] == count
        for name, rate in rates.items():
            assert curves.rates[name].shape == curves.thresholds.shape
            assert curves.rates[name][k] == close(float(rate))


@examples
@given(predictions)
def test_exact_areas_are_means_over_all_thresholds(pairs):
    # Between two neighbouring scores every rate is constant: its middle stands for all of it.
    ends = sorted({0.0, 1.0, *(u for u, _ in pairs)})
    areas = misclassification_metrics(*columns(pairs)).areas
    expected = dict.fromkeys(areas, 0.0)
    for low, high in pairwise(ends):
        # the middle of two neighbouring floats rounds to one of them; thresholds stay above `low`
        _, rates = literal_rates(pairs, max((low + high) / 2, np.nextafter(low, 1)))
        for name, rate in rates.items():
            expected[name] += (high - low) * float(rate)
    curves = misclassification_metrics(*columns(pairs)).curves
    rates = curves.rates["remaining_accuracy_rate"], curves.rates["remaining_error_rate"]
    steps = pairwise(zip(*rates, strict=True))
    expected["error_over_accuracy"] = sum((c - a) * (b + d) / 2 for (a, b), (c, d) in steps)
    assert areas == {name: close(value) for name, value in expected.items()}


@examples
@given(predictions)
def test_exact_areas_have_closed_forms(pairs):
    u, right = map(np.array, columns(pairs))
    areas = misclassification_metrics(u, right).areas
    # A threshold drawn uniformly accepts an image of uncertainty u with probability 1 - u.
    assert areas["u_acc"] == areas["pavpu"] == close(np.where(right, 1 - u, u).mean())
    assert areas["remaining_accuracy_rate"] == close(np.sum(1 - u[right]) / len(u))
    assert areas["remaining_error_rate"] == close(np.sum(1 - u[~right]) / len(u))
    assert areas["u_spec"] == close((1 - u[right]).mean() if right.any() else np.nan)
    assert areas["u_sen"] == close(u[~right].mean() if not right.all() else np.nan)
    assert areas["p_uncertain_inaccurate"] == close(areas["u_sen"])


@examples
@given(
    predictions.filter(lambda pairs: len({right for _, right in pairs}) == 2),
    st.sampled_from(GRIDS),
)
def test_detection_of_mistakes_is_detection_with_correct_as_in(pairs, grid):
    result = misclassification_metrics(*columns(pairs), grid=grid).detection
    right, wrong = ([u for u, r in pairs if r is side] for side in (True, False))
    assert result == detection_metrics(right, wrong, grid=grid)


@pytest.mark.parametrize("right", [True, False])
def test_perfect_or_hopeless_accuracy_is_no_error_but_undefined(right):
    metrics = misclassification_metrics([0.25, 0.5, 0.5], [right] * 3)
    values = dataclasses.asdict(metrics.detection)
    assert (values.pop("n_in"), values.pop("n_out")) == ((3, 0) if right else (0, 3))
    assert len(values) == 13
    assert all(np.isnan(value) for value in values.values())
    areas = metrics.areas
    undefined = {name for name, area in areas.items() if np.isnan(area)}
    assert undefined == ({"u_sen", "p_uncertain_inaccurate"} if right else {"u_spec"})
    assert areas["remaining_error_rate" if right else "remaining_accuracy_rate"] == 0


@pytest.mark.parametrize("right", [True, False])
def test_on_the_paper_grid_undefined_rates_are_those_of_the_released_code(right):
    """AUROC is NaN, but an FPR is 0, and so is the area of a rate that is 0 / 0 anywhere."""
    metrics = misclassification_metrics([0.25, 0.5, 0.5], [right] * 3, grid="paper")
    values = dataclasses.asdict(metrics.detection)
    assert np.isnan(values["auroc"])
    assert {values[f"fpr{q}_{side}"] for q in TPR_PERCENTS for side in ("in", "out")} == {0}
    areas = metrics.areas
    assert not any(np.isnan(area) for area in areas.values())
    assert areas["u_sen" if right else "u_spec"] == areas["p_accurate_certain"] == 0


def test_empty_selections_count_as_precise():
    curves = misclassification_metrics([0.25, 0.5], [False, True]).curves
    assert curves.thresholds.tolist() == [0, 0.25, 0.5, 1]
    assert curves.rates["p_accurate_certain"].tolist() == [1, 1, 0, 0.5]
    assert curves.rates["u_pre"].tolist() == [0.5, 0.5, 0, 1]


@pytest.mark.parametrize(
    ("uncertainty", "correct", "message"),
    [
        ([0.5, 0.5], [1, 0], "correct must be boolean .* got int64"),
        ([0.5, 0.5], [True], r"of shape \(2,\) like uncertainty, got bool of shape \(1,\)"),
        ([0.5], [[True]], r"got bool of shape \(1, 1\)"),
        ([], [], r"uncertainty has shape \(0,\)"),
        ([0.5, 1.01], [True, False], r"uncertainty at index 1 is 1\.01, .*\[0, 1\]"),
        ([0.5, np.nan], [True, False], r"uncertainty at index 1 is nan"),
    ],
)
@pytest.mark.parametrize("grid", GRIDS)
def test_misclassification_names_what_it_cannot_score(uncertainty, correct, message, grid):
    with pytest.raises(AttractorError, match=message):
        misclassification_metrics(uncertainty, correct, grid=grid)


# ---- Wasserstein sums --------------------------------------------------------------------------


def earth_moved(a, b):
    """Area between two quantile functions, the definition of the distance in one dimension."""
    levels = np.unique([Fraction(k, len(side)) for side in (a, b) for k in range(len(side) + 1)])
    total = 0.0
    for low, high in pairwise(levels):
        middle = (low + high) / 2
        quantiles = (sorted(side)[int(middle * len(side))] for side in (a, b))
        total += float(high - low) * abs(next(quantiles) - next(quantiles))
    return total


@examples
@given(st.lists(uncertainties, min_size=4, max_size=4))
def test_wasserstein_sums_are_areas_between_quantile_functions(samples):
    inside, *others = samples
    out = dict(zip(("svhn", "cifar10", "lsun"), others, strict=True))
    sums = wasserstein_sums(inside, out)
    assert sums.in_to_out == close(sum(earth_moved(inside, other) for other in others))
    assert sums.reference_to_out == close(
        earth_moved(out["cifar10"], out["svhn"]) + earth_moved(out["cifar10"], out["lsun"])
    )


def test_the_reference_is_a_choice_and_may_be_missing():
    out = {"a": [0.0, 0.5], "b": [0.5, 1.0], "c": [1.0]}
    assert wasserstein_sums([0.0], out, reference="b").reference_to_out == 0.5 + 0.25
    assert wasserstein_sums([0.0], out).in_to_out == 0.25 + 0.75 + 1
    assert np.isnan(wasserstein_sums([0.0], out).reference_to_out)
    alone = wasserstein_sums([0.0], {"cifar10": [0.5]})
    assert alone.in_to_out == 0.5
    assert np.isnan(alone.reference_to_out)


@pytest.mark.parametrize(
    ("inside", "out", "message"),
    [
        ([0.5], {}, "out is empty"),
        ([], {"svhn": [0.5]}, r"in_uncertainty has shape \(0,\)"),
        ([0.5], {"svhn": []}, r"uncertainty of svhn has shape \(0,\)"),
        ([0.5], {"svhn": [np.nan]}, "uncertainty of svhn at index 0 is nan"),
    ],
)
def test_wasserstein_names_what_it_cannot_compare(inside, out, message):
    with pytest.raises(AttractorError, match=message):
        wasserstein_sums(inside, out)


# ---- calibration -------------------------------------------------------------------------------


def literal_calibration_error(confidence, correct, bins):
    """Guo et al., equation 3, bin by bin, in fractions."""
    total = Fraction(0)
    for b in range(bins):
        low, high = Fraction(b, bins), Fraction(b + 1, bins)
        inside = [
            i
            for i, sure in enumerate(confidence)
            if low < Fraction(sure) <= high or (b == 0 and sure == 0)
        ]
        if inside:
            right = Fraction(sum(correct[i] for i in inside), len(inside))
            sure = sum(Fraction(confidence[i]) for i in inside) / len(inside)
            total += Fraction(len(inside), len(confidence)) * abs(right - sure)
    return float(total)


@examples
@given(
    # Sixteenths lie on the bounds of 4, 8 and 16 bins, which floats hold exactly.
    st.lists(st.tuples(tied, st.booleans()), min_size=1, max_size=40),
    st.sampled_from([1, 4, 8, 16]),
)
def test_calibration_error_is_the_literal_sum_over_bins(pairs, bins):
    confidence, correct = columns(pairs)
    expected = literal_calibration_error(confidence, correct, bins)
    assert expected_calibration_error(confidence, correct, bins=bins) == close(expected)


@pytest.mark.parametrize("bins", [5, 10, 15])
def test_calibration_error_follows_from_scikit_learns_curve(bins):
    rng = np.random.default_rng(0)
    confidence = rng.random(500)
    correct = rng.random(500) < confidence**2
    right, sure = calibration_curve(correct, confidence, n_bins=bins)
    counts = np.histogram(confidence, bins=bins, range=(0, 1))[0]
    expected = np.sum(counts[counts > 0] / 500 * np.abs(right - sure))
    assert expected_calibration_error(confidence, correct, bins=bins) == close(expected)


@pytest.mark.parametrize(
    ("confidence", "correct", "bins", "message"),
    [
        ([0.5, 1.5], [True, True], 15, r"confidence at index 1 is 1\.5, but must be in \[0, 1\]"),
        ([0.5], [True, True], 15, r"correct must be boolean of shape \(1,\) like confidence"),
        ([0.5], [1], 15, r"correct must be boolean"),
        ([], [], 15, r"confidence has shape \(0,\)"),
        ([0.5], [True], 0, r"bins must be at least 1, got 0"),
    ],
)
def test_calibration_error_names_what_it_cannot_use(confidence, correct, bins, message):
    with pytest.raises(AttractorError, match=message):
        expected_calibration_error(confidence, correct, bins=bins)


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=7))
def test_selective_metrics_are_means_over_all_orders_of_equal_uncertainty(pairs):
    orders = [
        order for order in permutations(pairs) if all(a[0] <= b[0] for a, b in pairwise(order))
    ]
    n = len(pairs)
    errors = [[sum(not right for _, right in order[:i]) for order in orders] for i in range(n + 1)]
    found = selective_metrics([u / 10 for u, _ in pairs], [right for _, right in pairs])
    aurc = np.mean([np.mean(errors[i]) / i for i in range(1, n + 1)])
    augrc = np.mean([np.mean(errors[i]) / n for i in range(1, n + 1)])
    # Only coverages that accept all predictions of equal uncertainty, or none.
    ends = [i for i in range(1, n + 1) if i == n or sorted(pairs)[i - 1][0] != sorted(pairs)[i][0]]
    coverage = max((i / n for i in ends if errors[i][0] <= 0.05 * i), default=0)
    assert found.aurc == pytest.approx(aurc)
    assert found.augrc == pytest.approx(augrc)
    assert found.coverage_at_5_risk == pytest.approx(coverage)
