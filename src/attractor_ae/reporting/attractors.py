"""Figures of attractors: catalogue, slice of image space, latent field, animation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from rich import box
from rich.table import Table

from attractor_ae._files import atomic_path
from attractor_ae.reporting.style import COLUMN_WIDTH, IN_COLOUR, OUT_COLOURS, plain, styled

Pictures = NDArray[np.uint8]
"""Images, uint8 (n, height, width) or (n, height, width, 3)."""

_COLOURS = (*OUT_COLOURS[:-1], IN_COLOUR, "#F0E442")
_OTHERS, _NOWHERE = "#BBBBBB", "#FFFFFF"
_MOST = 10  # attractors of a mask that are drawn
_CELL = 0.58  # inches
_LEVELS = 64  # grey levels of an animation: half the bytes of 256
_MILLISECONDS = 400  # per frame


@dataclass(frozen=True, eq=False)
class CatalogueRow:
    """The attractors of one mask: pictures, captions, and their nearest training images or None."""

    title: str
    pictures: Pictures
    captions: Sequence[str]
    nearest: Pictures | None


def attractor_sheet(rows: Sequence[CatalogueRow], heading: str) -> Figure:
    """Draw the attractors with the largest basins of each mask, above their nearest images."""
    columns = max(1, *(min(_MOST, len(row.captions)) for row in rows))
    lines = 1 + any(row.nearest is not None for row in rows)
    margin, top = 0.75, 0.26
    width = max(margin + _CELL * columns + 0.1, 0.058 * len(heading))
    block = _CELL * lines + 0.3
    height = top + block * len(rows)
    with styled():
        figure = Figure(figsize=(width, height))
        figure.set_layout_engine("none")
        figure.text(0.08 / width, 1 - 0.06 / height, plain(heading), va="top", fontsize=8)
        for i, row in enumerate(rows):
            for line, shown in enumerate((row.pictures, row.nearest)[:lines]):
                bottom = height - top - block * i - 0.2 - _CELL * (line + 1)
                label = f"{row.title}" if line == 0 else "nearest\ntraining image"
                at = ((margin - 0.06) / width, (bottom + _CELL / 2) / height)
                figure.text(*at, plain(label), ha="right", va="center", fontsize=6 - line)
                if shown is None:
                    continue
                for column in range(min(_MOST, len(row.captions))):
                    place = (margin + _CELL * column, bottom + 0.02, _CELL - 0.04, _CELL - 0.04)
                    axes = figure.add_axes(np.divide(place, (width, height) * 2))  # type: ignore[arg-type]
                    _show(axes, shown[column])
                    if line == 0:
                        axes.set_title(plain(row.captions[column]), fontsize=5.5, pad=2)
    return figure


def slice_figure(
    landed: NDArray[np.int64],
    at: NDArray[np.float64],
    corners: Pictures,
    names: Sequence[str],
    attractors: Pictures,
    heading: str,
) -> Figure:
    """Draw a plane of image space, coloured by the attractor that its images end on.

    Args:
        landed: Attractor of each grid point, (side, side), or -1 (white).
        at: Coordinates of the grid, (side,), of `attractor_ae.attractors.plane`.
        corners: The three images that span the plane, at (0, 0), (1, 0) and (0, 1).
        names: Their names.
        attractors: Pictures of the attractors, by index.
        heading: Title of the figure.
    """
    order = np.bincount(landed[landed >= 0], minlength=len(attractors)).argsort()[::-1]
    order = order[: min(len(_COLOURS), int((np.bincount(landed[landed >= 0]) > 0).sum()))]
    colour = np.full(len(attractors) + 1, 1)  # others; the last one is for -1
    colour[order], colour[-1] = np.arange(len(order)) + 2, 0
    palette = ListedColormap([_NOWHERE, _OTHERS, *_COLOURS])
    step = at[1] - at[0]
    low, high = at[0] - step / 2, at[-1] + step / 2
    with styled():
        figure = Figure(figsize=(COLUMN_WIDTH + 1.1, COLUMN_WIDTH + 0.1))
        figure.set_layout_engine("none")
        width, height = figure.get_size_inches()
        axes = figure.add_axes((0.08, 0.06, 3.1 / width, 3.1 / height))
        axes.imshow(
            colour[landed],
            cmap=palette,
            vmin=0,
            vmax=len(_COLOURS) + 1,
            origin="lower",
            extent=(low, high, low, high),
            interpolation="nearest",
        )
        size = 0.14
        for (x, y), picture, name in zip(((0, 0), (1, 0), (0, 1)), corners, names, strict=True):
            inset = axes.inset_axes(
                (x - size / 2, y - size / 2, size, size), transform=axes.transData
            )
            _show(inset, picture)
            axes.text(x, y - 0.09, plain(name), ha="center", va="top", fontsize=6)
        axes.set(xticks=[], yticks=[])
        axes.set_title(plain(heading), loc="left", fontsize=8)
        for place, index in enumerate(order):
            row, column = place % 7, place // 7
            at_cell = (3.6 + 0.52 * column, 2.75 - 0.44 * row, 0.38, 0.38)
            cell = figure.add_axes(np.divide(at_cell, (width, height) * 2))  # type: ignore[arg-type]
            _show(cell, attractors[index])
            cell.spines[:].set(visible=True, color=_COLOURS[place], linewidth=2)
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
    path: Path, rows: Mapping[str, Sequence[Pictures]], steps: Sequence[int]
) -> None:
    """Write a GIF of images that iterate next to each other, atomically.

    ``rows``: for each set of images, the pictures (n, ...) at each of ``steps``.
    """
    font = ImageFont.load_default(size=11)
    cell = max(64, next(iter(rows.values()))[0].shape[1])
    left, top = 14 + max(int(font.getlength(name)) for name in rows), 18
    columns = max(len(frames[0]) for frames in rows.values())
    size = (left + columns * (cell + 2), top + len(rows) * (cell + 2))
    frames = []
    for i, step in enumerate(steps):
        frame = Image.new("RGB", size, "white")
        pen = ImageDraw.Draw(frame)
        pen.text((left, 2), f"recursion {step}", fill="black", font=font)
        for row, (name, pictures) in enumerate(rows.items()):
            y = top + row * (cell + 2)
            pen.text((4, y + cell // 2 - 7), name, fill="black", font=font)
            for column, picture in enumerate(pictures[i]):
                shown = Image.fromarray(picture).resize((cell, cell))
                frame.paste(shown, (left + column * (cell + 2), y))
        frames.append(frame.quantize(_LEVELS))
    with atomic_path(path) as temporary:
        frames[0].save(
            temporary,
            format="GIF",
            save_all=True,
            append_images=frames[1:],
            duration=[_MILLISECONDS] * (len(frames) - 1) + [4 * _MILLISECONDS],
            loop=0,
        )


def attractor_table(found: Mapping[str, Any]) -> Table:
    """Return where each set of starts ends under each mask, as a table for the terminal.

    ``found``: the numbers of `attractor_ae.deploy.attractors.find_attractors`.
    """
    table = Table(title="where images end (percent; attractors in brackets)", box=box.SIMPLE_HEAD)
    for head in ("mask", "starts", "settle", "steps", "own class", "other", "none"):
        table.add_column(head, justify="left" if head in ("mask", "starts") else "right")
    for mask, entry in found["masks"].items():
        first = f"{mask} ({entry['number']})"
        for name, part in entry["sets"].items():
            settle = _percent(part["fixed_point"] + part["cycle"])
            steps = "" if part["median_steps"] is None else f"{part['median_steps']:.0f}"
            ends = (_percent(part["ends_on_class"][key]) for key in ("own", "other", "none"))
            table.add_row(first, name, settle, steps, *ends)
            first = ""
    shares = [e["memorised"] for e in found["masks"].values() if "memorised" in e]
    if shares:
        said = ", ".join(map(_percent, shares))
        table.caption = f"training images that are attractors, by mask: {said} %"
    return table


def _percent(share: float) -> str:
    return f"{100 * share:.0f}"


def _show(axes, picture: NDArray[np.uint8]) -> None:  # noqa: ANN001  Axes, of any figure
    axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="auto")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
