import dataclasses

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Polygon, Rectangle
from scipy.stats import wasserstein_distance

from attractor_ae import AttractorError, EvaluationResult
from attractor_ae.reporting import entropy_histogram, save_figure
from attractor_ae.reporting.style import IN_COLOUR


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def title(figure):
    return figure.axes[0].get_title(loc="left")


def heights(figure):
    return [p.get_height() for p in figure.axes[0].patches if isinstance(p, Rectangle)]


def test_the_histogram_is_numpys_with_fifty_bins_as_shares(result):
    figure = entropy_histogram(result)
    (axes,) = figure.axes
    bars = [p for p in axes.patches if isinstance(p, Rectangle)]
    assert len(bars) == 50
    assert {to_hex(bar.get_facecolor()) for bar in bars} == {IN_COLOUR.lower()}
    u = result.in_scores.score(1)
    expected = np.histogram(u, bins=50, range=(0, 1))[0] / len(u)
    np.testing.assert_allclose(heights(figure), expected)
    outlines = [p for p in axes.patches if isinstance(p, Polygon)]
    assert len(outlines) == 3
    assert not any(outline.get_fill() for outline in outlines)
    # What is drawn of a D_out is numpy's too: an outline goes up and down along its bins.
    u = result.out_scores[0].score(1)
    expected = np.histogram(u, bins=50, range=(0, 1))[0] / len(u)
    np.testing.assert_allclose(outlines[0].get_xy()[1::2][:50, 1], expected)


def test_both_sums_of_wasserstein_distances_are_said(result):
    u = result.in_scores.score(1)
    one, two = (s.score(1) for s in result.out_scores)
    total = wasserstein_distance(u, one) + wasserstein_distance(u, two)
    said = title(entropy_histogram(result)).split("\n")
    assert said[0] == "MC-AE, recursion 1"
    assert said[1].endswith(f"known to unknown: {total:.2f}")
    assert said[2].endswith(f"one to other unknown: {wasserstein_distance(one, two):.2f}")
    assert legend(entropy_histogram(result)) == ["known (known)", "one", "two", "shifted (shift)"]


@pytest.mark.parametrize(
    ("outs", "expected"),
    [
        (("faces", "photos", "cifar10"), "cifar10"),
        (("faces", "photos", "textures"), "photos"),
        (("faces", "textures"), "faces"),
    ],
)
def test_the_reference_is_cifar10_or_photos_or_the_first(make_result, outs, expected):
    result = make_result(outs=outs)
    sample = {s.name: s.score(1) for s in result.out_scores}
    total = sum(wasserstein_distance(sample[expected], u) for u in sample.values())
    assert title(entropy_histogram(result)).endswith(f"{expected} to other unknown: {total:.2f}")
    assert "faces to other" in title(entropy_histogram(result, reference="faces"))


def test_several_seeds_are_pooled_and_their_sums_averaged(seeds):
    figure = entropy_histogram(seeds)
    u = np.concatenate([result.in_scores.score(1) for result in seeds])
    expected = np.histogram(u, bins=50, range=(0, 1))[0] / len(u)
    np.testing.assert_allclose(heights(figure), expected)
    sums = [
        sum(wasserstein_distance(result.in_scores.score(1), s.score(1)) for s in result.out_scores)
        for result in seeds
    ]
    said = title(figure).split("\n")
    assert said[0] == "MC-AE, recursion 1, 3 seeds"
    assert said[1].endswith(f"{np.mean(sums):.2f} ± {np.std(sums):.2f}")
    assert " ± " in said[2]


def test_another_reported_recursion_is_drawn(result):
    u = result.in_scores.score(2)
    expected = np.histogram(u, bins=50, range=(0, 1))[0] / len(u)
    figure = entropy_histogram(dataclasses.replace(result, recursion=2))
    np.testing.assert_allclose(heights(figure), expected)
    assert "recursion 2" in title(figure)


def test_the_ood_score_is_drawn_as_the_logarithm_of_its_p_value(result):
    rng = np.random.default_rng(0)
    changed = dataclasses.replace(result, score="ood_score", _computed={})
    for scores in changed.sets:
        scores.scores["ood_score"] = rng.integers(0, 100, scores.probabilities.shape[:2]) / 100
        scores.scores["ood_score"][1, 0] = 0.99
    figure = entropy_histogram(changed)
    for scores in changed.sets:
        p = 1 - scores.scores.pop("ood_score")[1]
        if scores is result.in_scores:
            expected = np.histogram(-np.log10(p), 50, (0, 2))[0] / len(p)
            np.testing.assert_allclose(heights(figure), expected)
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["1", "0.1", "0.01"]


def test_a_result_without_unknown_sets_is_drawn(result):
    alone = EvaluationResult("MC-AE", result.classes, 1, result.in_scores)
    assert title(entropy_histogram(alone)) == "MC-AE, recursion 1"


def test_a_single_unknown_set_has_no_second_sum(make_result):
    assert title(entropy_histogram(make_result(outs=("one",)))).count("Wasserstein") == 1


def test_what_cannot_be_drawn_is_said(result, methods):
    with pytest.raises(AttractorError, match="unknown D_out 'tow'; did you mean 'two'"):
        entropy_histogram(result, reference="tow")
    with pytest.raises(AttractorError, match="one method, but the results are of MC-AE, MC drop"):
        entropy_histogram(methods)
    result.in_scores.scores["step"] = np.full((3, 60), 7.0)
    with pytest.raises(AttractorError, match="step of known at index 0 is 7.0"):
        entropy_histogram(dataclasses.replace(result, score="step"))
    del result.in_scores.scores["step"]


def test_figures_are_written_as_png_and_pdf_the_same_each_time(result, tmp_path):
    first = [p.read_bytes() for p in save_figure(entropy_histogram(result), tmp_path / "a.b")]
    again = [p.read_bytes() for p in save_figure(entropy_histogram(result), tmp_path / "a.b")]
    assert first == again
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.b.pdf", "a.b.png"]
