from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attractor_ae import AttractorError
from attractor_ae.reporting import accuracy_rejection_figure, rejection_curve, save_figure


def by_enumeration(uncertainty, correct):
    """Mean accuracy over every order in which the images may be rejected, taken literally."""
    n = len(uncertainty)
    allowed = [
        order
        for order in permutations(range(n))
        if all(uncertainty[a] <= uncertainty[b] for a, b in pairwise(order))
    ]
    return [
        np.mean([np.mean([correct[i] for i in order[: n - rejected]]) for order in allowed])
        for rejected in range(n)
    ]


@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.booleans()), min_size=1, max_size=6
    )
)
def test_the_curve_is_the_mean_over_every_allowed_order(pairs):
    u, correct = np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])
    rejected, kept = rejection_curve(u, correct)
    np.testing.assert_allclose(rejected, np.arange(len(u)) / len(u), atol=1e-12)
    np.testing.assert_allclose(kept, by_enumeration(u, correct), atol=1e-12)


@pytest.mark.parametrize("correct", [[True], [1, 0], [[True, False]]])
def test_the_curve_refuses_what_does_not_fit(correct):
    with pytest.raises(AttractorError, match="correct must be boolean of shape"):
        rejection_curve([0.1, 0.2], correct)


def judged(result, scores):
    u = scores.score(result.recursion)
    return u, scores.predicted(result.recursion) == scores.labels


def lines_of(figure):
    return {line.get_label(): line for line in figure.axes[0].lines}


def test_one_seed_with_its_oracle_and_chance(result):
    figure = accuracy_rejection_figure(result)
    u, correct = judged(result, result.in_scores)
    lines = lines_of(figure)
    order = np.argsort(u)
    expected = [correct[order[: 60 - k]].mean() for k in range(60)]
    (label,) = [name for name in lines if name.startswith("MC-AE")]
    np.testing.assert_allclose(lines[label].get_ydata(), expected)
    np.testing.assert_allclose(lines[label].get_xdata(), np.arange(60) / 60, atol=1e-12)
    assert label == f"MC-AE, area {np.mean(expected):.3f}"
    np.testing.assert_allclose(lines["random"].get_ydata(), correct.mean())
    oracle = [min(1, correct.sum() / (60 - k)) for k in range(60)]
    np.testing.assert_allclose(lines["oracle"].get_ydata(), oracle)
    assert not figure.axes[0].collections


def test_seeds_have_a_band_and_methods_a_line_each(seeds, methods, tmp_path):
    (axes,) = accuracy_rejection_figure(seeds).axes
    every = np.stack([rejection_curve(*judged(r, r.in_scores))[1] for r in seeds])
    np.testing.assert_allclose(axes.lines[-1].get_ydata(), every.mean(0))
    points = axes.collections[0].get_paths()[0].vertices
    at = points[np.isclose(points[:, 0], 0.5), 1]
    centre, spread = every.mean(0)[30], every.std(0)[30]
    np.testing.assert_allclose([at.min(), at.max()], [centre - spread, centre + spread])
    figure = accuracy_rejection_figure(methods)
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert [label.split(",")[0].split("\n")[0] for label in legend] == [
        "MC-AE",
        "MC dropout",
        "oracle",
        "random",
        "± deviation over seeds",
    ]
    assert all(path.stat().st_size > 1000 for path in save_figure(figure, tmp_path / "rejection"))
