"""The reliability diagram: accuracy against confidence."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from sklearn.calibration import calibration_curve

from attractor_ae.experiment.result import EvaluationResult
from attractor_ae.metrics import expected_calibration_error
from attractor_ae.reporting import style
from attractor_ae.reporting.panels import Curve, draw_curve
from attractor_ae.reporting.seeds import Results, by_method, labelled_scores, stated

_BINS = 10
_EDGES = np.linspace(0, 1, _BINS + 1)


def reliability_diagram(results: Results) -> Figure:
    """Draw accuracy against confidence, in bins of equal width, with the calibration error.

    The confidence is the probability of the predicted class at the reported recursion. The lower
    panel shows the share of images in each bin. Several results of a method are its seeds: the line
    is their mean in each bin, and the band one standard deviation, over seeds with images in it
    (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017). Images need labels.
    """
    methods = by_method(results)
    shown = next(iter(methods.values()))[0].in_scores.name
    with style.styled():
        figure = Figure(figsize=(style.COLUMN_WIDTH, 3.0))
        upper, lower = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": (3, 1)})
        upper.plot([0, 1], [0, 1], color=style.REFERENCE_COLOUR, linewidth=0.6, label="calibrated")
        handles = []
        for i, (name, seeds) in enumerate(methods.items()):
            looks = style.look(i)
            predictions = [_predictions(result) for result in seeds]
            errors = [expected_calibration_error(*given, bins=_BINS) for given in predictions]
            label = f"{name}, ECE {stated(errors)}"
            handles.append(draw_curve(upper, _binned(predictions, label), **looks))
            confidences = np.concatenate([confidence for confidence, _ in predictions])
            shares = np.full(len(confidences), 1 / len(confidences))
            lines = {"color": looks["color"], "linestyle": looks["linestyle"], "histtype": "step"}
            lower.hist(confidences, bins=_EDGES, weights=shares, **lines)  # type: ignore[arg-type]
        upper.set(xlim=(0, 1), ylim=(0, 1.02), ylabel=style.wrapped(f"accuracy, {shown}", 1.6, 8))
        lower.set(xlabel="confidence", ylabel="share")
        style.legend_above(figure, [*handles, upper.lines[0]], seeds=map(len, methods.values()))
    return figure


def _predictions(result: EvaluationResult) -> tuple[np.ndarray, np.ndarray]:
    """Return the confidence of each prediction, and whether it is correct."""
    scores = labelled_scores(result)
    p = scores.probabilities[result.recursion].astype(np.float64)
    # A float32 softmax can exceed 1 by its rounding.
    return np.minimum(p.max(-1), 1), scores.predicted(result.recursion) == scores.labels


def _binned(predictions: Sequence[tuple[np.ndarray, np.ndarray]], label: str) -> Curve:
    """Return accuracy against mean confidence, for bins that contain images of any seed."""
    table = np.full((2, len(predictions), _BINS), np.nan)
    for seed, (confidence, correct) in enumerate(predictions):
        filled = np.unique(np.searchsorted(_EDGES[1:-1], confidence))
        table[::-1, seed, filled] = calibration_curve(
            correct, confidence, n_bins=_BINS, pos_label=True
        )
    confidence, right = table[..., ~np.isnan(table[0]).all(0)]
    return Curve(np.nanmean(confidence, 0), right, label)
