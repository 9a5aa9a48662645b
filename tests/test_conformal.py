import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, norm

from attractor_ae._errors import AttractorError
from attractor_ae.conformal import SMALLEST_CALIBRATION, OODScore, halves, p_values

NAMES = ("a", "b", "c")


def calibrate(scores, names, seed):
    n = next(iter(scores.values())).shape[-1]
    return OODScore.calibrate(scores, names, *halves(n, seed))


def applied(ood, scores, recursion=0):
    """The OOD score of images of which each score is given at every recursion."""
    at = [name.partition("@") for name in ood.components]
    values = [scores[name][int(r) if r else recursion] for name, _, r in at]
    return ood(torch.stack(values), recursion)


def scores_of(values):
    """Scores a, b and c of n images at one recursion, from an array of shape (3, n)."""
    return {name: torch.as_tensor(row)[None] for name, row in zip(NAMES, values, strict=True)}


@given(
    st.lists(st.integers(-5, 5), min_size=1, max_size=30),
    st.lists(st.integers(-7, 7), min_size=1, max_size=30),
)
def test_p_values_count_the_known_that_are_at_least_as_strange(known, values):
    ordered = torch.tensor(sorted(known), dtype=torch.float64)
    found = p_values(torch.tensor(values, dtype=torch.float64), ordered)
    expected = [(1 + sum(k >= v for k in known)) / (1 + len(known)) for v in values]
    np.testing.assert_allclose(found, expected)


def test_halves_are_a_division():
    first, second = halves(41, seed=3)
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(41))
    assert (len(first), len(second)) == (21, 20)
    assert torch.equal(first, halves(41, seed=3)[0])
    assert not torch.equal(first, halves(41, seed=4)[0])


def test_the_fused_score_worked_by_hand():
    """Ten known images a half; their scores are 1 .. 10, so p-values can be read off."""
    first, second = halves(20, seed=0)
    values = torch.zeros(3, 20, dtype=torch.float64)
    values[:, first] = torch.arange(1.0, 11.0, dtype=torch.float64)
    values[:, second] = torch.arange(1.0, 11.0, dtype=torch.float64)
    fused = calibrate(scores_of(values), NAMES, 0)
    # An image of the second half with all scores k has p_k = (1/2 + 11 - k) / 11.
    expected = norm.isf((11.5 - np.arange(1, 11)) / 11)
    np.testing.assert_allclose(fused.statistics[0], expected, atol=1e-12)
    new = torch.tensor([[0.5, 10.0, 99.0, 99.0], [0.5, 10.0, 99.0, 0.0], [0.5, 10.0, 99.0, 0.0]])
    found = applied(fused, scores_of(new.double()))
    # Of the known ten are at least as strange as (0.5, 0.5, 0.5), one as (10, 10, 10), none as
    # (99, 99, 99). (99, 0, 0) has one extreme p-value of the strange kind and two of the usual.
    third = -norm.isf(0.5 / 11) / 3
    above = int((expected >= third).sum())
    # A thousandth of a count, and less the larger T, tells apart what the count does not.
    extreme = norm.sf(norm.isf(0.5 / 11)) / 1000
    finer = norm.sf([norm.isf(1.5 / 11), norm.isf(0.5 / 11), third]) / 1000
    counts = np.array([2, 1, 1 + above]) + finer
    np.testing.assert_allclose(found, [0, *(1 - counts / 11)], rtol=0, atol=1e-12)
    assert found[2] == pytest.approx(1 - (1 + extreme) / 11)


def test_what_is_stranger_than_all_known_is_still_ranked():
    """Beyond the known the count is the same: the larger statistic has the larger score."""
    rng = np.random.default_rng(0)
    fused = calibrate(scores_of(rng.standard_normal((3, 200))), NAMES, 0)
    strange = np.full((3, 4), 9.0)
    strange[1:, 0], strange[2, 1] = 1.5, 1.5
    strange[2, 2] = 2.0
    found = applied(fused, scores_of(strange))
    assert (found > 1 - 2 / 101).all()
    assert (found.diff() > 0).all()


def test_a_component_can_be_held_at_one_recursion():
    rng = np.random.default_rng(0)
    scores = {"a": torch.from_numpy(rng.standard_normal((3, 50)))}
    held, free = (
        [applied(calibrate(scores, [name], 0), scores, r) for r in range(3)]
        for name in ("a@0", "a")
    )
    assert torch.equal(held[0], free[0])
    assert torch.equal(held[1], held[0])
    assert not torch.equal(free[1], free[0])


@pytest.mark.parametrize("dependence", ["independent", "equal", "opposed", "heavy-tailed"])
def test_known_images_are_flagged_as_rarely_as_promised(dependence):
    """P(fused > 1 - a) <= a for new known images, however the scores depend on each other."""
    rng = np.random.default_rng(0)

    def draw(n):
        first = rng.standard_normal(n)
        if dependence == "independent":
            return np.stack([first, *rng.standard_normal((2, n))])
        if dependence == "equal":
            return np.stack([first, 3 * first, first**3])
        if dependence == "opposed":
            return np.stack([first, -first, np.abs(first)])
        return rng.standard_cauchy(n) * rng.standard_normal((3, n))

    flagged = {0.05: 0, 0.2: 0}
    rounds, images = 300, 20
    for seed in range(rounds):
        fused = calibrate(scores_of(draw(60)), NAMES, seed)
        found = applied(fused, scores_of(draw(images)))
        assert ((found >= 0) & (found < 1)).all()
        for a in flagged:
            # One image a round: those of a round share their calibration.
            flagged[a] += int(found[0] > 1 - a + 1e-9)
    for a, count in flagged.items():
        assert count <= binom.ppf(0.9999, rounds, a)
        assert count >= binom.ppf(0.0001, rounds, a / 4)  # nor does it flag nothing


def test_what_only_one_score_sees_is_flagged():
    rng = np.random.default_rng(1)
    fused = calibrate(scores_of(rng.standard_normal((3, 400))), NAMES, 0)
    strange = rng.standard_normal((3, 50))
    strange[1] += 9
    usual = rng.standard_normal((3, 50))
    assert applied(fused, scores_of(strange)).mean() > 0.85
    assert applied(fused, scores_of(usual)).mean() < 0.6


def test_too_few_known_images_are_refused():
    values = np.zeros((3, SMALLEST_CALIBRATION - 1))
    with pytest.raises(AttractorError, match="at least 20 .* got 19"):
        calibrate(scores_of(values), NAMES, 0)
