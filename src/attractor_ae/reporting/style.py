"""One look for all figures: readable in a paper's column, told apart by every kind of eye."""

from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from attractor_ae.storage import atomic_path

# Okabe and Ito's palette, which colour-blind readers can tell apart (jfly.uni-koeln.de/color).
IN_COLOUR = "#56B4E9"
OUT_COLOURS = ("#D55E00", "#009E73", "#CC79A7", "#0072B2", "#E69F00", "#000000")
SHIFT_COLOUR = "#7F7F7F"
OUT_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))

COLUMN_WIDTH = 3.5
"""Width of one column of a paper, in inches."""

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
    # Text stays text in a PDF, and is found by a search.
    "pdf.fonttype": 42,
}


def styled() -> Any:  # noqa: ANN401
    """Return the context in which figures are made and written."""
    return rc_context(STYLE)  # type: ignore[arg-type]


def save_figure(figure: Figure, path: str | Path) -> list[Path]:
    """Write a figure as PNG and PDF, atomically.

    Parameters
    ----------
    figure
        The figure.
    path
        Path without an ending.

    Returns
    -------
    list of Path
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
