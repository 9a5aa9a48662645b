import dataclasses

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from attractor_ae import AttractorError
from attractor_ae.experiment.trial_curve import TrialCurve
from attractor_ae.reporting import auroc_by_recursion, auroc_by_trials, save_figure


def aurocs(result, out):
    """AUROC of every recursion, as scikit-learn computes it."""
    known = result.in_scores
    truth = np.r_[np.zeros(len(known.labels)), np.ones(len(out.labels))]
    return [
        roc_auc_score(truth, np.r_[known.score(r), out.score(r)]) for r in range(result.recursions)
    ]


def accuracies(result):
    known = result.in_scores
    return (known.probabilities.argmax(-1) == known.labels).mean(1)


def lines_of(axes):
    return {line.get_label(): line for line in axes.lines}


def bands_of(axes):
    """(low, high) at each x, of every band, in the order in which they were drawn."""
    found = []
    for band in axes.collections:
        points = band.get_paths()[0].vertices
        xs = np.unique(points[:, 0])
        ends = [points[points[:, 0] == x, 1] for x in xs]
        found.append((np.array([e.min() for e in ends]), np.array([e.max() for e in ends])))
    return found


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_one_result_draws_scikit_learns_values_without_a_band(result):
    figure = auroc_by_recursion(result)
    (axes,) = figure.axes
    for out in result.out_scores:
        line = lines_of(axes)[f"AUROC, {out.name}"]
        np.testing.assert_array_equal(line.get_xdata(), [0, 1, 2])
        np.testing.assert_allclose(line.get_ydata(), aurocs(result, out))
    right = lines_of(axes)["accuracy, known"].get_ydata()
    np.testing.assert_allclose(right, accuracies(result))
    assert not axes.collections
    assert legend(figure) == ["AUROC, one", "AUROC, two", "accuracy, known", "reported"]
    assert axes.get_xlabel() == "recursion"


def test_seeds_are_a_mean_with_a_band_of_one_population_deviation(seeds):
    figure = auroc_by_recursion(seeds)
    (axes,) = figure.axes
    every = [
        *(np.array([aurocs(result, result.out_scores[i]) for result in seeds]) for i in range(2)),
        np.array([accuracies(result) for result in seeds]),
    ]
    labels = ["AUROC, one", "AUROC, two", "accuracy, known"]
    for label, values, (low, high) in zip(labels, every, bands_of(axes), strict=True):
        np.testing.assert_allclose(lines_of(axes)[label].get_ydata(), values.mean(0))
        np.testing.assert_allclose(low, values.mean(0) - values.std(0, ddof=0))
        np.testing.assert_allclose(high, values.mean(0) + values.std(0, ddof=0))
    assert legend(figure)[-1] == "± deviation, 3 seeds"


def test_methods_have_a_panel_for_each_set(methods):
    figure = auroc_by_recursion(methods)
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes if axes.axison}
    assert list(panels) == ["AUROC, one", "AUROC, two", "accuracy, known"]
    lines = [line for line in panels["AUROC, two"].lines if len(line.get_xdata()) == 3]
    two = [np.array([aurocs(result, result.out_scores[1]) for result in methods[:2]])]
    np.testing.assert_allclose(lines[0].get_ydata(), two[0].mean(0))
    # The method without recursions is level.
    level = aurocs(methods[2], methods[2].out_scores[1])
    np.testing.assert_allclose(lines[1].get_ydata(), level * 3)
    assert len(panels["AUROC, two"].collections) == 1
    assert legend(figure)[:2] == ["MC-AE", "MC dropout"]
    assert legend(figure)[-1] == "± deviation over seeds"


def test_results_can_be_named(result, make_result):
    figure = auroc_by_recursion({"SSIM": [result], "MSE": [make_result(4)]})
    assert legend(figure)[:2] == ["SSIM", "MSE"]


def test_results_that_do_not_belong_together_are_refused(result, make_result):
    other = make_result(1, outs=("one", "three"))
    with pytest.raises(AttractorError, match=r"MC-AE have D_outs \['one', 'two'\] and \['one', 't"):
        auroc_by_recursion([result, other])
    with pytest.raises(AttractorError, match="entropy and ood_score"):
        auroc_by_recursion([result, dataclasses.replace(result, score="ood_score")])
    for nothing in ([], {}, {"SSIM": []}):
        with pytest.raises(AttractorError, match="no results to draw"):
            auroc_by_recursion(nothing)


def trial_curve_of(seed, method="MC-AE", trials=4):
    rng = np.random.default_rng(seed)
    return TrialCurve(
        method, "known", ("one", "two"), 1, rng.random((2, trials)), rng.random(trials)
    )


def test_trials_are_drawn_with_bands_over_seeds():
    curves = [trial_curve_of(seed) for seed in range(3)]
    (axes,) = auroc_by_trials({"MC-AE": curves}).axes
    every = np.stack([np.vstack([curve.auroc, curve.accuracy]) for curve in curves])
    labels = ["AUROC, one", "AUROC, two", "accuracy, known"]
    for i, (label, (low, high)) in enumerate(zip(labels, bands_of(axes), strict=True)):
        line = lines_of(axes)[label]
        np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3, 4])
        np.testing.assert_allclose(line.get_ydata(), every[:, i].mean(0))
        np.testing.assert_allclose((low + high) / 2, every[:, i].mean(0))
        np.testing.assert_allclose((high - low) / 2, every[:, i].std(0))
    assert axes.get_xlabel() == "trials"


def test_trials_of_one_and_of_several_methods(tmp_path):
    assert not auroc_by_trials({"MC-AE": [trial_curve_of(0)]}).axes[0].collections
    methods = [trial_curve_of(0), trial_curve_of(1, "deep ensemble", 3)]
    figure = auroc_by_trials({curve.method: [curve] for curve in methods})
    first = figure.axes[0].lines
    np.testing.assert_allclose(first[1].get_ydata(), methods[1].auroc[0])
    np.testing.assert_array_equal(first[1].get_xdata(), [1, 2, 3])
    assert all(path.stat().st_size > 1000 for path in save_figure(figure, tmp_path / "trials"))


def test_trial_curves_that_do_not_belong_together_are_refused():
    with pytest.raises(AttractorError, match="curves of MC-AE differ in data sets or numbers"):
        auroc_by_trials({"MC-AE": [trial_curve_of(0), trial_curve_of(1, trials=5)]})
