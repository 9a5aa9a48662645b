"""Style of all figures: readable in one column of a paper and with colour blindness."""

import re
import textwrap
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib import rc_context, rc_params_from_file
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
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
"""Width of a page, that is two columns and the gap, in inches."""

_MORE_FONTS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "Droid Sans Fallback"),
    *("PingFang SC", "Hiragino Sans GB", "Microsoft YaHei"),
)
_EMOJI = re.compile("[\U0001f000-\U0001faff]")
_MODIFIERS = re.compile("[\u200d\ufe0f\U0001f3fb-\U0001f3ff]")

_LETTER = 0.62  # average width of a letter, in font sizes
_LONGEST_LINE = 50  # number of letters that fit into a one-column legend
_MOST_COLUMNS = 4

STYLE = rc_params_from_file(
    Path(__file__).with_name("figures.mplstyle"), use_default_template=False
)


@contextmanager
def styled() -> Iterator[None]:
    """Enter the context in which figures are created and saved.

    Names in Chinese are drawn with a font that has them, or as boxes if none is installed, which
    is not worth a warning per letter.
    """
    family = ["DejaVu Sans", *sorted(set(_MORE_FONTS) & set(fontManager.get_font_names()))]
    with rc_context({**STYLE, "font.family": family}), warnings.catch_warnings():  # type: ignore[arg-type]
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        yield


def save_figure(figure: Figure, path: str | Path) -> list[Path]:
    """Save a figure as PNG and PDF, atomically, and return both files; ``path`` has no suffix."""
    png, pdf = (Path(path).with_name(Path(path).name + ending) for ending in (".png", ".pdf"))
    with styled():
        with atomic_path(png) as temporary:
            figure.savefig(temporary, format="png")
        with atomic_path(pdf) as temporary:
            # Without a date, equal figures give identical files.
            figure.savefig(temporary, format="pdf", metadata={"CreationDate": None})
    return [png, pdf]


def look(index: int) -> dict[str, Any]:
    """Return colour, dashes and marker of the ``index``-th curve; 36 combinations are distinct.

    Dashes and markers differ along with colours, and shift by one each time the colours repeat.
    """
    turn, place = divmod(index, len(OUT_COLOURS))
    return {
        "color": OUT_COLOURS[place],
        "linestyle": OUT_DASHES[(place + turn) % len(OUT_DASHES)],
        "marker": MARKERS[(place + turn) % len(MARKERS)],
    }


def plain(name: str) -> str:
    """Escape a name so that matplotlib does not parse it as mathematics; spell out emoji."""

    def spelled(found: re.Match[str]) -> str:
        return f"[{unicodedata.name(found[0], '').lower() or f'U+{ord(found[0]):X}'}]"

    return _EMOJI.sub(spelled, _MODIFIERS.sub("", name)).replace("$", r"\$")


def wrapped(text: str, width: float | int, size: float | int) -> str:
    """Wrap plain text to lines of about ``width`` inches in a font of ``size`` points."""
    letters = max(1, int(72 * width / (_LETTER * size)))
    return plain("\n".join(textwrap.wrap(" ".join(text.split()), letters)) or text)


def legend_above(
    figure: Figure, handles: Sequence[Artist], *, title: str = "", seeds: Iterable[int] = ()
) -> None:
    """Place a legend above the panels and increase the height of the figure accordingly.

    The legend has as many columns as fit; the labels of the handles are wrapped if they are long.
    ``seeds`` are the numbers of seeds of the curves, for an entry that explains the bands.
    """
    if (numbers := set(seeds)) - {1}:
        over = f", {max(numbers)} seeds" if len(numbers) == 1 else " over seeds"
        handles = [*handles, Patch(color="0.8", linewidth=0, label=f"± deviation{over}")]
    columns = min(len(handles), _MOST_COLUMNS)
    letters = _LONGEST_LINE
    while True:
        lines = [textwrap.fill(str(handle.get_label()), letters) for handle in handles]
        legend = figure.legend(
            handles,
            # Matplotlib omits labels that begin with an underscore.
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
