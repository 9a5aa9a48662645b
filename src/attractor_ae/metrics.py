"""Metrics of a score: pure functions on arrays (docs/protocol.md, cited as PROTOCOL, section 8).

An image is *accepted* ("certain") if its score is strictly below the threshold. There are two grids
of thresholds: ``"exact"``, all distinct scores, and ``"paper"``, the fifty thresholds 0, 0.02, ...,
0.98 of the released code. Each prediction is accurate or inaccurate, and certain or uncertain.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, cast, get_args

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import trapezoid
from scipy.stats import beta, wasserstein_distance
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from attractor_ae._errors import AttractorError, check_at_least, check_known, unknown_name

Thresholds = Literal["exact", "paper"]
Orientation = Literal["in", "out"]

PAPER_THRESHOLDS = tuple(np.linspace(0, 1, 50, endpoint=False).tolist())
"""The thresholds of the released code: 0, 0.02, ..., 0.98, as its floating-point numbers."""

TPR_PERCENTS = (30, 50, 80, 90, 95)
"""True positive rates, in percent, at which false positive rates are reported."""


@dataclass(frozen=True)
class DetectionMetrics:
    """Separation of D_in and D_out by uncertainty; every rate and area is in [0, 1].

    A name ends in ``_in`` where D_in is the positive class (accepted: uncertainty below a
    threshold), and in ``_out`` where D_out is (flagged: uncertainty not below a threshold).
    ``fpr95_in`` is the fraction of D_out that is accepted if 95 % of D_in is accepted, and
    ``fpr95_out`` the fraction of D_in that is flagged if 95 % of D_out is flagged; likewise for
    other percentages. AUROC has D_in positive; on the exact grid it is the same for both
    orientations. ``n_in`` and ``n_out`` are numbers of images.
    """

    auroc: float
    aupr_in: float
    aupr_out: float
    fpr30_in: float
    fpr50_in: float
    fpr80_in: float
    fpr90_in: float
    fpr95_in: float
    fpr30_out: float
    fpr50_out: float
    fpr80_out: float
    fpr90_out: float
    fpr95_out: float
    n_in: int
    n_out: int


DETECTION_RATES = tuple(f.name for f in fields(DetectionMetrics) if f.name not in ("n_in", "n_out"))
"""Names of the rates and areas of `DetectionMetrics`."""


@dataclass(frozen=True)
class WassersteinSums:
    """Sums of Wasserstein distances between samples of uncertainty.

    ``in_to_out``, from D_in to every D_out: large is good. ``reference_to_out``, from the reference
    D_out to every other: small is good, since unknown data sets should have similar uncertainties;
    NaN if the reference is not among the D_outs, or is the only one.
    """

    in_to_out: float
    reference_to_out: float


def detection_metrics(
    in_uncertainty: ArrayLike, out_uncertainty: ArrayLike, *, grid: Thresholds = "exact"
) -> DetectionMetrics:
    """Measure how well uncertainty separates D_in (low) from D_out (high), PROTOCOL section 8.

    Exact grid: curves over all distinct scores; AUPR is average precision (recall steps times
    precision, no interpolation); FPR is that of the strictest threshold whose TPR reaches the
    level.

    Paper grid: the 50 thresholds of the released code, integrated by the trapezoid rule
    without closing the curves. With D_in positive, the ROC curve starts at (0, 0), and the other at
    recall 0 and precision 1, since the precision of an empty set counts as 1; scores above 0.98 are
    never accepted. FPR is taken at the nearest TPR in floating point, with ties broken by the
    strictest threshold. These are the released code's numbers, to the last digit.

    Raises:
        AttractorError: If an argument is empty, not one-dimensional, not finite or, on the paper
            grid, outside [0, 1].

    Examples:
        >>> scores = detection_metrics([0.1, 0.2, 0.3, 0.6], [0.4, 0.7, 0.8, 0.9])
        >>> scores.auroc, scores.fpr95_in, scores.fpr95_out
        (0.9375, 0.25, 0.25)
    """
    checked_names(grid)
    inside = checked_scores("in_uncertainty", in_uncertainty, bounded=grid == "paper")
    outside = checked_scores("out_uncertainty", out_uncertainty, bounded=grid == "paper")
    rates = (_exact_rates if grid == "exact" else paper_rates)(inside, outside)
    return DetectionMetrics(**rates, n_in=len(inside), n_out=len(outside))


def exact_interval(count: int | NDArray[np.int64], of: int) -> tuple[Any, Any]:
    """Return the exact 95 % intervals of fractions count / of (Clopper and Pearson, 1934).

    Examples:
        >>> low, high = exact_interval(np.array([0, 5]), 5)
        >>> low.round(3).tolist(), high.round(3).tolist()
        ([0.0, 0.478], [0.522, 1.0])
    """
    low = beta.ppf(0.025, count, of - count + 1)
    high = beta.ppf(0.975, count + 1, of - count)
    return np.nan_to_num(low, nan=0.0), np.nan_to_num(high, nan=1.0)


def wasserstein_sums(
    in_uncertainty: ArrayLike, out: Mapping[str, ArrayLike], *, reference: str = "cifar10"
) -> WassersteinSums:
    """Sum the Wasserstein distances from D_in to all D_out and from one D_out to all others.

    The entropy plot states these sums (PROTOCOL section 8). Samples are finite and not empty.

    Raises:
        AttractorError: If there is no D_out, or a sample is empty, not one-dimensional or not
            finite.

    Examples:
        >>> wasserstein_sums([0.0, 0.5], {"cifar10": [0.75, 1.0], "svhn": [1.0]})
        WassersteinSums(in_to_out=1.375, reference_to_out=0.125)
    """
    if not out:
        raise AttractorError("out is empty; give the uncertainty of at least one D_out")
    inside = checked_scores("in_uncertainty", in_uncertainty)
    samples = {
        name: checked_scores(f"uncertainty of {name}", values) for name, values in out.items()
    }
    others = [sample for name, sample in samples.items() if name != reference]
    to_out = sum(wasserstein_distance(inside, sample) for sample in samples.values())
    to_others = math.nan
    if reference in samples and others:
        to_others = sum(wasserstein_distance(samples[reference], other) for other in others)
    return WassersteinSums(float(to_out), float(to_others))


def wasserstein_reference(names: Sequence[str], wanted: str | None = None) -> str:
    """Return the D_out to compare others with: ``wanted``, else cifar10, photos, or the first."""
    if wanted is not None and wanted not in names:
        raise unknown_name("D_out", wanted, names)
    return wanted or next((name for name in ("cifar10", "photos") if name in names), names[0])


def expected_calibration_error(
    confidence: ArrayLike, correct: ArrayLike, *, bins: int = 15
) -> float:
    """Return the expected calibration error, in [0, 1].

    The mean over bins of |accuracy - mean confidence|, weighted by the fraction of images in the
    bin (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, equation 3). Bins have
    equal width, without their left ends; the first also contains 0. ``confidence`` is the
    probability of the predicted class; ``correct`` contains booleans; both have shape (n,).

    Raises:
        AttractorError: If a shape or dtype is wrong, or a value is out of range.

    Examples:
        >>> expected_calibration_error([0.5, 0.5, 1.0, 1.0], [True, False, True, False])
        0.25
    """
    sure = checked_scores("confidence", confidence)
    _check_all("confidence", sure, (sure >= 0) & (sure <= 1), "must be in [0, 1]")
    right = checked_correct(correct, "confidence", sure)
    check_at_least(1, bins=bins)
    of_each = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], sure)
    # The number of images in a bin cancels: n_b / n times |right_b / n_b - sure_b / n_b|.
    gaps = np.bincount(of_each, weights=right - sure, minlength=bins)
    return float(np.abs(gaps).sum() / len(sure))


# ---- detection of wrong predictions ------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class CertaintyCurves:
    """Counts and rates of accurate/inaccurate x certain/uncertain predictions per threshold.

    ``thresholds`` ascend in [0, 1]; on the exact grid they are 0, all distinct uncertainties, and
    1. ``ac``, ``au``, ``ic`` and ``iu`` are numbers of predictions: the first letter stands for
    accurate or inaccurate, the second for certain or uncertain. ``rates`` by name: u_sen =
    p_uncertain_inaccurate = iu / (iu + ic); u_spec = ac / (ac + au); u_pre = iu / (iu + au); u_acc
    = pavpu = (ac + iu) / all; p_accurate_certain = ac / (ac + ic); remaining_error_rate = ic / all;
    remaining_accuracy_rate = ac / all.
    """

    thresholds: Float64[np.ndarray, " m"]
    ac: Int64[np.ndarray, " m"]
    au: Int64[np.ndarray, " m"]
    ic: Int64[np.ndarray, " m"]
    iu: Int64[np.ndarray, " m"]
    rates: dict[str, Float64[np.ndarray, " m"]]


@dataclass(frozen=True)
class SelectiveMetrics:
    """Errors among the most certain predictions, whose fraction is the coverage; no thresholds.

    Attributes:
        aurc: Mean over the coverages of errors / accepted (Geifman and El-Yaniv, 2017).
        augrc: Mean over the coverages of errors / all (Traub et al., NeurIPS 2024).
        coverage_at_5_risk: Largest coverage of which at most 5 % are errors; 0 if there is none.
    """

    aurc: float
    augrc: float
    coverage_at_5_risk: float


def selective_metrics(uncertainty: ArrayLike, correct: ArrayLike) -> SelectiveMetrics:
    """Return the metrics of rejection by uncertainty; arguments as `misclassification_metrics`.

    Errors of equal uncertainty are accepted evenly, see `accepted_errors`.

    Examples:
        >>> selective_metrics([0.1, 0.2, 0.3, 0.4], [True, True, False, True]).augrc
        0.125
    """
    scores = checked_scores("uncertainty", uncertainty, bounded=True)
    errors = accepted_errors(scores, checked_correct(correct, "uncertainty", scores))
    n = len(scores)
    # A threshold accepts all predictions of equal uncertainty, or none.
    ends = np.cumsum(np.unique(scores, return_counts=True)[1])
    allowed = ends[errors[ends - 1] <= 0.05 * ends]
    return SelectiveMetrics(
        aurc=float((errors / np.arange(1, n + 1)).mean()),
        augrc=float(errors.mean() / n),
        coverage_at_5_risk=float(allowed.max(initial=0) / n),
    )


@dataclass(frozen=True, eq=False)
class MisclassificationMetrics:
    """Separation of correct and wrong predictions by uncertainty.

    In ``detection``, correct predictions have the role of D_in and wrong ones that of D_out. If all
    predictions are correct, or all are wrong, it is NaN on the exact grid, and on the paper grid as
    in the released code: NaN where a rate is 0 / 0, but an FPR is 0.

    ``areas`` are those of the rates of ``curves``, by name. On the exact grid, the area is that
    below the rate over the thresholds, in [0, 1], and NaN where the curve is NaN. On the paper
    grid, it is that of the released code: |trapezoid of the thresholds over the rate|, and 0 where
    any value of the curve is 0 / 0. The area ``error_over_accuracy`` is |trapezoid of
    remaining_error_rate over remaining_accuracy_rate|.
    """

    detection: DetectionMetrics
    curves: CertaintyCurves
    areas: dict[str, float]
    selective: SelectiveMetrics


def misclassification_metrics(
    uncertainty: ArrayLike, correct: ArrayLike, *, grid: Thresholds = "exact"
) -> MisclassificationMetrics:
    """Measure how well uncertainty separates correct from wrong predictions, PROTOCOL section 8.

    If a threshold selects no prediction, u_pre and p_accurate_certain are 1 on the exact grid and
    NaN on the paper grid. Rates of all correct or of all wrong predictions are NaN if there are
    none. Uncertainties are in [0, 1], ``correct`` contains booleans; both have shape (n,), n >= 1.

    Raises:
        AttractorError: If the shapes differ, an uncertainty is outside [0, 1] or ``correct`` is not
            boolean.

    Examples:
        >>> scores = misclassification_metrics([0.0, 0.5, 0.75], [True, True, False])
        >>> scores.detection.auroc, scores.areas["u_spec"], scores.areas["u_sen"]
        (1.0, 0.75, 0.75)
        >>> scores.curves.thresholds, scores.curves.ac, scores.curves.ic
        (array([0.  , 0.5 , 0.75, 1.  ]), array([0, 1, 2, 2]), array([0, 0, 0, 1]))
    """
    checked_names(grid)
    scores = checked_scores("uncertainty", uncertainty, bounded=True)
    right = checked_correct(correct, "uncertainty", scores)
    accurate, inaccurate = scores[right], scores[~right]
    if len(accurate) and len(inaccurate):
        detection = detection_metrics(accurate, inaccurate, grid=grid)
    else:
        undefined = dict.fromkeys(DETECTION_RATES, np.nan)
        found = undefined if grid == "exact" else paper_rates(accurate, inaccurate)
        detection = DetectionMetrics(**found, n_in=len(accurate), n_out=len(inaccurate))

    if grid == "exact":
        thresholds = np.unique(np.concatenate(([0.0], scores, [1.0])))
    else:
        thresholds = np.array(PAPER_THRESHOLDS)
    ac, ic = count_below(accurate, thresholds), count_below(inaccurate, thresholds)
    au, iu = len(accurate) - ac, len(inaccurate) - ic
    u_sen = ratio(iu, iu + ic, empty=np.nan)
    u_acc = (ac + iu) / len(scores)
    empty = 1.0 if grid == "exact" else np.nan
    rates = {
        "u_sen": u_sen,
        "u_spec": ratio(ac, ac + au, empty=np.nan),
        "u_pre": ratio(iu, iu + au, empty=empty),
        "u_acc": u_acc,
        "p_accurate_certain": ratio(ac, ac + ic, empty=empty),
        "p_uncertain_inaccurate": u_sen,
        "pavpu": u_acc,
        "remaining_error_rate": ic / len(scores),
        "remaining_accuracy_rate": ac / len(scores),
    }
    # Counts are constant for t in (t[k-1], t[k]], so a step has the value of its right end.
    areas = {
        name: float(
            rate[1:] @ np.diff(thresholds)
            if grid == "exact"
            else abs(np.nan_to_num(trapezoid(thresholds, rate)))
        )
        for name, rate in rates.items()
    }
    remaining = rates["remaining_error_rate"], rates["remaining_accuracy_rate"]
    areas["error_over_accuracy"] = float(abs(trapezoid(*remaining)))
    return MisclassificationMetrics(
        detection=detection,
        curves=CertaintyCurves(thresholds=thresholds, ac=ac, au=au, ic=ic, iu=iu, rates=rates),
        areas=areas,
        selective=selective_metrics(scores, right),
    )


# ---- the two grids -----------------------------------------------------------------------------


def _exact_rates(inside: np.ndarray, outside: np.ndarray) -> dict[str, float]:
    scores = np.concatenate((inside, outside))
    is_in = np.arange(len(scores)) < len(inside)
    rates = {
        "auroc": float(roc_auc_score(is_in, -scores)),
        "aupr_in": float(average_precision_score(is_in, -scores)),
        "aupr_out": float(average_precision_score(~is_in, scores)),
    }
    for suffix, positive, ranking in (("in", is_in, -scores), ("out", ~is_in, scores)):
        fpr, tpr, _ = roc_curve(positive, ranking, drop_intermediate=False)
        for q in TPR_PERCENTS:
            rates[f"fpr{q}_{suffix}"] = float(fpr[np.searchsorted(tpr, q / 100)])
    return rates


def paper_rates(inside: np.ndarray, outside: np.ndarray) -> dict[str, float]:
    """Return the rates and areas on the paper grid, of scores in [0, 1].

    If a side is empty, rates over it are NaN, but an FPR is then 0, as in the released code.
    """
    accepted_in = count_below(inside, np.array(PAPER_THRESHOLDS))
    accepted_out = count_below(outside, np.array(PAPER_THRESHOLDS))
    n_in, n_out = len(inside), len(outside)
    rates = {}
    for suffix, tp, fp, positives, negatives in (
        ("in", accepted_in, accepted_out, n_in, n_out),
        # The strictest threshold, with nothing flagged, comes first: from highest to lowest.
        ("out", (n_out - accepted_out)[::-1], (n_in - accepted_in)[::-1], n_out, n_in),
    ):
        tpr = ratio(tp, np.full_like(tp, positives), empty=np.nan)
        fpr = ratio(fp, np.full_like(fp, negatives), empty=np.nan)
        if suffix == "in":
            rates["auroc"] = float(trapezoid(tpr, fpr))
        precision = ratio(tp, tp + fp, empty=1.0)
        rates[f"aupr_{suffix}"] = float(trapezoid(precision, tpr))
        for q in TPR_PERCENTS:
            # In floating point, as the released code does, which decides some ties.
            nearest = np.argmin(np.abs(tpr - q / 100))
            rates[f"fpr{q}_{suffix}"] = float(fpr[nearest]) if n_in and n_out else 0.0
    return rates


def count_below(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Return the number of ``scores`` (n,) strictly below each of ``thresholds`` (m,): int64."""
    return np.searchsorted(np.sort(scores), thresholds, side="left").astype(np.int64)


