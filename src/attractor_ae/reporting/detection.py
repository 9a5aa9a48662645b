"""ROC and precision-recall curves of D_in against D_outs."""

import math
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

from attractor_ae._errors import AttractorError, unknown_name
from attractor_ae.experiment.result import EvaluationResult
from attractor_ae.metrics import DetectionMetrics
from attractor_ae.reporting.panels import Curve, curve_figure
from attractor_ae.reporting.seeds import Results, by_method, stated
from attractor_ae.reporting.style import REFERENCE_COLOUR

Positive = Literal["in", "out"]
"""Which side is the positive class: D_in, which is accepted, or D_out, which is flagged."""

_GRID = np.linspace(0, 1, 201)
_WHAT = {"in": "known accepted", "out": "unknown flagged"}
_WRONG = {"in": "unknown accepted", "out": "known flagged"}

Points = tuple[np.ndarray, np.ndarray]


def roc_figure(results: Results, *, positive: Positive = "in") -> Figure:
    """Draw the ROC curve of D_in against each D_out, at the reported recursion and score.

    The curve of one seed is exact. Of several the mean true positive rate at each false positive
    rate is drawn (vertical averaging; Fawcett, "An introduction to ROC analysis", 2006, section 8)
    with a band of one standard deviation. One method is drawn in one picture, with its AUROC;
    several in a panel for each D_out.

    Args:
        results: One result, several, or those of each method by its name.
        positive: The positive class.

    Raises:
        AttractorError: If the results do not belong together or have no D_out, or ``positive`` is
            unknown.
    """
    figure = _figure(
        results,
        positive,
        _roc,
        _mean_roc,
        lambda rates: rates.auroc,
        name="AUROC",
        labels=("false positive rate ({wrong})", "true positive rate ({what})"),
    )
    for axes in figure.axes:
        if axes.axison:
            axes.plot([0, 1], [0, 1], color=REFERENCE_COLOUR, linewidth=0.6, zorder=0)
    return figure


def precision_recall_figure(results: Results, *, positive: Positive = "in") -> Figure:
    """Draw the precision-recall curve of D_in against each D_out, as `roc_figure`.

    As average precision takes it, without interpolation: the precision at a recall is that of the
    strictest threshold which reaches it. The legend gives the average precision (AUPR). The axis of
    precision begins below the lowest: flagging at random has the share of positives, not 0.

    Args:
        results: One result, several, or those of each method by its name.
        positive: The positive class.

    Raises:
        AttractorError: If the results do not belong together or have no D_out, or ``positive`` is
            unknown.
    """
    return _figure(
        results,
        positive,
        _precision_recall,
        _mean_precision,
        lambda rates: rates.aupr_in if positive == "in" else rates.aupr_out,
        name="average precision",
        labels=("recall ({what})", "precision"),
        drawstyle="steps-pre",
        from_lowest=True,
    )


def _figure(
    results: Results,
    positive: str,
    exact: Callable[[np.ndarray, np.ndarray], Points],
    on_grid: Callable[[list[Points]], tuple[np.ndarray, np.ndarray]],
    area: Callable[[DetectionMetrics], float],
    *,
    name: str,
    labels: tuple[str, str],
    drawstyle: str = "default",
    from_lowest: bool = False,
) -> Figure:
    if positive not in get_args(Positive):
        raise unknown_name("positive class", positive, get_args(Positive))

    def curves_of(seeds: Sequence[EvaluationResult]) -> dict[str, Curve]:
        curves = {}
        for i, scores in enumerate(seeds[0].out_scores):
            points = [exact(*_ranked(result, i, positive)) for result in seeds]
            if len(points) == 1:
                x, y = points[0][0], points[0][1][None]
            else:
                x, y = on_grid(points)
            areas = [area(result.rates(scores.name)) for result in seeds]
            label = f"{scores.name}, {stated(areas)}"
            curves[scores.name] = Curve(x, y, label)
        return curves

    xlabel, ylabel = (
        label.format(what=_WHAT[positive], wrong=_WRONG[positive]) for label in labels
    )
    methods = by_method(results)
    for method, seeds in methods.items():
        if not seeds[0].out_scores:
            raise AttractorError(f"results of {method} have no D_out; evaluate on at least one")
    known = " or ".join({seeds[0].in_scores.name: None for seeds in methods.values()})
    only = f"{next(iter(methods))}, {name}, " if len(methods) == 1 else ""
    figure = curve_figure(
        {method: curves_of(seeds) for method, seeds in methods.items()},
        title=f"{only}{known} against ...",
        xlabel=xlabel,
        ylabel=ylabel,
        height=2.6,
        panel_height=1.6,
        looks={"marker": "", "drawstyle": drawstyle},
    )
    lines = [line for axes in figure.axes for line in axes.lines]
    lowest = min(float(np.min(line.get_ydata())) for line in lines) if from_lowest else 0.0
    bottom = math.floor(10 * lowest) / 10
    for axes in figure.axes:
        axes.set(xlim=(-0.01, 1.01), ylim=(bottom - 0.01 * (1 - bottom), 1 + 0.02 * (1 - bottom)))
        axes.set_box_aspect(1)
    return figure


def _ranked(result: EvaluationResult, out: int, positive: str) -> Points:
    """Return whether images are positive, and how much they look it."""
    inside = result.in_scores.score(result.recursion, result.score)
    outside = result.out_scores[out].score(result.recursion, result.score)
    is_in = np.arange(len(inside) + len(outside)) < len(inside)
    scores = np.concatenate((inside, outside))
    return (is_in, -scores) if positive == "in" else (~is_in, scores)


def _roc(positive: np.ndarray, ranking: np.ndarray) -> Points:
    fpr, tpr, _ = roc_curve(positive, ranking)
    return fpr, tpr


def _mean_roc(points: list[Points]) -> tuple[np.ndarray, np.ndarray]:
    # Where a curve rises straight up, `interp` gives its top; its foot, (0, 0), is put before.
    rates = [np.r_[0, np.interp(_GRID, fpr, tpr)] for fpr, tpr in points]
    return np.r_[0, _GRID], np.stack(rates)


def _precision_recall(positive: np.ndarray, ranking: np.ndarray) -> Points:
    precision, recall, _ = precision_recall_curve(positive, ranking)
    return recall[::-1], precision[::-1]


def _mean_precision(points: list[Points]) -> tuple[np.ndarray, np.ndarray]:
    rates = [precision[np.searchsorted(recall, _GRID)] for recall, precision in points]
    return _GRID, np.stack(rates)
