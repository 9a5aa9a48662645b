"""Detection of wrong predictions by uncertainty (docs/protocol.md, cited as PROTOCOL, section 8).

Each prediction is accurate or inaccurate and, at each threshold, certain (uncertainty strictly
below the threshold) or uncertain. The grids of thresholds are those of `attractor_ae.metrics`.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from numpy.typing import ArrayLike
from scipy.integrate import trapezoid

from attractor_ae.metrics import (
    DETECTION_RATES,
    PAPER_THRESHOLDS,
    DetectionMetrics,
    Thresholds,
    accepted_errors,
    check_grid,
    checked_correct,
    checked_scores,
    count_below,
    detection_metrics,
    paper_rates,
    ratio,
)


@dataclass(frozen=True, eq=False)
class CertaintyCurves:
    """Counts and rates of accurate/inaccurate x certain/uncertain predictions per threshold.

    ``thresholds`` ascend in [0, 1]; on the exact grid they are 0, all distinct uncertainties, and
    1. ``ac``, ``au``, ``ic`` and ``iu`` are numbers of predictions: the first letter stands for
    accurate or inaccurate, the second for certain or uncertain. u_sen = p_uncertain_inaccurate =
    iu / (iu + ic); u_spec = ac / (ac + au); u_pre = iu / (iu + au); u_acc = pavpu = (ac + iu) /
    all; p_accurate_certain = ac / (ac + ic); remaining_error_rate = ic / all;
    remaining_accuracy_rate = ac / all.
    """

    thresholds: Float64[np.ndarray, " m"]
    ac: Int64[np.ndarray, " m"]
    au: Int64[np.ndarray, " m"]
    ic: Int64[np.ndarray, " m"]
    iu: Int64[np.ndarray, " m"]
    u_sen: Float64[np.ndarray, " m"]
    u_spec: Float64[np.ndarray, " m"]
    u_pre: Float64[np.ndarray, " m"]
    u_acc: Float64[np.ndarray, " m"]
    p_accurate_certain: Float64[np.ndarray, " m"]
    p_uncertain_inaccurate: Float64[np.ndarray, " m"]
    pavpu: Float64[np.ndarray, " m"]
    remaining_error_rate: Float64[np.ndarray, " m"]
    remaining_accuracy_rate: Float64[np.ndarray, " m"]


@dataclass(frozen=True)
class CertaintyAreas:
    """Area of each rate of `CertaintyCurves`, and of the error rate over the accuracy rate.

    On the exact grid, the area is that below the rate over the thresholds, in [0, 1], and NaN where
    the curve is NaN. On the paper grid, it is that of the released code: |trapezoid of the
    thresholds over the rate|, and 0 where any value of the curve is 0 / 0.
    ``error_over_accuracy`` is |trapezoid of remaining_error_rate over remaining_accuracy_rate|.
    """

    u_sen: float
    u_spec: float
    u_pre: float
    u_acc: float
    p_accurate_certain: float
    p_uncertain_inaccurate: float
    pavpu: float
    remaining_error_rate: float
    remaining_accuracy_rate: float
    error_over_accuracy: float


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

    Errors of equal uncertainty are accepted evenly, see `attractor_ae.metrics.accepted_errors`.

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
    """

    detection: DetectionMetrics
    curves: CertaintyCurves
    areas: CertaintyAreas
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
        >>> scores.detection.auroc, scores.areas.u_spec, scores.areas.u_sen
        (1.0, 0.75, 0.75)
        >>> scores.curves.thresholds, scores.curves.ac, scores.curves.ic
        (array([0.  , 0.5 , 0.75, 1.  ]), array([0, 1, 2, 2]), array([0, 0, 0, 1]))
    """
    check_grid(grid)
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
    errors, correct_ones = rates["remaining_error_rate"], rates["remaining_accuracy_rate"]
    areas["error_over_accuracy"] = float(abs(trapezoid(errors, correct_ones)))
    return MisclassificationMetrics(
        detection=detection,
        curves=CertaintyCurves(thresholds=thresholds, ac=ac, au=au, ic=ic, iu=iu, **rates),
        areas=CertaintyAreas(**areas),
        selective=selective_metrics(scores, right),
    )
