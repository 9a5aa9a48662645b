"""Curves with a band over seeds; several methods are drawn in one panel per data set."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from attractor_ae.reporting import style
from attractor_ae.reporting.seeds import mean_and_deviation

_PER_ROW = 2
_KNOWN = {"color": style.IN_COLOUR, "linestyle": "-", "marker": "s"}


@dataclass(frozen=True, eq=False)
class Curve:
    """The curves of all seeds, and their label in the legend of a figure of one method.

    ``known``: whether the images are known, which have a separate colour.
    """

    x: Float[np.ndarray, " points"]
    y: Float[np.ndarray, "seeds points"]
    label: str
    known: bool = False


Curves = Mapping[str, Mapping[str, Curve]]
"""Method -> panel title -> curve."""


def draw_curve(axes: Axes, curve: Curve, **looks: Any) -> Line2D:  # noqa: ANN401
    """Draw the mean over seeds and, if there are several, a band of one standard deviation."""
    mean, deviation = mean_and_deviation(curve.y)
    (line,) = axes.plot(curve.x, mean, label=curve.label, **{"markersize": 3, **looks})
    if len(curve.y) > 1:
        step = "pre" if looks.get("drawstyle") == "steps-pre" else None
        band = {"color": looks["color"], "alpha": 0.2, "linewidth": 0, "step": step}
        axes.fill_between(curve.x, mean - deviation, mean + deviation, **band)
    return line


def curve_figure(
    curves: Curves,
    *,
    xlabel: str,
    ylabel: str,
    height: float,
    panel_height: float = 1.45,
    title: str = "",
    reported: int | None = None,
    looks: Mapping[str, Any] | None = None,
) -> Figure:
    """Draw the curves of one method in one panel, or of several in one panel per data set.

    Heights are in inches, without the legend. ``title`` is the title of the legend, ``reported`` a
    marked position on the horizontal axis; ``looks`` has further properties of the lines.
    """
    more = looks or {}
    names = list(dict.fromkeys(name for panels in curves.values() for name in panels))
    with style.styled():
        if len(curves) == 1:
            figure = Figure(figsize=(style.COLUMN_WIDTH, height))
            axes = figure.add_subplot()
            every = [axes]
            of_unknown = map(style.look, count())
            lines = [
                draw_curve(axes, curve, **{**(_KNOWN if curve.known else next(of_unknown)), **more})
                for curve in next(iter(curves.values())).values()
            ]
            axes.set(xlabel=xlabel, ylabel=ylabel)
        else:
            rows = -(-len(names) // _PER_ROW)
            figure = Figure(figsize=(style.COLUMN_WIDTH, panel_height * rows + 0.2))
            grid = figure.subplots(rows, _PER_ROW, sharex=True, sharey=True, squeeze=False)
            every, empty = list(grid.flat[: len(names)]), grid.flat[len(names) :]
            for axes in empty:
                axes.set_axis_off()
            for i, (axes, name) in enumerate(zip(every, names, strict=True)):
                for place, panels in enumerate(curves.values()):
                    if name in panels:
                        draw_curve(axes, panels[name], **{**style.look(place), **more})
                axes.set_title(style.wrapped(name, 1.4, 7), fontsize=7, loc="left")
                # Panels above an empty position need tick labels as well.
                axes.tick_params(labelbottom=i + _PER_ROW >= len(names))
            figure.supxlabel(xlabel, fontsize=8)
            figure.supylabel(ylabel, fontsize=8)
            lines = [
                Line2D([], [], label=name, **{"markersize": 3, **style.look(i), **more})
                for i, name in enumerate(curves)
            ]
        handles: list[Artist] = list(lines)
        if reported is not None:
            for axes in every:
                axes.axvline(reported, color=style.REFERENCE_COLOUR, linewidth=0.8, zorder=0)
            looks = {"marker": "|", "markersize": 8, "linestyle": ""}
            looks |= {"color": style.REFERENCE_COLOUR, "label": "reported"}
            handles.append(Line2D([], [], **looks))
        seeds = {len(curve.y) for panels in curves.values() for curve in panels.values()}
        style.legend_above(figure, handles, title=title, seeds=seeds)
    return figure
