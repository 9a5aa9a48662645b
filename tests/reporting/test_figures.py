import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.patches import Polygon, Rectangle
from scipy.stats import wasserstein_distance
from sklearn.metrics import roc_auc_score

from attractor_ae import EvaluationResult
from attractor_ae.dynamics import Trajectory
from attractor_ae.evaluation import DatasetScores
from attractor_ae.reporting import (
    auroc_by_recursion,
    entropy_histogram,
    reconstruction_figure,
    save_figure,
)
from attractor_ae.reporting.style import IN_COLOUR


def scores(name, role, concentration, n, seed):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(4, concentration), size=(3, n)).astype(np.float32)
    labels = rng.integers(0, 4, n) if role != "out" else np.full(n, -1)
    return DatasetScores(name, "test", role, labels, p)


@pytest.fixture(scope="module")
def result():
    return EvaluationResult(
        "MC-AE",
        tuple("abcd"),
        1,
        scores("known", "in", 0.1, 60, 0),
        (scores("shifted", "shift", 0.3, 50, 1),),
        (scores("one", "out", 1.0, 40, 2), scores("two", "out", 5.0, 30, 3)),
    )


def test_the_histogram_is_numpys_with_fifty_bins_as_shares(result):
    figure = entropy_histogram(result)
    (axes,) = figure.axes
    bars = [p for p in axes.patches if isinstance(p, Rectangle)]
    assert len(bars) == 50
    assert {to_hex(bar.get_facecolor()) for bar in bars} == {IN_COLOUR.lower()}
    u = result.in_scores.uncertainty(1)
    expected = np.histogram(u, bins=50, range=(0, 1))[0] / len(u)
    np.testing.assert_allclose([bar.get_height() for bar in bars], expected)
    outlines = [p for p in axes.patches if isinstance(p, Polygon)]
    assert len(outlines) == 3
    assert not any(outline.get_fill() for outline in outlines)


def test_the_histogram_says_the_sum_of_wasserstein_distances(result):
    u = result.in_scores.uncertainty(1)
    total = sum(wasserstein_distance(u, s.uncertainty(1)) for s in result.out_scores)
    title = entropy_histogram(result).axes[0].get_title(loc="left")
    assert f"{total:.2f}" in title
    labels = [t.get_text() for t in entropy_histogram(result).axes[0].get_legend().get_texts()]
    assert labels == ["known (known)", "one", "two", "shifted (shift)"]


def test_a_result_without_unknown_sets_is_drawn(result):
    alone = EvaluationResult("MC-AE", result.classes, 1, result.in_scores)
    assert "Wasserstein" not in entropy_histogram(alone).axes[0].get_title(loc="left")


def test_auroc_by_recursion_draws_scikit_learns_values(result):
    lines = {line.get_label(): line for line in auroc_by_recursion(result).axes[0].lines}
    u = [result.in_scores.uncertainty(r) for r in range(3)]
    for out in result.out_scores:
        expected = [
            roc_auc_score([0] * 60 + [1] * len(out.labels), np.r_[u[r], out.uncertainty(r)])
            for r in range(3)
        ]
        np.testing.assert_allclose(lines[f"AUROC, {out.name}"].get_ydata(), expected)
    right = [
        (result.in_scores.probabilities[r].argmax(-1) == result.in_scores.labels).mean()
        for r in range(3)
    ]
    np.testing.assert_allclose(lines["accuracy, known"].get_ydata(), right)


def test_reconstructions_stand_in_rows_of_masks_and_columns_of_recursions():
    images = torch.rand(2, 1, 8, 8)
    trajectories = [Trajectory(torch.zeros(3, 2, 4), torch.rand(3, 2, 1, 8, 8)) for _ in range(5)]
    figure = reconstruction_figure(images, trajectories, ["left", "right"], per_row=2)
    blocks = figure.subfigs
    assert [block.get_suptitle() for block in blocks] == ["left", "right"]
    for i, block in enumerate(blocks):
        cells = np.array(block.axes).reshape(5, 4)
        for trial in range(5):
            shown = [cell.images[0].get_array().squeeze() for cell in cells[trial]]
            np.testing.assert_allclose(shown[0], images[i, 0], rtol=1e-6)
            for r in range(3):
                expected = trajectories[trial].reconstructions[r, i, 0]
                np.testing.assert_allclose(shown[1 + r], expected, rtol=1e-6)


def test_colour_images_and_values_outside_the_range_are_shown():
    trajectory = Trajectory(torch.zeros(1, 1, 4), torch.full((1, 1, 3, 8, 8), 7.0))
    figure = reconstruction_figure(torch.rand(1, 3, 8, 8), [trajectory], ["colour"])
    shown = figure.subfigs[0].axes[1].images[0].get_array()
    assert shown.shape == (8, 8, 3)
    assert (shown == 1).all()


def test_figures_are_written_as_png_and_pdf_the_same_each_time(result, tmp_path):
    first = [p.read_bytes() for p in save_figure(entropy_histogram(result), tmp_path / "a.b")]
    again = [p.read_bytes() for p in save_figure(entropy_histogram(result), tmp_path / "a.b")]
    assert first == again
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.b.pdf", "a.b.png"]
