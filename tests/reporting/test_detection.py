import dataclasses

import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from attractor_ae import AttractorError
from attractor_ae.reporting import precision_recall_figure, roc_figure, save_figure


def ranked(result, out):
    """Truth and ranking, as scikit-learn takes them."""
    inside, outside = result.in_scores.score(1), result.out_scores[out].score(1)
    is_out = np.r_[np.zeros(len(inside), bool), np.ones(len(outside), bool)]
    u = np.r_[inside, outside]
    return ~is_out, -u


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_roc_curve_of_one_seed_is_scikit_learns(result):
    figure = roc_figure(result)
    for i, line in enumerate(figure.axes[0].lines[:2]):
        fpr, tpr, _ = roc_curve(*ranked(result, i))
        np.testing.assert_array_equal(line.get_xdata(), fpr)
        np.testing.assert_array_equal(line.get_ydata(), tpr)
        assert f", {roc_auc_score(*ranked(result, i)):.3f}" in legend(figure)[i]
    assert not figure.axes[0].collections


def test_the_precision_recall_curve_of_one_seed_is_scikit_learns(result):
    figure = precision_recall_figure(result)
    for i, line in enumerate(figure.axes[0].lines):
        precision, recall, _ = precision_recall_curve(*ranked(result, i))
        np.testing.assert_array_equal(line.get_xdata(), recall[::-1])
        np.testing.assert_array_equal(line.get_ydata(), precision[::-1])
        area = average_precision_score(*ranked(result, i))
        assert f", {area:.3f}" in legend(figure)[i]
        # Drawn as steps whose area is the average precision.
        assert line.get_drawstyle() == "steps-pre"
        steps = np.sum(np.diff(line.get_xdata()) * line.get_ydata()[1:])
        assert steps == pytest.approx(area)


def test_the_axis_of_precision_shows_all_of_the_curves_and_little_else(result):
    figure = precision_recall_figure(result)
    bottom, top = figure.axes[0].get_ylim()
    lowest = min(line.get_ydata().min() for line in figure.axes[0].lines)
    assert lowest - 0.12 < bottom < lowest
    assert 1 < top < 1.03


def test_roc_curves_of_seeds_are_averaged_at_each_false_positive_rate(seeds):
    figure = roc_figure(seeds)
    line = figure.axes[0].lines[0]
    areas = [roc_auc_score(*ranked(result, 0)) for result in seeds]
    # The area under the mean curve is the mean area, but for the grid.
    assert np.trapezoid(line.get_ydata(), line.get_xdata()) == pytest.approx(
        np.mean(areas), abs=0.005
    )
    at = 100  # FPR 0.5 - and one, for the foot
    x = line.get_xdata()[at]
    rates = []
    for result in seeds:
        fpr, tpr, _ = roc_curve(*ranked(result, 0), drop_intermediate=False)
        rates.append(np.interp(x, fpr, tpr))
    assert line.get_ydata()[at] == pytest.approx(np.mean(rates))
    band = figure.axes[0].collections[0].get_paths()[0].vertices
    ends = np.unique(band[np.isclose(band[:, 0], x), 1])
    np.testing.assert_allclose(
        [ends.min(), ends.max()], np.mean(rates) + np.array([-1, 1]) * np.std(rates)
    )
    assert f", {np.mean(areas):.3f} ± {np.std(areas):.3f}" in legend(figure)[0]
    assert (line.get_xdata()[0], line.get_ydata()[0]) == (0, 0)


def test_precision_of_seeds_is_averaged_at_each_recall(seeds):
    line = precision_recall_figure(seeds).axes[0].lines[1]
    for at in (20, 100, 200):
        recall_wanted = line.get_xdata()[at]
        found = []
        for result in seeds:
            truth, ranking = ranked(result, 1)
            # The strictest threshold that accepts enough of D_in.
            for threshold in sorted(set(ranking), reverse=True):
                accepted = ranking >= threshold
                if truth[accepted].sum() / truth.sum() >= recall_wanted:
                    found.append(truth[accepted].mean())
                    break
        assert line.get_ydata()[at] == pytest.approx(np.mean(found))


def test_methods_have_a_panel_for_each_set(methods, tmp_path):
    for figure, name in ((roc_figure(methods), "roc"), (precision_recall_figure(methods), "pr")):
        assert [axes.get_title(loc="left") for axes in figure.axes] == ["one", "two"]
        assert legend(figure) == ["MC-AE", "MC dropout", "± deviation over seeds"]
        assert figure.legends[0].get_title().get_text() == "known against ..."
        assert [len(axes.collections) for axes in figure.axes] == [1, 1]
        assert all(path.stat().st_size > 1000 for path in save_figure(figure, tmp_path / name))


def test_results_without_unknown_sets_are_refused(result):
    alone = dataclasses.replace(result, out_scores=())
    with pytest.raises(AttractorError, match="results of MC-AE have no D_out"):
        roc_figure(alone)
