"""Map of the latent space in two dimensions: classes in colour, unknown images in grey."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike, NDArray

from attractor_ae._errors import AttractorError, optional_package
from attractor_ae.reporting import style

_COLOURS = (*style.OUT_COLOURS[:-1], style.IN_COLOUR, "#F0E442")  # black is for unknown images
_CLASS_MARKERS = ("o", "s", "^", "D", "v")
_OUT_MARKERS = ("x", "+", "1", "2", "3", "4")
_OUT_GREYS = ("0.0", "0.4")
_MOST_NAMED = 20  # classes that a legend has room for
_NEIGHBOURS = 30
_FEWEST = 5


def latent_map(
    codes: ArrayLike,
    labels: ArrayLike,
    classes: Sequence[str],
    out_codes: Mapping[str, ArrayLike] | None = None,
    *,
    title: str = "",
    seed: int = 0,
) -> Figure:
    """Draw latent codes in two dimensions by t-SNE, with those of D_outs on top.

    All codes, (n, latent) of one recursion, are embedded together, because an embedding of only the
    known codes could place unknown codes nowhere else. Neighbours in the figure are neighbours in
    the latent space; distances between groups have little meaning (van der Maaten and
    Hinton, "Visualizing data using t-SNE", 2008). The same codes and seed give the same figure.
    Codes with NaN, which have diverged, are omitted, and their number is stated. ``labels`` are
    indices into ``classes``.

    Raises:
        AttractorError: If openTSNE is not installed, or there are fewer than five codes.
    """
    index, outs = np.asarray(labels), out_codes or {}
    every = [np.asarray(found, dtype=np.float64) for found in (codes, *outs.values())]
    stays = [~np.isnan(found).any(1) for found in every]
    kept = [found[rows] for found, rows in zip(every, stays, strict=True)]
    lost = sum(int((~rows).sum()) for rows in stays)
    parts = np.split(_embedded(np.concatenate(kept), seed), np.cumsum([len(k) for k in kept])[:-1])
    heading = title + (f" (diverged, left out: {lost})" if lost else "")
    with style.styled():
        figure = Figure(figsize=(style.COLUMN_WIDTH, 3.1))
        axes = figure.add_subplot()
        handles: list[Artist] = []
        for label, name in enumerate(classes):
            points = parts[0][index[stays[0]] == label]
            if len(points):
                handles += axes.plot(*points.T, label=name, **_class_look(label))
        if len(handles) > _MOST_NAMED:
            further = f"… and {len(handles) - _MOST_NAMED} further classes"
            handles = [*handles[:_MOST_NAMED], Line2D([], [], linestyle="", label=further)]
        for i, (name, points) in enumerate(zip(outs, parts[1:], strict=True)):
            axes.plot(*points.T, label=name, **_out_look(i))
            handles.append(Line2D([], [], label=f"{name} (unknown)", **_out_look(i)))
        axes.set(xticks=[], yticks=[], aspect="equal", adjustable="datalim")
        axes.spines[:].set_visible(False)
        if heading:
            axes.set_title(style.plain(heading), loc="left")
        style.legend_above(figure, handles)
    return figure


def _embedded(codes: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Return codes of shape (n, latent) in two dimensions, (n, 2)."""
    tsne = optional_package("openTSNE", "latent", "the latent map")
    if len(codes) < _FEWEST:
        raise AttractorError(
            f"the latent map needs at least {_FEWEST} codes, got {len(codes)}; give more images"
        )
    embedding = tsne.TSNE(
        # At most a third of the codes can be neighbours.
        perplexity=min(_NEIGHBOURS, (len(codes) - 1) / 3),
        initialization="pca",
        neighbors="exact",  # approximate neighbours do not depend on the seed alone
        negative_gradient_method="bh",
        n_jobs=1,
        random_state=seed,
    )
    return np.asarray(embedding.fit(codes), dtype=np.float64)


def _class_look(label: int) -> dict[str, Any]:
    turn, place = divmod(label, len(_COLOURS))
    marker = _CLASS_MARKERS[(place + turn) % len(_CLASS_MARKERS)]
    sizes = {"markersize": 3, "markeredgewidth": 0, "linestyle": ""}
    return {"color": _COLOURS[place], "marker": marker, **sizes}


def _out_look(place: int) -> dict[str, Any]:
    marker = _OUT_MARKERS[(place + place // len(_OUT_MARKERS)) % len(_OUT_MARKERS)]
    sizes = {"markersize": 4, "markeredgewidth": 0.8, "linestyle": ""}
    return {"color": _OUT_GREYS[place % 2], "marker": marker, **sizes}
