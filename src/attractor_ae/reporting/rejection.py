"""The accuracy-rejection curve: accuracy after rejecting the most uncertain predictions."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from attractor_ae.experiment.result import EvaluationResult
from attractor_ae.metrics import accepted_errors, checked_correct, checked_scores
from attractor_ae.reporting.panels import Curve, draw_curve
from attractor_ae.reporting.seeds import Results, by_method, labelled_scores, stated
from attractor_ae.reporting.style import COLUMN_WIDTH, legend_above, look, styled, wrapped

_GRID = np.linspace(0, 1, 201)
_DASHES = {"oracle": (0, (4, 2)), "random": (0, (1, 1.5))}


def rejection_curve(
    uncertainty: ArrayLike, correct: ArrayLike
) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
    """Return the accuracy after rejecting the 0, 1, ..., n - 1 most uncertain predictions.

    For equally uncertain images, the accuracy is the mean over the orders of rejection (Nadeem,
    Zucker, Hanczar, "Accuracy-Rejection Curves (ARCs) for Comparing Classification Methods with a
    Reject Option", 2009). Arguments: finite uncertainties, and whether predictions
    are correct. Results: the rejected share, ascending from 0, and the accuracy of the remaining
    predictions.

    Raises:
        AttractorError: If shapes differ, or an uncertainty is not finite.

    Examples:
        >>> rejected, kept = rejection_curve([0.1, 0.2, 0.3, 0.4], [True, True, False, False])
        >>> rejected.tolist(), kept.round(2).tolist()
        ([0.0, 0.25, 0.5, 0.75], [0.5, 0.67, 1.0, 1.0])
    """
    u = checked_scores("uncertainty", uncertainty)
    right = checked_correct(correct, "uncertainty", u)
    kept = np.arange(1, len(u) + 1)
    accuracy = 1 - accepted_errors(u, right) / kept
    return (1 - kept / len(u))[::-1], accuracy[::-1]


def accuracy_rejection_figure(results: Results) -> Figure:
    """Draw the accuracy of the remaining predictions against the rejected share.

    The data set is D_in, the recursion the reported one, the score `EvaluationResult.error_score`.
    Thin lines in the colour of each method are its references: an oracle, which rejects all wrong
    predictions first, and random rejection. Several results of a method are its seeds: the line is
    their mean, and the band one standard deviation. The legend states the area under each curve.
    """
    methods = by_method(results)
    shown = next(iter(methods.values()))[0].in_scores.name
    with styled():
        figure = Figure(figsize=(COLUMN_WIDTH, 2.3))
        axes = figure.add_subplot()
        handles = []
        for i, (name, seeds) in enumerate(methods.items()):
            looks = {**look(i), "marker": ""}
            curve, *references = _curves(name, seeds)
            for reference in references:
                x, y, label = reference.x, reference.y.mean(0), reference.label
                thin = {"color": looks["color"], "linestyle": _DASHES[label], "linewidth": 0.7}
                axes.plot(x, y, label=label, **thin)
            handles.append(draw_curve(axes, curve, **looks))
        thin = {"color": "0.3", "linewidth": 0.7}
        handles += [Line2D([], [], label=n, linestyle=d, **thin) for n, d in _DASHES.items()]
        axes.set(
            xlim=(0, 1),
            xlabel="share rejected, most uncertain first",
            ylabel=wrapped(f"accuracy of the rest, {shown}", 2.1, 8),
        )
        low, high = axes.get_ylim()
        axes.set_ylim(low, min(high, 1.02))
        legend_above(figure, handles, seeds=map(len, methods.values()))
    return figure


def _curves(name: str, seeds: Sequence[EvaluationResult]) -> list[Curve]:
    """Return the curves of a method, of an oracle, and of random rejection."""
    own, oracle, chance = [], [], []
    for result in seeds:
        scores = labelled_scores(result)
        correct = scores.predicted(result.recursion) == scores.labels
        own.append(rejection_curve(scores.score(result.recursion, result.error_score), correct))
        oracle.append(rejection_curve(~correct, correct))
        chance.append(rejection_curve(np.zeros(len(correct)), correct))
    label = f"{name}, area {stated([float(kept.mean()) for _, kept in own])}"
    return [_curve(label, own), _curve("oracle", oracle), _curve("random", chance)]


def _curve(label: str, points: list[tuple[np.ndarray, np.ndarray]]) -> Curve:
    """Return the curves of several seeds at common rejected shares."""
    if all(np.array_equal(x, points[0][0]) for x, _ in points):
        return Curve(points[0][0], np.stack([y for _, y in points]), label)
    return Curve(_GRID, np.stack([np.interp(_GRID, x, y) for x, y in points]), label)
