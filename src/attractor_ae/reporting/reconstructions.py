"""Figures of reconstructions at each recursion."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from torch import Tensor

from attractor_ae._devices import pixels
from attractor_ae._errors import AttractorError
from attractor_ae._reporter import percent
from attractor_ae.core.detector import AttractorDetector
from attractor_ae.core.dynamics import Trajectory
from attractor_ae.core.spaces import Features
from attractor_ae.data import ImageSet
from attractor_ae.reporting.style import PAGE_WIDTH, plain, styled, wrapped

_CELL = 0.42  # inches
_MARGIN = 0.3  # inches, left of a block
_TITLE_LINE = 0.13  # inches
_CAPTION, _LETTERS = 0.17, 9  # inches of two lines below an image, and letters of one
_FIRST, _MOST = 3, 100  # recursions that are drawn, and until which a trajectory may settle
_STEADY = 1e-5  # length of the last step of a settled trajectory, as in `attractors.settle`


@dataclass(frozen=True, eq=False)
class ReconstructionBlock:
    """An image (c, h, w) as a point, its trajectories (n = 1), one per trial, and a title.

    ``captions``: two lines below each image, per trial. With them, the last reconstruction is that
    at which the trajectory has settled.
    """

    image: Float[Tensor, "c h w"]
    trajectories: Sequence[Trajectory]
    title: str
    captions: Sequence[Sequence[str]] = ()


def middle_blocks(
    detector: AttractorDetector, sets: Sequence[ImageSet], trials: int = 4
) -> list[ReconstructionBlock]:
    """Return a block for the middle image of each data set: a choice without inspection.

    It has the first recursions and the end of each trajectory, with the classes that the heads
    read from the codes. The known set is the first one, which names the classes. There are no
    blocks in the space of features, where reconstructions are not images.
    """
    if isinstance(detector.network.space, Features):
        return []
    middle = np.stack([images.images[len(images) // 2] for images in sets])
    names = [sets[0].classes[label] for label in detector.classes_.tolist()]
    last = detector.recursions
    paths = detector.trajectory(middle, max(last, _MOST), trials)
    inputs = detector.network.space.points(pixels(torch.from_numpy(middle), detector.device))
    likely = likely_classes(detector, [path.latents[:last] for path in paths])
    blocks = []
    for i, images in enumerate(sets):
        drawn, captions = [], []
        for trial, path in enumerate(paths):
            codes, steps = path.latents[:, [i]], path.reconstructions[:, [i]]
            x = torch.cat([inputs[[i]], steps[:, 0]]).flatten(1)
            steady = torch.nonzero(x.diff(dim=0).norm(dim=1) <= _STEADY * x[:2].norm(dim=1).max())
            end = int(steady[0]) if len(steady) else -1
            (_, at_end) = likely_classes(detector, [codes[[end] * last]])
            p, c = (values[: _FIRST + 1, trial, i].tolist() for values in likely)
            texts = [f"{names[k]}\n{percent(of_k)}" for k, of_k in zip(c, p, strict=True)]
            texts += ["\n"] * (1 + _FIRST - last)
            texts.append(f"{names[at_end[-1]]}\n" + (f"r = {end + 1}" if len(steady) else "moves"))
            drawn.append(Trajectory(codes, steps[[*range(_FIRST), end]]))
            captions.append(texts)
        blocks.append(ReconstructionBlock(inputs[i], drawn, images.name, captions))
    return blocks


def likely_classes(
    detector: AttractorDetector, codes: Sequence[Float[Tensor, "recursions n latent"]]
) -> tuple[Float[Tensor, "recursions trials n"], Int[Tensor, "recursions trials n"]]:
    """Return probability and index of the most likely class of each head, by trial."""
    z = torch.stack([of_trial.cpu() for of_trial in codes], dim=1)
    z = z.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    p = detector.head_.predict_proba(z.flatten(1, 2).to(detector.device), range(len(z))).cpu()
    return p.unflatten(1, z.shape[1:3]).max(-1)


def reconstruction_figure(blocks: Sequence[ReconstructionBlock], *, per_row: int = 1) -> Figure:
    """Draw the reconstructions of images, one block per image.

    In a block, rows are trials (masks), and columns are the input and x_1, x_2, x_3, ..., with
    captions also the end. Cells shrink so that a figure is at most as wide as a page.

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
    titles = [wrapped(block.title, width - 0.1, 8) for block in blocks]
    lines = 1 + max(title.count("\n") for title in titles)
    # All titles have the same number of lines, so that the images of adjacent blocks align.
    titles = ["\n" * (lines - 1 - title.count("\n")) + title for title in titles]
    below = _CAPTION if any(block.captions for block in blocks) else 0
    height = (cell + below) * trials + 0.3 + _TITLE_LINE * lines
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
            picture = np.clip(shown, 0, 1).transpose(1, 2, 0)  # (c, h, w) -> (h, w, c)
            cell.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            cell.set(xticks=[], yticks=[])
            cell.spines[:].set_visible(False)
            if trial == 0:
                label = "input" if column == 0 else f"$x_{{{column}}}$"
                if block.captions and column == len(grid[0]):
                    label = "end"
                cell.set_title(label, fontsize=7, pad=2)
            if block.captions:
                name, _, more = block.captions[trial][column].partition("\n")
                cell.set_xlabel(f"{plain(name)[:_LETTERS]}\n{more}", fontsize=5, labelpad=1.5)
        if trial < len(grid):
            row[0].set_ylabel(f"mask {trial + 1}", fontsize=6, labelpad=2)
