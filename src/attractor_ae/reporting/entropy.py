"""Histograms of a score on known and unknown images: of the entropy, the paper's entropy plot."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from attractor_ae._errors import AttractorError
from attractor_ae.core.scores import OOD_SCORE
from attractor_ae.experiment.result import DatasetScores, EvaluationResult
from attractor_ae.metrics import checked_scores, wasserstein_reference
from attractor_ae.reporting import style
from attractor_ae.reporting.seeds import by_method, stated

_SMALLEST = 1e-6  # p-value that is drawn
_AXIS_LABELS = {
    "entropy": "uncertainty (normalised entropy)",
    OOD_SCORE: "p-value (1 - OOD score), smaller to the right",
}


def entropy_histogram(
    results: EvaluationResult | Sequence[EvaluationResult], *, reference: str | None = None
) -> Figure:
    """Draw histograms of the reported score on D_in (filled) and each D_out (outlines).

    The entropy plot of the paper, for any score in [0, 1], with 50 bins. The OOD score is drawn as
    -log10 of its p-value, with the square root of shares, so that both ends can be read. Bars
    show shares of the images of a data set, since data sets differ in size. Data sets under
    covariate shift are dotted grey. The title states the two sums of Wasserstein distances;
    ``reference`` is the D_out with which the others are compared, by default cifar10, photos, or
    the first. Several results are the seeds of one method: their images are pooled, and the sums
    have mean and standard deviation.

    Raises:
        AttractorError: If the results are not seeds of one method, the reference is not a D_out, or
            the score is outside [0, 1].
    """
    methods = by_method(results)
    if len(methods) > 1:
        raise AttractorError(
            f"this figure shows one method, but the results are of {', '.join(methods)}; "
            "draw one figure per method"
        )
    (seeds,) = methods.values()
    first = seeds[0]
    r, name = first.recursion, first.score

    of_p = name == OOD_SCORE

    def pooled(sets: Sequence[DatasetScores]) -> np.ndarray:
        values = np.concatenate([scores.score(r, name) for scores in sets])
        values = checked_scores(f"{name} of {sets[0].name}", values, bounded=True)
        return -np.log10(np.maximum(1 - values, _SMALLEST)) if of_p else values

    most = max(pooled([scores]).max() for result in seeds for scores in result.sets) if of_p else 1
    bins = np.linspace(0, max(most, 0.1), 51)
    with style.styled():
        figure = Figure(figsize=(style.COLUMN_WIDTH, 2.4))
        axes = figure.add_subplot()

        def draw(values: np.ndarray, **looks: object) -> None:
            axes.hist(values, bins=bins, weights=np.full(len(values), 1 / len(values)), **looks)  # type: ignore[arg-type]

        def outline(sets: Sequence[DatasetScores], note: str, **looks: Any) -> None:  # noqa: ANN401
            draw(pooled(sets), histtype="step", linewidth=1.2, **looks)
            handles.append(Line2D([], [], linewidth=1.2, label=f"{sets[0].name}{note}", **looks))

        known = f"{first.in_scores.name} (known)"
        handles: list[Artist] = [Patch(color=style.IN_COLOUR, label=known)]
        draw(pooled([result.in_scores for result in seeds]), color=style.IN_COLOUR)
        for i, sets in enumerate(zip(*(result.out_scores for result in seeds), strict=True)):
            outline(sets, "", color=style.look(i)["color"], linestyle=style.look(i)["linestyle"])
        for sets in zip(*(result.covariate_shift_scores for result in seeds), strict=True):
            outline(sets, " (shift)", color=style.SHIFT_COLOUR, linestyle=":")
        title = style.wrapped(f"{first.method}, recursion {r}", style.COLUMN_WIDTH - 0.6, 8)
        if len(seeds) > 1:
            title += f", {len(seeds)} seeds"
        # The sums measure the distances between the histograms.
        axes.set_title("\n".join([title, *_sums(seeds, reference)]), loc="left", fontsize=7)
        axes.set(
            xlim=(0, 1.005 * bins[-1]),  # so that an outline at the end is not cut
            xlabel=_AXIS_LABELS.get(name, name),
            ylabel="share of images",
        )
        if of_p:
            axes.set_yscale("function", functions=(lambda y: np.sqrt(np.maximum(y, 0)), np.square))
            axes.set_yticks([0.01, 0.1, 0.25, 0.5, 1], ["0.01", "0.1", "0.25", "0.5", "1"])
            powers = range(int(bins[-1] + 1e-9) + 1)
            axes.set_xticks(powers, [f"{10.0**-k:g}" for k in powers])
        style.legend_above(figure, handles)
    return figure


def _sums(seeds: Sequence[EvaluationResult], reference: str | None) -> list[str]:
    """Return the lines that state the sums of Wasserstein distances."""
    names = [scores.name for scores in seeds[0].out_scores]
    if not names:
        return []
    chosen = wasserstein_reference(names, reference)
    sums = [result.wasserstein(chosen) for result in seeds]
    lines = [r"$\Sigma$ Wasserstein, known to unknown: " + stated([s.in_to_out for s in sums], 2)]
    if len(names) > 1:
        said = style.wrapped(f"{chosen} to other unknown: ", style.COLUMN_WIDTH - 1.5, 7)
        lines.append(
            rf"$\Sigma$ Wasserstein, {said} " + stated([s.reference_to_out for s in sums], 2)
        )
    return lines
