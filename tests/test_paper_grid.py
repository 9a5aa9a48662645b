"""The paper's grid against a literal reading of PROTOCOL section 8: loops, in fractions."""

import dataclasses
import math
from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from attractor_ae.metrics import detection_metrics, misclassification_metrics

# As the released code computes them: three are one unit in the last place above 0.7, 0.82, 0.94.
THRESHOLDS = [k * 0.02 for k in range(50)]
LEVELS = (30, 50, 80, 90, 95)

# ---- the protocol, written without a look at the package ---------------------------------------


def trapezoid(y, x):
    """Integrate, in fractions; None if a value is None, which stands for 0 / 0."""
    if None in y or None in x:
        return None
    area = Fraction(0)
    for k in range(1, len(x)):
        area += (x[k] - x[k - 1]) * (y[k] + y[k - 1]) / 2
    return area


def curve(positives, negatives, selects, thresholds):
    """TPR, FPR and precision at thresholds from the strictest to the loosest."""
    tpr, fpr, precision = [], [], []
    for threshold in thresholds:
        tp = fp = 0
        for u in positives:
            tp += selects(u, threshold)
        for u in negatives:
            fp += selects(u, threshold)
        tpr.append(Fraction(tp, len(positives)) if positives else None)
        fpr.append(Fraction(fp, len(negatives)) if negatives else None)
        precision.append(Fraction(tp, tp + fp) if tp + fp else Fraction(1))
    return tpr, fpr, precision


def accepted(u, threshold):
    return u < threshold


def flagged(u, threshold):
    return not accepted(u, threshold)


def detection(inside, outside):
    rates = {}
    for side, points in (
        ("in", curve(inside, outside, accepted, THRESHOLDS)),
        ("out", curve(outside, inside, flagged, THRESHOLDS[::-1])),
    ):
        tpr, fpr, precision = points
        if side == "in":
            rates["auroc"] = trapezoid(tpr, fpr)
        rates[f"aupr_{side}"] = trapezoid(precision, tpr)
        for level in LEVELS:
            if not (inside and outside):
                rates[f"fpr{level}_{side}"] = Fraction(0)
                continue
            # In floating point, which decides ties, and the first of equals.
            distances = [abs(float(rate) - level / 100) for rate in tpr]
            rates[f"fpr{level}_{side}"] = fpr[distances.index(min(distances))]
    return rates


def certainty_areas(pairs):
    """|trapezoid of the thresholds over the rate|, and 0 if any value of the rate is 0 / 0."""
    curves = {}
    for threshold in THRESHOLDS:
        ac = au = ic = iu = 0
        for u, right in pairs:
            if right and accepted(u, threshold):
                ac += 1
            elif right:
                au += 1
            elif accepted(u, threshold):
                ic += 1
            else:
                iu += 1
        n = ac + au + ic + iu
        sensitivity = Fraction(iu, iu + ic) if iu + ic else None
        rates = {
            "u_sen": sensitivity,
            "u_spec": Fraction(ac, ac + au) if ac + au else None,
            "u_pre": Fraction(iu, iu + au) if iu + au else None,
            "u_acc": Fraction(ac + iu, n),
            "p_accurate_certain": Fraction(ac, ac + ic) if ac + ic else None,
            "p_uncertain_inaccurate": sensitivity,
            "pavpu": Fraction(ac + iu, n),
            "remaining_error_rate": Fraction(ic, n),
            "remaining_accuracy_rate": Fraction(ac, n),
        }
        for name, rate in rates.items():
            curves.setdefault(name, []).append(rate)
    thresholds = [Fraction(threshold) for threshold in THRESHOLDS]
    areas = {name: trapezoid(thresholds, rates) for name, rates in curves.items()}
    errors, accuracies = curves["remaining_error_rate"], curves["remaining_accuracy_rate"]
    areas["error_over_accuracy"] = trapezoid(errors, accuracies)
    return {name: abs(area or Fraction(0)) for name, area in areas.items()}


def assert_same(found, expected):
    assert set(found) == set(expected)
    for name, value in expected.items():
        if value is None:
            assert math.isnan(found[name]), name
        else:
            # An exact difference: a conversion of the fraction would round on its own.
            assert abs(Fraction(found[name]) - value) <= Fraction(1, 10**12), name


# ---- random inputs -----------------------------------------------------------------------------

on_a_threshold = st.sampled_from(THRESHOLDS)
beside_a_threshold = st.tuples(on_a_threshold, st.sampled_from([0.0, 1.0])).map(
    lambda pair: float(np.nextafter(*pair))
)
never_accepted = st.floats(0.98, 1)
anything = st.one_of(
    on_a_threshold,
    beside_a_threshold,
    never_accepted,
    st.floats(0, 1),
    st.floats(0, 1, width=32),
    st.integers(0, 8).map(lambda k: k / 8),
)


@st.composite
def samples(draw, largest=60):
    """Scores of one side: of any kind, of few values, all alike, or all above 0.98."""
    values = draw(
        st.one_of(
            st.just(anything),
            st.lists(anything, min_size=1, max_size=4).map(st.sampled_from),
            anything.map(st.just),
            st.just(never_accepted),
        )
    )
    return draw(st.lists(values, min_size=1, max_size=largest))


many = settings(max_examples=150)


@many
@given(samples(), samples())
def test_detection_is_that_of_the_protocol(inside, outside):
    found = dataclasses.asdict(detection_metrics(inside, outside, grid="paper"))
    assert (found.pop("n_in"), found.pop("n_out")) == (len(inside), len(outside))
    assert_same(found, detection(inside, outside))


@many
@given(samples(), st.data())
def test_misclassification_is_that_of_the_protocol(scores, data):
    size = len(scores)
    correct = data.draw(
        st.one_of(
            st.lists(st.booleans(), min_size=size, max_size=size),
            st.booleans().map(lambda right: [right] * size),
        )
    )
    found = misclassification_metrics(scores, correct, grid="paper")
    pairs = list(zip(scores, correct, strict=True))
    assert_same(found.areas, certainty_areas(pairs))
    rates = dataclasses.asdict(found.detection)
    assert (rates.pop("n_in"), rates.pop("n_out")) == (sum(correct), size - sum(correct))
    assert_same(rates, detection([u for u, r in pairs if r], [u for u, r in pairs if not r]))


def test_as_many_images_as_in_the_published_tables():
    """2 500 images a side, as the paper's; uncertainties of which many lie above 0.98."""
    rng = np.random.default_rng(0)
    inside, outside = rng.beta(0.4, 2, 2500), rng.beta(6, 0.5, 2500)
    assert np.mean(outside > 0.98) > 0.3
    found = dataclasses.asdict(detection_metrics(inside, outside, grid="paper"))
    del found["n_in"], found["n_out"]
    assert_same(found, detection(inside.tolist(), outside.tolist()))
    correct = rng.random(2500) > inside
    areas = misclassification_metrics(inside, correct, grid="paper").areas
    expected = certainty_areas(list(zip(inside.tolist(), correct.tolist(), strict=True)))
    assert_same(areas, expected)


@given(st.lists(never_accepted, min_size=1), st.lists(never_accepted, min_size=1))
def test_of_nothing_that_is_accepted_there_is_no_area(inside, outside):
    """All above 0.98: both curves of D_in are one point at 0, and D_out is all flagged at once."""
    found = detection_metrics(inside, outside, grid="paper")
    assert (found.auroc, found.aupr_in, found.aupr_out) == (0, 0, 0)
    assert (found.fpr95_in, found.fpr95_out) == (0, 1)
