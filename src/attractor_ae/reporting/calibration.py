"""The reliability diagram: whether predictions are right as often as they claim."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from sklearn.calibration import calibration_curve

from attractor_ae.experiment.result import EvaluationResult
from attractor_ae.metrics import expected_calibration_error
from attractor_ae.reporting.panels import band_entry
from attractor_ae.reporting.seeds import Results, by_method, stated
from attractor_ae.reporting.style import (
    COLUMN_WIDTH,
    REFERENCE_COLOUR,
    legend_above,
    look,
    plain,
    styled,
    wrapped,
)


def reliability_diagram(results: Results, *, bins: int = 10, dataset: str | None = None) -> Figure:
    """Draw accuracy against confidence, in bins of confidence, with the calibration error.

    The confidence is the probability of the predicted class at the reported recursion. Below
    stands how many images have which confidence. Several results of a method are seeds: a line is
    their mean in each bin, its band one standard deviation, of those seeds that have images in it
    (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017).

    Args:
        results: One result, several, or those of each method by its name.
        bins: Number of bins of equal width, at least 1.
        dataset: D_in, or the name of a shifted set.

    Raises:
        AttractorError: If the results do not belong together, or there is no such set of known
            classes.
    """
    methods = by_method(results)
    shown = next(iter(methods.values()))[0].known_scores(dataset).name
    edges = np.linspace(0, 1, bins + 1)
    with styled():
        figure = Figure(figsize=(COLUMN_WIDTH, 3.0))
        upper, lower = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": (3, 1)})
        upper.plot([0, 1], [0, 1], color=REFERENCE_COLOUR, linewidth=0.6, label="calibrated")
        handles: list[Artist] = []
        labels = []
        for i, (name, seeds) in enumerate(methods.items()):
            looks = look(i)
            predictions = [_predictions(result, dataset) for result in seeds]
            errors = [expected_calibration_error(*given, bins=bins) for given in predictions]
            label = f"{name}, ECE {stated(errors)}"
            handles.append(_draw(upper, _binned(predictions, edges), label, looks))
            labels.append(label)
            confidences = np.concatenate([confidence for confidence, _ in predictions])
            lower.hist(
                confidences,
                bins=edges,  # type: ignore[arg-type]
                weights=np.full(len(confidences), 1 / len(confidences)),
                histtype="step",
                color=looks["color"],
                linestyle=looks["linestyle"],
            )
        handles.append(upper.lines[0])
        labels.append("calibrated")
        if band := band_entry({len(seeds) for seeds in methods.values()}):
            handles.append(Patch(color="0.8", linewidth=0))
            labels.append(band)
        upper.set(xlim=(0, 1), ylim=(0, 1.02), ylabel=plain(wrapped(f"accuracy, {shown}", 1.6, 8)))
        lower.set(xlabel="confidence", ylabel="share")
        legend_above(figure, handles, labels)
    return figure


def _predictions(result: EvaluationResult, dataset: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Return how sure each prediction is, and whether it is right."""
    scores = result.known_scores(dataset)
    p = scores.probabilities[result.recursion].astype(np.float64)
    # A float32 softmax can exceed 1 by its rounding.
    return np.minimum(p.max(-1), 1), scores.predicted(result.recursion) == scores.labels


def _binned(
    predictions: Sequence[tuple[np.ndarray, np.ndarray]], edges: np.ndarray
) -> np.ma.MaskedArray:
    """Return mean confidence and accuracy of (seeds, 2, bins); bins without images are masked."""
    table = np.ma.masked_all((len(predictions), 2, len(edges) - 1))
    for seed, (confidence, correct) in enumerate(predictions):
        filled = np.unique(np.searchsorted(edges[1:-1], confidence))
        share_right, mean_confidence = calibration_curve(
            correct, confidence, n_bins=len(edges) - 1, pos_label=True
        )
        table[seed, 0, filled], table[seed, 1, filled] = mean_confidence, share_right
    return table


def _draw(axes: Axes, table: np.ma.MaskedArray, label: str, looks: dict[str, Any]) -> Line2D:
    """Draw the mean over the seeds of each bin that has images, and the band of its deviation."""
    (confidence, right), deviation = table.mean(0), table[:, 1].std(0)
    (line,) = axes.plot(confidence, right, label=label, markersize=3, **looks)
    if len(table) > 1:
        axes.fill_between(
            confidence,
            right - deviation,
            right + deviation,
            color=looks["color"],
            alpha=0.2,
            linewidth=0,
        )
    return line
