"""Figures of attractors: catalogue, slice of image space, latent field, animation."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from rich import box
from rich.table import Table

from attractor_ae._files import atomic_path
from attractor_ae.reporting.style import (
    COLUMN_WIDTH,
    IN_COLOUR,
    OUT_COLOURS,
    plain,
    styled,
    wrapped,
)

Pictures = NDArray[np.uint8]
"""Images, uint8 (n, height, width) or (n, height, width, 3)."""

FIGURES = {
    "catalogue.png": "Attractors with the largest basins, above the nearest training images",
    "slice.png": "A plane of image space, coloured by the attractor at which its images end",
    "latent-field.png": "The latent vector field, with codes and attractors",
    "iterations.gif": "Images of each set, iterating",
}
"""Figures that `attractor_ae.deploy.attractors.find_attractors` writes."""

_COLOURS = (*OUT_COLOURS[:-1], IN_COLOUR, "#F0E442")
_OTHERS, _NOWHERE = "#BBBBBB", "#FFFFFF"
_MOST = 10  # attractors of a mask that are drawn
_CELL = 0.58  # inches
_COLUMN = 7  # attractors below each other
_LEVELS = 64  # grey levels of an animation: half the bytes of 256
_MILLISECONDS = 400  # per frame


def attractor_sheet(
    rows: Sequence[tuple[str, Pictures, Sequence[str], Pictures | None]], heading: str
) -> Figure:
    """Draw the attractors with the largest basins of each mask, above their nearest images.

    ``rows``: name of the mask, pictures, captions, and their nearest training images or None.
    """
    lines = []
    for name, pictures, captions, nearest in rows:
        lines.append((name, pictures, captions))
        if nearest is not None:
            lines.append(("nearest\ntraining image", nearest, [""] * len(nearest)))
    with styled():
        figure = Figure(figsize=(_CELL * _MOST + 0.85, 0.3 + (_CELL + 0.14) * len(lines)))
        heading = wrapped(heading, figure.get_figwidth() - 0.2, 8)
        figure.suptitle(heading, x=0.02, ha="left", fontsize=8)
        cells = figure.subplots(len(lines), _MOST, squeeze=False)
        for axes, (label, pictures, captions) in zip(cells, lines, strict=True):
            axes[0].set_ylabel(plain(label), rotation=0, ha="right", va="center", fontsize=6)
            for cell in axes:
                _show(cell, None)
            for cell, picture, caption in zip(axes, pictures, captions, strict=False):
                _show(cell, picture)
                cell.set_title(plain(caption), fontsize=5.5, pad=2)
    return figure


def slice_figure(
    landed: NDArray[np.int64],
    at: NDArray[np.float64],
    corners: Sequence[tuple[str, NDArray[np.uint8]]],
    attractors: Pictures,
    heading: str,
) -> Figure:
    """Draw a plane of image space, coloured by the attractor at which its images end.

    Args:
        landed: Attractor of each grid point, (side, side), or -1 (white).
        at: Coordinates of the grid, (side,), of `attractor_ae.attractors.plane`.
        corners: The three images that span the plane, at (0, 0), (1, 0) and (0, 1), with names.
        attractors: Pictures of the attractors, by index, largest basin first.
        heading: Title of the figure.
    """
    palette = ListedColormap([_NOWHERE, *_COLOURS, _OTHERS])
    half = (at[1] - at[0]) / 2
    reach = (at[0] - half, at[-1] + half)
    with styled():
        figure = Figure(figsize=(COLUMN_WIDTH + 1.1, COLUMN_WIDTH + 0.1))
        grid = figure.add_gridspec(_COLUMN, 9)
        axes = figure.add_subplot(grid[:, :-2])
        shown = np.minimum(landed, len(_COLOURS)) + 1
        axes.imshow(shown, palette, vmin=0, vmax=palette.N - 1, origin="lower", extent=reach * 2)
        axes.set(xticks=[], yticks=[])
        axes.set_title(plain(heading), loc="left", fontsize=8)
        for (x, y), (name, picture) in zip(((0, 0), (1, 0), (0, 1)), corners, strict=True):
            box = (x - 0.07, y - 0.07, 0.14, 0.14)
            _show(axes.inset_axes(box, transform=axes.transData), picture)
            axes.text(x, y - 0.09, plain(name), ha="center", va="top", fontsize=6)
        for i, (colour, picture) in enumerate(zip(_COLOURS, attractors, strict=False)):
            cell = figure.add_subplot(grid[i % _COLUMN, 7 + i // _COLUMN])
            _show(cell, picture)
            cell.set_box_aspect(1)
            cell.spines[:].set(visible=True, color=colour, linewidth=2)
    return figure


def field_figure(
    at: NDArray[np.float64],
    field: NDArray[np.float64],
    codes: NDArray[np.floating],
    fixed: NDArray[np.floating],
    heading: str,
) -> Figure:
    """Draw the latent vector field as streams, coloured by its length, with codes and attractors.

    Args:
        at, field: Of `attractor_ae.attractors.latent_field`.
        codes: Codes in the plane, (m, 2): dots.
        fixed: Codes of attractors, projected on the plane, (k, 2): crosses.
        heading: Title of the figure.
    """
    speed = np.hypot(*field)
    with styled():
        figure = Figure(figsize=(COLUMN_WIDTH, COLUMN_WIDTH))
        axes = figure.add_subplot()
        lines = axes.streamplot(
            *at, *field, color=speed, cmap="viridis", linewidth=0.7, arrowsize=0.6, density=1.3
        ).lines
        axes.plot(*codes.T, "o", color="0.55", markersize=1.5, markeredgewidth=0, label="codes")
        axes.plot(
            *fixed.T, "X", color="#D55E00", markersize=6, markeredgecolor="w", label="attractors"
        )
        axes.set(xlim=at[0][[0, -1]], ylim=at[1][[0, -1]])
        axes.set(xlabel="first principal component", ylabel="second principal component")
        axes.set_title(plain(heading), loc="left")
        figure.colorbar(lines, ax=axes, label="length of V(z) in the plane", shrink=0.8)
        figure.legend(loc="outside lower center", ncols=2)
    return figure


def write_animation(
    path: Path, names: Sequence[str], frames: Sequence[Pictures], steps: Sequence[int]
) -> None:
    """Write a GIF of images that iterate next to each other, atomically.

    ``names``: of the sets, one per row; ``frames``: pictures at each of ``steps``, row by row.
    """
    font = ImageFont.load_default(size=11)
    names = [plain(name).replace(r"\$", "$") for name in names]  # the font has no emoji
    cell = max(64, frames[0].shape[1])
    left, top = 14 + max(int(font.getlength(name)) for name in names), 18
    columns = len(frames[0]) // len(names)
    size = (left + columns * (cell + 2), top + len(names) * (cell + 2))
    drawn = []
    for step, pictures in zip(steps, frames, strict=True):
        frame = Image.new("RGB", size, "white")
        pen = ImageDraw.Draw(frame)
        pen.text((left, 2), f"recursion {step}", fill="black", font=font)
        for row, name in enumerate(names):
            pen.text((4, top + row * (cell + 2) + cell // 2 - 7), name, fill="black", font=font)
        for i, picture in enumerate(pictures):
            place = (left + i % columns * (cell + 2), top + i // columns * (cell + 2))
            frame.paste(Image.fromarray(picture).resize((cell, cell)), place)
        drawn.append(frame.quantize(_LEVELS))
    lasting = [_MILLISECONDS] * (len(drawn) - 1) + [4 * _MILLISECONDS]
    more = {"save_all": True, "append_images": drawn[1:], "duration": lasting, "loop": 0}
    with atomic_path(path) as temporary:
        drawn[0].save(temporary, format="GIF", **more)


def attractor_rows(found: Mapping[str, Any]) -> tuple[str, tuple[str, ...], list[list[str]]]:
    """Return caption, heads and rows of a table: where each set of starts ends under each mask.

    ``found``: the numbers of `attractor_ae.deploy.attractors.find_attractors`.
    """
    rows = []
    for mask, entry in found["masks"].items():
        for name, part in entry["sets"].items():
            first = f"{mask} ({entry['number']})" if name == next(iter(entry["sets"])) else ""
            settle = _percent(part["fixed_point"] + part["cycle"])
            steps = "" if part["median_steps"] is None else f"{part['median_steps']:.0f}"
            ends = [_percent(part["ends_on_class"][key]) for key in ("own", "other", "none")]
            if not part.get("labelled", 1):
                ends[0] = ""
            rows.append([first, name, settle, steps, *ends])
    heads = ("mask", "starts", "settle", "steps", "own class", "other class", "no class")
    return "Where images end (percent; attractors in brackets)", heads, rows


def memorised(found: Mapping[str, Any]) -> str:
    """Return one line on the training or known images that are attractors, or ""."""
    shares = [e["memorised"] for e in found["masks"].values() if "memorised" in e]
    said = ", ".join(map(_percent, shares))
    name = found.get("compared_with", "training")
    return f"{name}: images that are attractors, by mask: {said} %" if shares else ""


def attractor_table(found: Mapping[str, Any]) -> Table:
    """Return the numbers of `attractor_rows` as a table for the terminal."""
    title, heads, rows = attractor_rows(found)
    table = Table(title=title, caption=memorised(found), box=box.SIMPLE_HEAD)
    for head in heads:
        table.add_column(head, justify="left" if head in ("mask", "starts") else "right")
    for row in rows:
        table.add_row(*row)
    return table


def _percent(share: float) -> str:
    return f"{100 * share:.0f}"


def _show(axes: Axes, picture: NDArray[np.uint8] | None) -> None:
    if picture is not None:
        axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="auto")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
