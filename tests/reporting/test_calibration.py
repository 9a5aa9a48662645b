import numpy as np
from sklearn.calibration import calibration_curve

from attractor_ae.metrics import expected_calibration_error
from attractor_ae.reporting import reliability_diagram, save_figure


def predictions(result):
    p = result.in_scores.probabilities[1]
    return p.max(-1).astype(np.float64), p.argmax(-1) == result.in_scores.labels


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_one_seed_is_scikit_learns_curve(result):
    figure = reliability_diagram(result)
    upper, lower = figure.axes
    confidence, correct = predictions(result)
    right, sure = calibration_curve(correct, confidence, n_bins=10)
    drawn = upper.lines[1]
    there = ~np.ma.getmaskarray(drawn.get_ydata())
    np.testing.assert_allclose(np.asarray(drawn.get_xdata())[there], sure)
    np.testing.assert_allclose(np.asarray(drawn.get_ydata())[there], right)
    np.testing.assert_array_equal(upper.lines[0].get_xydata(), [[0, 0], [1, 1]])
    error = expected_calibration_error(confidence, correct, bins=10)
    assert legend(figure) == [f"MC-AE, ECE {error:.3f}", "calibrated"]
    assert not upper.collections
    # Below: shares of images, as numpy counts them.
    counted = np.histogram(confidence, bins=10, range=(0, 1))[0] / 60
    np.testing.assert_allclose(lower.patches[0].get_xy()[1::2][:10, 1], counted)


def test_seeds_are_averaged_in_each_bin_over_those_that_have_images_in_it(seeds):
    figure = reliability_diagram(seeds)
    line, band = figure.axes[0].lines[1], figure.axes[0].collections[0]
    table = np.full((3, 10), np.nan)
    for i, result in enumerate(seeds):
        confidence, correct = predictions(result)
        for b in range(10):
            inside = (confidence > b / 10) & (confidence <= (b + 1) / 10)
            if inside.any():
                table[i, b] = correct[inside].mean()
    some = ~np.isnan(table).all(0)
    mean, deviation = np.nanmean(table[:, some], 0), np.nanstd(table[:, some], 0)
    drawn = np.ma.compressed(line.get_ydata())
    np.testing.assert_allclose(drawn, mean)
    points = band.get_paths()[0].vertices
    last = points[np.isclose(points[:, 0], np.ma.compressed(line.get_xdata())[-1]), 1]
    np.testing.assert_allclose(
        [last.min(), last.max()], [mean[-1] - deviation[-1], mean[-1] + deviation[-1]]
    )
    errors = [expected_calibration_error(*predictions(result), bins=10) for result in seeds]
    assert f"{np.mean(errors):.3f} ± {np.std(errors):.3f}" in legend(figure)[0]


def test_methods_have_a_line_each(methods, tmp_path):
    figure = reliability_diagram(methods)
    names = [label.split(",")[0].split("\n")[0] for label in legend(figure)]
    assert names == ["MC-AE", "MC dropout", "calibrated", "± deviation over seeds"]
    assert all(path.stat().st_size > 1000 for path in save_figure(figure, tmp_path / "r"))
