"""Figures of reconstructions at each recursion."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from torch import Tensor

from attractor_ae._devices import pixels
from attractor_ae._errors import AttractorError
from attractor_ae.core.detector import AttractorDetector
from attractor_ae.core.dynamics import Trajectory
from attractor_ae.core.spaces import Features
from attractor_ae.data import ImageSet
from attractor_ae.reporting.style import PAGE_WIDTH, plain, styled, wrapped

_CELL = 0.42  # inches
_MARGIN = 0.3  # inches, left of a block
_TITLE_LINE = 0.13  # inches


@dataclass(frozen=True, eq=False)
class ReconstructionBlock:
    """An image (c, h, w) as a point, its trajectories (n = 1), one per trial, and a title."""

    image: Float[Tensor, "c h w"]
    trajectories: Sequence[Trajectory]
    title: str


def middle_blocks(
    detector: AttractorDetector, sets: Sequence[ImageSet], trials: int = 4
) -> list[ReconstructionBlock]:
    """Return a block for the middle image of each data set: a choice without inspection.

    There are none in the space of features, where reconstructions are not images.
    """
    if isinstance(detector.network.space, Features):
        return []
    middle = np.stack([images.images[len(images) // 2] for images in sets])
    trajectories = detector.trajectory(middle, trials=trials)
    inputs = detector.network.space.points(pixels(torch.from_numpy(middle), torch.device("cpu")))
    return [
        ReconstructionBlock(inputs[i], [t.image(i) for t in trajectories], images.name)
        for i, images in enumerate(sets)
    ]


def reconstruction_figure(blocks: Sequence[ReconstructionBlock], *, per_row: int = 1) -> Figure:
    """Draw the reconstructions of images, one block per image.

    In a block, rows are trials (masks), and columns are the input and x_1, x_2, x_3, ... Cells
    shrink so that a figure is at most as wide as a page.

    Raises:
        AttractorError: If there are no blocks, or one has no trajectory.
    """
    if not blocks or not all(block.trajectories for block in blocks):
        raise AttractorError("there is nothing to draw; give blocks with at least one trajectory")
    columns = 1 + max(len(block.trajectories[0].reconstructions) for block in blocks)
    trials = max(len(block.trajectories) for block in blocks)
    per_row = max(1, min(per_row, len(blocks)))
    rows = -(-len(blocks) // per_row)
    cell = min(_CELL, (PAGE_WIDTH / per_row - _MARGIN) / columns)
    width = cell * columns + _MARGIN
    titles = [plain(wrapped(block.title, width - 0.1, 8)) for block in blocks]
    lines = 1 + max(title.count("\n") for title in titles)
    # All titles have the same number of lines, so that the images of adjacent blocks align.
    titles = ["\n" * (lines - 1 - title.count("\n")) + title for title in titles]
    height = cell * trials + 0.3 + _TITLE_LINE * lines
    with styled():
        figure = Figure(figsize=(width * per_row, height * rows))
        layout = figure.get_layout_engine()
        assert isinstance(layout, ConstrainedLayoutEngine)  # set by the style
        layout.set(w_pad=0.015, h_pad=0.015, wspace=0, hspace=0)
        parts = figure.subfigures(rows, per_row, squeeze=False, hspace=0.03).flat
        for part, block, title in zip(parts, blocks, titles, strict=False):
            _draw_block(part, block, (trials, columns), title)
    return figure


def _draw_block(
    part: SubFigure, block: ReconstructionBlock, shape: tuple[int, int], title: str
) -> None:
    """Draw one image in a grid of (trials, 1 + recursions) cells, some of which may stay empty."""
    axes = part.subplots(*shape, squeeze=False)
    part.suptitle(title, fontsize=8)
    image = block.image.cpu().numpy()
    grid = [t.reconstructions[:, 0].cpu().numpy() for t in block.trajectories]
    for trial, row in enumerate(axes):
        for column, cell in enumerate(row):
            if trial >= len(grid) or column > len(grid[trial]):
                cell.set_axis_off()
                continue
            shown = image if column == 0 else grid[trial][column - 1]
            # (c, h, w) -> (h, w, c); values are clipped to [0, 1].
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
                cell.set_title(label, fontsize=7, pad=2)
        if trial < len(grid):
            row[0].set_ylabel(f"mask {trial + 1}", fontsize=6, labelpad=2)
