"""AUROC and accuracy against the number of recursions, and against the number of trials."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from attractor_ae._errors import AttractorError
from attractor_ae.experiment.result import EvaluationResult
from attractor_ae.experiment.trial_curve import TrialCurve
from attractor_ae.reporting.panels import Curve, Curves, curve_figure
from attractor_ae.reporting.seeds import Results, by_method


def auroc_by_recursion(results: Results) -> Figure:
    """Draw AUROC against each D_out, and the accuracy on D_in, over the recursions.

    The curves of one method share a panel; with several methods there is a panel per data set.
    Several results of a method are its seeds: the line is their mean, and the band one standard
    deviation. A method that only has recursion 0 is a horizontal line.
    """
    methods = by_method(results)
    most = max(seeds[0].recursions for seeds in methods.values())
    curves = {name: _recursion_curves(seeds, most) for name, seeds in methods.items()}
    reported = {seeds[0].recursion for seeds in methods.values() if seeds[0].recursions > 1}
    return _figure(curves, "recursion", reported.pop() if len(reported) == 1 else None)


def auroc_by_trials(methods: Mapping[str, Sequence[TrialCurve]]) -> Figure:
    """Draw AUROC against each D_out, and the accuracy on D_in, over the number of trials.

    Methods, seeds and bands are drawn as in `auroc_by_recursion`.
    """
    return _figure({name: _trial_curves(name, found) for name, found in methods.items()}, "trials")


def _recursion_curves(seeds: Sequence[EvaluationResult], most: int) -> dict[str, Curve]:
    first = seeds[0]
    # A method that only has recursion 0 is a horizontal line.
    recursions = range(first.recursions) if first.recursions > 1 else [0] * most

    def over(rate: Callable[[EvaluationResult, int], float]) -> np.ndarray:
        return np.array([[rate(result, r) for r in recursions] for result in seeds])

    return _curves(
        np.arange(len(recursions), dtype=np.float64),
        {
            out.name: over(lambda result, r, name=out.name: result.rates(name, None, r).auroc)
            for out in first.out_scores
        },
        over(lambda result, r: result.accuracy(None, r)),
        first.in_scores.name,
    )


def _trial_curves(method: str, seeds: Sequence[TrialCurve]) -> dict[str, Curve]:
    first = seeds[0]
    shape = (first.in_dataset, first.out_datasets, len(first.accuracy))
    for other in seeds[1:]:
        if (other.in_dataset, other.out_datasets, len(other.accuracy)) != shape:
            raise AttractorError(
                f"curves of {method} differ in data sets or numbers of trials, so they are not "
                "seeds of one experiment; give each experiment a different name"
            )
    auroc = np.stack([curve.auroc for curve in seeds])  # (seeds, outs, trials)
    return _curves(
        np.arange(1, shape[2] + 1, dtype=np.float64),
        {name: auroc[:, i] for i, name in enumerate(first.out_datasets)},
        np.stack([curve.accuracy for curve in seeds]),
        first.in_dataset,
    )


def _curves(
    x: np.ndarray, auroc: Mapping[str, np.ndarray], right: np.ndarray, known: str
) -> dict[str, Curve]:
    """Return the curves of a method."""
    curves = {f"AUROC, {name}": Curve(x, y, f"AUROC, {name}") for name, y in auroc.items()}
    if not np.isnan(right).any():  # some images have a label
        curves[f"accuracy, {known}"] = Curve(x, right, f"accuracy, {known}", known=True)
    return curves


def _figure(curves: Curves, xlabel: str, reported: int | None = None) -> Figure:
    title = next(iter(curves)) if len(curves) == 1 else ""
    ylabel = "AUROC or accuracy"
    figure = curve_figure(
        curves, xlabel=xlabel, ylabel=ylabel, height=2.3, title=title, reported=reported
    )
    for axes in figure.axes:
        if axes.axison:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
            low, high = axes.get_ylim()
            axes.set_ylim(low, min(high, 1.02))
    return figure
