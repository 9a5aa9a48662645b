"""ROC and precision-recall curves of D_in, the positive class, against D_outs."""

import math
from collections.abc import Callable

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

from attractor_ae._errors import AttractorError
from attractor_ae.experiment.result import EvaluationResult
from attractor_ae.reporting.panels import Curve, curve_figure
from attractor_ae.reporting.seeds import Results, by_method, stated
from attractor_ae.reporting.style import REFERENCE_COLOUR

_GRID = np.linspace(0, 1, 201)


def roc_figure(results: Results) -> Figure:
    """Draw the ROC curve of D_in against each D_out, at the reported recursion and score.

    The curve of one seed is exact. For several seeds, the mean true positive rate at each false
    positive rate is drawn (vertical averaging; Fawcett, "An introduction to ROC analysis", 2006,
    section 8) with a band of one standard deviation. The curves of one method share a panel; with
    several methods there is a panel per D_out. The legend states the AUROC.
    """
    labels = "false positive rate (unknown accepted)", "true positive rate (known accepted)"
    figure = _figure(results, _roc, "auroc", "AUROC", labels)
    for axes in figure.axes:
        if axes.axison:
            axes.plot([0, 1], [0, 1], color=REFERENCE_COLOUR, linewidth=0.6, zorder=0)
    return figure


def precision_recall_figure(results: Results) -> Figure:
    """Draw the precision-recall curve of D_in against each D_out; arguments as for `roc_figure`.

    There is no interpolation, as in average precision: the precision at a recall is that of the
    strictest threshold that reaches this recall. The legend states the average precision (AUPR).
    The vertical axis begins just below the lowest precision, since a random score has the share
    of positives as its precision, not 0.
    """
    labels, name = ("recall (known accepted)", "precision"), "average precision"
    figure = _figure(results, _precision_recall, "aupr_in", name, labels, drawstyle="steps-pre")
    lowest = min(np.min(line.get_ydata()) for axes in figure.axes for line in axes.lines)
    bottom = min(0.9, math.floor(10 * float(lowest)) / 10)
    for axes in figure.axes:
        axes.set_ylim(bottom - 0.01 * (1 - bottom), 1 + 0.02 * (1 - bottom))
    return figure


Ranked = tuple[np.ndarray, np.ndarray]
"""Whether each image is positive, and a score that is larger for positives."""


def _figure(
    results: Results,
    points: Callable[[list[Ranked]], tuple[np.ndarray, np.ndarray]],
    rate: str,
    name: str,
    labels: tuple[str, str],
    drawstyle: str = "default",
) -> Figure:
    methods = by_method(results)
    curves: dict[str, dict[str, Curve]] = {}
    for method, seeds in methods.items():
        if not seeds[0].out_scores:
            raise AttractorError(f"results of {method} have no D_out; evaluate on at least one")
        curves[method] = {}
        for i, scores in enumerate(seeds[0].out_scores):
            x, y = points([_ranked(result, i) for result in seeds])
            areas = [getattr(result.rates(scores.name), rate) for result in seeds]
            curves[method][scores.name] = Curve(x, y, f"{scores.name}, {stated(areas)}")
    known = " or ".join({seeds[0].in_scores.name: None for seeds in methods.values()})
    only = f"{next(iter(methods))}, {name}, " if len(methods) == 1 else ""
    figure = curve_figure(
        curves,
        title=f"{only}{known} against ...",
        xlabel=labels[0],
        ylabel=labels[1],
        height=2.6,
        panel_height=1.6,
        looks={"marker": "", "drawstyle": drawstyle},
    )
    for axes in figure.axes:
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02))
        axes.set_box_aspect(1)
    return figure


def _ranked(result: EvaluationResult, out: int) -> Ranked:
    inside = result.in_scores.score(result.recursion, result.score)
    outside = result.out_scores[out].score(result.recursion, result.score)
    is_in = np.arange(len(inside) + len(outside)) < len(inside)
    return is_in, -np.concatenate((inside, outside))


def _roc(ranked: list[Ranked]) -> tuple[np.ndarray, np.ndarray]:
    points = [roc_curve(*one)[:2] for one in ranked]
    if len(points) == 1:
        return points[0][0], points[0][1][None]
    # On vertical segments `interp` returns the upper end; prepend the start (0, 0).
    return np.r_[0, _GRID], np.stack([np.r_[0, np.interp(_GRID, *rates)] for rates in points])


def _precision_recall(ranked: list[Ranked]) -> tuple[np.ndarray, np.ndarray]:
    curves = (precision_recall_curve(*one) for one in ranked)
    points = [(recall[::-1], precision[::-1]) for precision, recall, _ in curves]
    if len(points) == 1:
        return points[0][0], points[0][1][None]
    return _GRID, np.stack(
        [precision[np.searchsorted(recall, _GRID)] for recall, precision in points]
    )
