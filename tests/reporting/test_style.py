import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb

from attractor_ae import ImageSet
from attractor_ae.reporting import (
    accuracy_rejection_figure,
    auroc_by_recursion,
    contact_sheet,
    entropy_histogram,
    precision_recall_figure,
    reliability_diagram,
    roc_figure,
    save_figure,
)
from attractor_ae.reporting.style import COLUMN_WIDTH, OUT_COLOURS, look, plain, wrapped

LONG = "sviro_uncertainty, test-adults-and-seats-and-objects, of $my$ own car"


@pytest.mark.parametrize(
    "draw",
    [
        accuracy_rejection_figure,
        auroc_by_recursion,
        entropy_histogram,
        precision_recall_figure,
        reliability_diagram,
        roc_figure,
    ],
)
@pytest.mark.parametrize(
    ("outs", "count"), [(("one", "two"), 1), ((LONG, "$x^", "_b", *"cdefgh"), 2)]
)
def test_figures_fit_a_column_and_legends_cover_no_data(make_result, draw, outs, count):
    results = [make_result(seed, outs=outs) for seed in range(count)]
    several = [*results, make_result(2, LONG, outs=outs)]
    for given_results in [results] if draw is entropy_histogram else [results, several]:
        figure = draw(given_results)
        assert figure.get_figwidth() == COLUMN_WIDTH
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        whole = figure.bbox
        legend = figure.legends[0].get_window_extent()
        assert whole.x0 <= legend.x0 < legend.x1 <= whole.x1
        assert whole.y0 <= legend.y0 < legend.y1 <= whole.y1
        for axes in figure.axes:
            box = axes.get_tightbbox()
            if axes.axison:
                assert not legend.overlaps(box)
                assert whole.x0 - 1 <= box.x0 < box.x1 <= whole.x1 + 1
                assert whole.y0 - 1 <= box.y0 < box.y1 <= whole.y1 + 1
                # Not squeezed by its legend.
                assert axes.get_window_extent().height > 0.35 * figure.dpi
        for one, other in zip(figure.axes, figure.axes[1:], strict=False):
            assert not one.get_tightbbox().overlaps(other.get_tightbbox()) or not other.axison
        for text in figure.legends[0].get_texts():
            assert text.get_fontsize() >= 7


def test_more_curves_than_colours_are_told_apart():
    looks = [tuple(look(i).values()) for i in range(36)]
    assert len(set(looks)) == 36
    # Also in print without colour, six at a time.
    assert len({dashes for _, dashes, _ in looks[:6]}) == 6
    assert len({marker for *_, marker in looks[:6]}) == 6


# Viénot, Brettel and Mollon, "Digital video colourmaps for checking the legibility of displays by
# dichromats", 1999: linear RGB as a protanope and a deuteranope see it.
DICHROMATS = {
    "protan": [[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]],
    "deutan": [[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]],
}


@pytest.mark.parametrize("kind", DICHROMATS)
def test_the_colours_are_told_apart_by_dichromats(kind):
    seen = np.array([to_rgb(c) for c in OUT_COLOURS]) ** 2.2 @ np.array(DICHROMATS[kind]).T
    seen = seen.clip(0, 1) ** (1 / 2.2)
    distances = np.linalg.norm(seen[:, None] - seen[None], axis=-1)
    assert distances[np.triu_indices(len(seen), 1)].min() > 0.12


@given(st.text(st.characters(codec="latin-1", exclude_categories=["C"]), max_size=60))
def test_wrapping_keeps_every_letter(text):
    lines = wrapped(text, 0.6, 7).replace(r"\$", "$").split("\n")
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert max(map(len, lines)) <= 0.6 * 72 / (0.5 * 7) or not text.strip()


def test_dollars_are_letters():
    assert plain("$x$") == r"\$x\$"


def test_emoji_are_spelled_out():
    assert plain("\U0001f408 and \U0001f44d\U0001f3fd") == "[cat] and [thumbs up sign]"
    assert plain("\u2764\ufe0f") == "\u2764"  # a letter of the usual font
    assert plain("\U0001faff") == "[U+1FAFF]"  # not assigned


def test_names_that_no_font_has_are_drawn_without_a_warning(tmp_path):
    """Warnings are errors in the tests."""
    images = np.zeros((2, 1, 64, 64), np.uint8)
    named = ImageSet(
        "\U0001f529", "train", images, np.array([0, 1]), ("\u87ba\u4e1d", "\U0001fae8")
    )
    assert save_figure(contact_sheet(named), tmp_path / "sheet")[0].stat().st_size > 1000
