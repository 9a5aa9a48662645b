"""One look for all figures: readable in a paper's column and with any colour vision."""

import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.patches import Patch

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

_LETTER = 0.62  # font sizes, of a letter on average
_LONGEST_LINE = 50  # letters that fit into a legend of one column
_MOST_COLUMNS = 4

STYLE: dict[str, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 250,
    # Text stays text in a PDF, and is found by a search.
    "pdf.fonttype": 42,
}


def styled() -> Any:  # noqa: ANN401
    """Return the context in which figures are made and written."""
    return rc_context(STYLE)  # type: ignore[arg-type]


def save_figure(figure: Figure, path: str | Path) -> list[Path]:
    """Write a figure as PNG and PDF, atomically; ``path`` has no ending. Return both files."""
    png, pdf = (Path(path).with_name(Path(path).name + ending) for ending in (".png", ".pdf"))
    with styled():
        with atomic_path(png) as temporary:
            figure.savefig(temporary, format="png")
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


def wrapped(text: str, width: float | int, size: float | int) -> str:
    """Return text in lines of about ``width`` inches, in a font of ``size`` points."""
    letters = max(1, int(72 * width / (_LETTER * size)))
    return "\n".join(textwrap.wrap(" ".join(text.split()), letters)) or text


def legend_above(
    figure: Figure,
    handles: Sequence[Artist],
    labels: Sequence[str],
    *,
    title: str = "",
    seeds: Iterable[int] = (),
) -> None:
    """Put a legend above everything that is drawn, and make the figure as much higher.

    In as many columns as fit side by side; long labels are broken. ``seeds``: the numbers of seeds
    of the curves, for an entry that explains their bands.
    """
    if (numbers := set(seeds)) - {1}:
        one = f"± deviation, {max(numbers)} seeds"
        handles = [*handles, Patch(color="0.8", linewidth=0)]
        labels = [*labels, one if len(numbers) == 1 else "± deviation over seeds"]
    columns = min(len(labels), _MOST_COLUMNS)
    letters = _LONGEST_LINE
    while True:
        lines = ["\n".join(textwrap.wrap(label, letters)) for label in labels]
        legend = figure.legend(
            handles,
            # Matplotlib leaves out what begins with an underscore.
            [plain(f" {line}" if line.startswith("_") else line) for line in lines],
            title=plain(textwrap.fill(title, letters)) or None,
            title_fontsize=STYLE["legend.fontsize"],
            alignment="left",
            loc="outside upper left",
            ncols=columns,
            columnspacing=1.2,
            handlelength=2.4,
            borderpad=0.4,
            borderaxespad=0.2,
        )
        box = legend.get_window_extent()
        if box.width <= figure.bbox.width or letters < 10:
            break
        legend.remove()
        columns, letters = (columns - 1, letters) if columns > 1 else (1, letters - 5)
    figure.set_figheight(figure.get_figheight() + box.height / figure.dpi + 0.06)