def ratio(part: np.ndarray, whole: np.ndarray, *, empty: float) -> np.ndarray:
    """Return ``part / whole``, elementwise, and ``empty`` where ``whole`` is 0."""
    return np.divide(part, whole, out=np.full(part.shape, empty, np.float64), where=whole > 0)


# ---- checks ------------------------------------------------------------------------------------


def checked_names(grid: str, orientation: str = "in") -> tuple[Thresholds, Orientation]:
    """Return the names of a grid and a positive class, or raise an AttractorError."""
    check_known("grid", grid, get_args(Thresholds))
    check_known("orientation", orientation, get_args(Orientation))
    return cast("Thresholds", grid), cast("Orientation", orientation)


def are_bounded(*scores: np.ndarray) -> bool:
    """Return whether all values are in [0, 1]."""
    return all(0 <= u.min() <= u.max() <= 1 for u in scores if len(u))


def checked_scores(
    name: str, values: object, *, bounded: bool = False
) -> Float64[np.ndarray, " n"]:
    """Return scores as float64, shape (n,), or raise an AttractorError that names them ``name``.

    They must be finite, at least one and, if ``bounded``, in [0, 1].
    """
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged, or not on the CPU
        raise AttractorError(
            f"{name} cannot be read as an array ({error}); give real numbers on the CPU"
        ) from error
    if array.dtype.kind not in "biuf":
        raise AttractorError(f"{name} are {array.dtype}; give an array of real numbers")
    scores = array.astype(np.float64)
    if scores.ndim != 1 or not scores.size:
        raise AttractorError(
            f"{name} has shape {scores.shape}; give one value per image, for at least one image"
        )
    finite = np.isfinite(scores)
    _check_all(name, scores, finite, "must be finite; look for NaN in the model's output")
    if bounded:
        inside = (scores >= 0) & (scores <= 1)
        _check_all(name, scores, inside, 'must be in [0, 1]; use grid="exact" for other scores')
    return scores


def accepted_errors(
    scores: Float64[np.ndarray, " n"], correct: Bool[np.ndarray, " n"]
) -> Float64[np.ndarray, " n"]:
    """Return the numbers of errors among the 1, 2, ..., n predictions with the smallest scores.

    Errors of equal scores are accepted evenly, the mean over all orders of these predictions.
    """
    _, group, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    ends, errors = np.cumsum(sizes), np.cumsum(np.bincount(group, ~correct))
    return np.interp(np.arange(1, len(scores) + 1), np.append(0, ends), np.append(0, errors))


def checked_correct(correct: object, like: str, scores: np.ndarray) -> Bool[np.ndarray, " n"]:
    """Return booleans, one per score, or raise an AttractorError that names the scores ``like``."""
    right = np.asarray(correct)
    if right.dtype != np.bool_ or right.shape != scores.shape:
        raise AttractorError(
            f"correct must be boolean of shape {scores.shape} like {like}, got {right.dtype} "
            f"of shape {right.shape}; pass predicted == labels"
        )
    return right


def _check_all(name: str, values: np.ndarray, good: np.ndarray, remedy: str) -> None:
    if not good.all():
        index = np.argmin(good)
        raise AttractorError(f"{name} at index {index} is {values[index]}, but {remedy}")
