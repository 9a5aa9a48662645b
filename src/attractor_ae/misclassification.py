"""Is this prediction right? Scores of an uncertainty as a judge of it (PROTOCOL section 8).

Every prediction is accurate or not and, at each threshold, certain (uncertainty strictly below the
threshold) or not. The grids of thresholds are those of `attractor_ae.metrics`.
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
    check_grid,
    checked_correct,
    checked_scores,
    count_below,
    detection_metrics,
    ratio,
)


@dataclass(frozen=True, eq=False)
class CertaintyCurves:
    """Counts and rates of accurate/inaccurate x certain/uncertain predictions by threshold.

    ``thresholds`` ascend in [0, 1]; on the exact grid they are 0, all distinct uncertainties, and
    1. ``ac``, ``au``, ``ic`` and ``iu`` count accurate or inaccurate, certain or uncertain
    predictions; certain: uncertainty strictly below the threshold. u_sen = p_uncertain_inaccurate =
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
    """Area over the thresholds of each rate of `CertaintyCurves`; NaN where the curve is NaN.

    In [0, 1] on the exact grid, in [0, 0.98] on the paper grid, which ends there.
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


@dataclass(frozen=True, eq=False)
class MisclassificationMetrics:
    """Separation of correct and wrong predictions by uncertainty.

    ``detection`` has correct predictions in the role of D_in, wrong ones in that of D_out; it is
    NaN if all are correct, or all wrong.
    """

    detection: DetectionMetrics
    curves: CertaintyCurves
    areas: CertaintyAreas


def misclassification_metrics(
    uncertainty: ArrayLike, correct: ArrayLike, *, grid: Thresholds = "exact"
) -> MisclassificationMetrics:
    """Score how well uncertainty tells correct predictions from wrong ones, PROTOCOL section 8.

    Areas over the thresholds: on the exact grid the integral over [0, 1] of a step function of the
    threshold; on the paper grid the trapezoid rule over the 50 thresholds. A share of predictions
    that the threshold selects is 1 where it selects none. A share of all correct, or of all wrong,
    predictions is NaN if there are none, and so is everything in ``detection``. Uncertainties are
    in [0, 1], ``correct`` are booleans, both of shape (n,), n >= 1.

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
        detection = DetectionMetrics(**undefined, n_in=len(accurate), n_out=len(inaccurate))

    if grid == "exact":
        thresholds = np.unique(np.concatenate(([0.0], scores, [1.0])))
    else:
        thresholds = np.array(PAPER_THRESHOLDS)
    ac, ic = count_below(accurate, thresholds), count_below(inaccurate, thresholds)
    au, iu = len(accurate) - ac, len(inaccurate) - ic
    u_sen = ratio(iu, iu + ic, empty=np.nan)
    u_acc = (ac + iu) / len(scores)
    rates = {
        "u_sen": u_sen,
        "u_spec": ratio(ac, ac + au, empty=np.nan),
        "u_pre": ratio(iu, iu + au, empty=1.0),
        "u_acc": u_acc,
        "p_accurate_certain": ratio(ac, ac + ic, empty=1.0),
        "p_uncertain_inaccurate": u_sen,
        "pavpu": u_acc,
        "remaining_error_rate": ic / len(scores),
        "remaining_accuracy_rate": ac / len(scores),
    }
    # A count below t is constant for t in (t[k-1], t[k]], so the step has the value at its right.
    areas = {
        name: float(
            rate[1:] @ np.diff(thresholds) if grid == "exact" else trapezoid(rate, thresholds)
        )
        for name, rate in rates.items()
    }
    return MisclassificationMetrics(
        detection=detection,
        curves=CertaintyCurves(thresholds=thresholds, ac=ac, au=au, ic=ic, iu=iu, **rates),
        areas=CertaintyAreas(**areas),
    )
