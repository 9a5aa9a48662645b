"""The figures: entropy histogram, reconstructions under several masks, AUROC against recursion."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from attractor_ae.dynamics import Trajectory
from attractor_ae.evaluation import EvaluationResult
from attractor_ae.metrics import wasserstein_sums
from attractor_ae.reporting.style import (
    COLUMN_WIDTH,
    IN_COLOUR,
    OUT_COLOURS,
    OUT_DASHES,
    SHIFT_COLOUR,
    styled,
)

_BINS = np.linspace(0, 1, 51)
_AXIS_LABELS = {
    "entropy": "uncertainty (normalised entropy)",
    "fused": "uncertainty (fused score: share of known images below)",
}


def entropy_histogram(result: EvaluationResult, recursion: int | None = None) -> Figure:
    """Draw how the reported score is distributed on D_in (filled) and each D_out (outlines).

    PROTOCOL section 8, "Entropy plot", for whatever score: 50 bins on [0, 1]. Bars show shares of
    a set's images, since sets differ in size. Shifted sets are drawn dotted in grey.

    Parameters
    ----------
    result
        What to draw.
    recursion
        The reported one by default.
    """
    r = result.recursion if recursion is None else recursion
    known = result.in_scores
    with styled():
        figure = Figure(figsize=(COLUMN_WIDTH, 2.7))
        axes = figure.add_subplot()

        def draw(values: np.ndarray, **look: object) -> None:
            axes.hist(values, bins=_BINS, weights=np.full(len(values), 1 / len(values)), **look)  # type: ignore[arg-type]

        draw(known.uncertainty(r, result.score), color=IN_COLOUR, label=f"{known.name} (known)")
        for i, scores in enumerate(result.out_scores):
            look = {
                "color": OUT_COLOURS[i % len(OUT_COLOURS)],
                "linestyle": OUT_DASHES[i % len(OUT_DASHES)],
            }
            draw(
                scores.uncertainty(r, result.score),
                histtype="step",
                linewidth=1.2,
                label=scores.name,
                **look,
            )
        for scores in result.shift_scores:
            draw(
                scores.uncertainty(r, result.score),
                histtype="step",
                color=SHIFT_COLOUR,
                linestyle=":",
                label=f"{scores.name} (shift)",
            )
        title = f"{result.method}, recursion {r}"
        outs = {s.name: s.uncertainty(r, result.score) for s in result.out_scores}
        if outs:
            # The sum belongs to the picture: it says how far apart the histograms are.
            sums = wasserstein_sums(known.uncertainty(r, result.score), outs)
            title += f"; $\\Sigma$ Wasserstein to unknown: {sums.in_to_out:.2f}"
        axes.set_title(title, loc="left")
        axes.set(
            xlim=(0, 1),
            xlabel=_AXIS_LABELS.get(result.score, f"uncertainty ({result.score})"),
            ylabel="share of images",
        )
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.12), ncols=3, columnspacing=1.2)
    return figure


def auroc_by_recursion(result: EvaluationResult) -> Figure:
    """Draw AUROC against each D_out, and the accuracy on D_in, over the recursions."""
    recursions = range(result.recursions)
    score = result.score
    with styled():
        figure = Figure(figsize=(COLUMN_WIDTH, 2.4))
        axes = figure.add_subplot()
        for i, scores in enumerate(result.out_scores):
            values = [result.detection(score, r)[scores.name].auroc for r in recursions]
            axes.plot(
                recursions,
                values,
                color=OUT_COLOURS[i % len(OUT_COLOURS)],
                linestyle=OUT_DASHES[i % len(OUT_DASHES)],
                marker="o",
                markersize=3,
                label=f"AUROC, {scores.name}",
            )
        right = [
            float((result.in_scores.predicted(r) == result.in_scores.labels).mean())
            for r in recursions
        ]
        axes.plot(
            recursions,
            right,
            color=IN_COLOUR,
            marker="s",
            markersize=3,
            label=f"accuracy, {result.in_scores.name}",
        )
        axes.axvline(result.recursion, color="0.85", linewidth=4, zorder=0)
        axes.annotate(
            "reported",
            (result.recursion, 0.02),
            xycoords=("data", "axes fraction"),
            ha="center",
            color="0.45",
            fontsize=6,
        )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        low, high = axes.get_ylim()
        axes.set(
            xlabel="recursion", ylabel="AUROC or accuracy", ylim=(low - 0.05, min(high, 1.005))
        )
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        figure.set_size_inches(COLUMN_WIDTH + 1.5, 2.4)
    return figure


def reconstruction_figure(
    images: Float[Tensor, "n c h w"],
    trajectories: Sequence[Trajectory],
    names: Sequence[str],
    *,
    per_row: int = 1,
) -> Figure:
    """Draw what several dynamical systems make of images (PROTOCOL section 8).

    A block an image; in it rows are trials (masks), and columns the input and x_1, x_2, x_3, ...

    Parameters
    ----------
    images
        The inputs, in [0, 1].
    trajectories
        One a trial, each of the ``images``.
    names
        What to write above the block of each image.
    per_row
        Number of blocks beside each other.
    """
    recursions = len(trajectories[0].reconstructions)
    cell = 0.42
    width = cell * (recursions + 1) + 0.35
    height = cell * len(trajectories) + 0.42
    rows = -(-len(images) // per_row)
    with styled():
        figure = Figure(figsize=(width * per_row, height * rows))
        layout = figure.get_layout_engine()
        assert isinstance(layout, ConstrainedLayoutEngine)  # what the style asks for
        layout.set(w_pad=0.015, h_pad=0.015, wspace=0, hspace=0)
        blocks = figure.subfigures(rows, per_row, squeeze=False).flat
        for i, (block, name) in enumerate(zip(blocks, names, strict=False)):
            grid = np.stack([t.reconstructions[:, i].cpu().numpy() for t in trajectories])
            _draw_block(block, images[i].cpu().numpy(), grid, name)
    return figure


def _draw_block(block: SubFigure, image: np.ndarray, grid: np.ndarray, name: str) -> None:
    """Draw one image's grid of shape (trials, recursions, channels, height, width)."""
    trials, recursions = grid.shape[:2]
    axes = block.subplots(trials, recursions + 1, squeeze=False)
    block.suptitle(name, fontsize=8)
    for trial in range(trials):
        for column in range(recursions + 1):
            shown = image if column == 0 else grid[trial, column - 1]
            cell = axes[trial, column]
            # (c, h, w) -> (h, w, c); what is outside [0, 1] is shown at the bound.
            cell.imshow(
                np.clip(shown, 0, 1).transpose(1, 2, 0),
                cmap="gray",
                vmin=0,
                vmax=1,
                interpolation="nearest",
            )
            cell.set(xticks=[], yticks=[])
            for spine in cell.spines.values():
                spine.set_visible(False)
            if trial == 0:
                label = "input" if column == 0 else f"$x_{{{column}}}$"
                cell.set_title(label, fontsize=6, pad=2)
        axes[trial, 0].set_ylabel(f"mask {trial + 1}", fontsize=5, labelpad=2)
