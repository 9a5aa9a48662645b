"""One look for all figures: readable in a paper's column, told apart by every kind of eye."""

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from attractor_ae._files import atomic_path

# Okabe and Ito's palette, which colour-blind readers can tell apart (jfly.uni-koeln.de/color).
IN_COLOUR = "#56B4E9"
OUT_COLOURS = ("#D55E00", "#009E73", "#CC79A7", "#0072B2", "#E69F00", "#000000")
SHIFT_COLOUR = "#7F7F7F"
OUT_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))
MARKERS = ("o", "^", "D", "v", "P", "X")
REFERENCE_COLOUR = "#7F7F7F"

COLUMN_WIDTH = 3.5
"""Width of one column of a paper, in inches."""
PAGE_WIDTH = 7.16
"""Width of both columns of a paper with the gap between them, in inches."""

_LEGEND_SIZE = 7  # points
_LEGEND_LINE = 0.142  # inches from one row of a legend to the next
_HANDLE = 0.42  # inches of a legend that an entry takes beside its text
_MOST_COLUMNS = 4

STYLE: dict[str, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": _LEGEND_SIZE,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "figure.constrained_layout.use": True,
    # Text stays text in a PDF, and is found by a search.
    "pdf.fonttype": 42,
}


def styled() -> Any:  # noqa: ANN401
    """Return the context in which figures are made and written."""
    return rc_context(STYLE)  # type: ignore[arg-type]


def save_figure(figure: Figure, path: str | Path) -> list[Path]:
    """Write a figure as PNG and PDF, atomically.

    Args:
        figure: The figure.
        path: Path without an ending.

    Returns:
        The two files.
    """
    png, pdf = (Path(path).with_name(Path(path).name + ending) for ending in (".png", ".pdf"))
    with styled():
        with atomic_path(png) as temporary:
            figure.savefig(temporary, format="png", dpi=250)
        with atomic_path(pdf) as temporary:
            # Without its date the same figure is the same file.
            figure.savefig(temporary, format="pdf", metadata={"CreationDate": None})
    return [png, pdf]


def look(index: int) -> dict[str, Any]:
    """Return colour, dashes and marker of the ``index``-th curve; no two of 36 are alike.

    Every second curve more than there are colours shifts the dashes, so that neither alone has to
    tell curves apart.
    """
    turn, place = divmod(index, len(OUT_COLOURS))
    return {
        "color": OUT_COLOURS[place],
        "linestyle": OUT_DASHES[(place + turn) % len(OUT_DASHES)],
        "marker": MARKERS[(place + turn) % len(MARKERS)],
    }


def plain(name: str) -> str:
    """Return a name as matplotlib shows it letter by letter: as text, not as mathematics."""
    return name.replace("$", r"\$")


def text_width(text: str, size: float | int) -> float:
    """Return how wide a line of plain text is, in inches, at a font size in points."""
    return size / 72 * sum(map(_advance, text))


@lru_cache(maxsize=4096)
def _advance(letter: str) -> float:
    """Return how far a letter moves the next one, in font sizes."""
    # Between bars, since a path knows where its ink is alone, and a space has none.
    between, without = (
        TextPath((0, 0), text, size=100, prop=FontProperties()).get_extents().width
        for text in (f"|{plain(letter)}|", "||")
    )
    return float(between - without) / 100


def wrapped(text: str, width: float | int, size: float | int) -> str:
    """Return text in lines of at most ``width`` inches.

    Lines end after spaces, hyphens, underscores, slashes or commas, and elsewhere only where a
    piece is wider than a line.
    """
    lines = [""]
    for piece in re.findall(r"[^\s\-_/,]*[\s\-_/,]?", text):
        if text_width(lines[-1] + piece, size) <= width:
            lines[-1] += piece
            continue
        for letter in piece if text_width(piece, size) > width else [piece]:
            if text_width(lines[-1] + letter, size) <= width or not lines[-1]:
                lines[-1] += letter
            else:
                lines.append(letter)
    return "\n".join(line.rstrip() for line in lines)


def legend_above(
    figure: Figure, handles: Sequence[Artist], labels: Sequence[str], *, title: str = ""
) -> None:
    """Put a legend above everything that is drawn, and make the figure as much higher.

    In the number of columns that takes the fewest lines; long labels are broken.
    """
    room = figure.get_figwidth() - 0.1
    layouts = []
    for columns in range(1, min(len(labels), _MOST_COLUMNS) + 1):
        shown = [wrapped(label, room / columns - _HANDLE, _LEGEND_SIZE) for label in labels]
        filled = np.array_split([label.count("\n") + 1 for label in shown], columns)
        layouts.append((max(int(column.sum()) for column in filled), columns, shown))
    lines, columns, shown = min(layouts)
    heading = wrapped(title, room, _LEGEND_SIZE)
    lines += heading.count("\n") + 1 if title else 0
    figure.set_figheight(figure.get_figheight() + _LEGEND_LINE * lines + 0.12)
    figure.legend(
        handles,
        # Matplotlib leaves out what begins with an underscore.
        [plain(f" {label}" if label.startswith("_") else label) for label in shown],
        title=plain(heading) or None,
        title_fontsize=_LEGEND_SIZE,
        alignment="left",
        loc="outside upper left",
        ncols=columns,
        columnspacing=1.2,
        handlelength=2.4,
        handletextpad=0.6,
        labelspacing=0.35,
        borderpad=0.4,
        borderaxespad=0.2,
    )
