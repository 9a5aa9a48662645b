import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, norm

from attractor_ae import conformal
from attractor_ae._errors import AttractorError
from attractor_ae.conformal import SMALLEST_CALIBRATION, OODScore, check_enough, halves

NAMES = ("a", "b", "c")


def definition(known, values):
    """The OOD score of each image, from the docstring of `attractor_ae.conformal`, in loops."""
    found = []
    for value in np.asarray(values, float).T:
        every = np.column_stack([known, value])  # (components, n + 1), the image last
        n = every.shape[1] - 1
        p = [
            [
                (0.5 + sum(row[j] >= row[i] for j in range(n + 1) if j != i)) / (n + 1)
                for row in every
            ]
            for i in range(n + 1)
        ]
        t = norm.isf(p).mean(1)
        count = 1 + (t[:n] >= t[n] - 1e-9).sum() + norm.sf(t[n]) / 1000
        found.append(1 - min(1, count / (n + 1)))
    return found


def applied(ood, scores, recursion=0):
    """The OOD score of images of which each score is given at every recursion."""
    at = [name.partition("@") for name in ood.components]
    values = [scores[name][int(r) if r else recursion] for name, _, r in at]
    return ood(torch.stack(values), recursion)


def scores_of(values):
    """Scores a, b and c of n images at one recursion, from an array of shape (3, n)."""
    return {name: torch.as_tensor(row)[None] for name, row in zip(NAMES, values, strict=True)}


@given(
    st.lists(st.tuples(*[st.integers(-5, 5)] * 3), min_size=1, max_size=12),
    st.lists(st.tuples(*[st.integers(-7, 7)] * 3), min_size=1, max_size=6),
)
def test_the_score_is_that_of_the_definition(known, values):
    """With many ties; integers, so that scores are equal or clearly different."""
    known, values = np.array(known, float).T, np.array(values, float).T
    ood = OODScore.calibrate(scores_of(known), NAMES)
    np.testing.assert_allclose(applied(ood, scores_of(values)), definition(known, values))


def test_many_images_are_compared_in_parts(monkeypatch):
    rng = np.random.default_rng(0)
    ood = OODScore.calibrate(scores_of(rng.standard_normal((3, 50))), NAMES)
    values = scores_of(rng.standard_normal((3, 40)))
    whole = applied(ood, values)
    monkeypatch.setattr(conformal, "_ENTRIES", 170)  # 4 images at once
    assert torch.equal(applied(ood, values), whole)


def test_halves_are_a_division():
    first, second = halves(41, seed=3)
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(41))
    assert (len(first), len(second)) == (21, 20)
    assert torch.equal(first, halves(41, seed=3)[0])
    assert not torch.equal(first, halves(41, seed=4)[0])


def test_the_fused_score_worked_by_hand():
    """Ten calibration images with all scores k = 1 .. 10, so that ranks can be read off."""
    values = np.tile(np.arange(1.0, 11.0), (3, 1))
    ood = OODScore.calibrate(scores_of(values), NAMES)
    found = applied(ood, scores_of([[0.5, 10.0, 99.0], [0.5, 10.0, 99.0], [0.5, 10.0, 99.0]]))
    # Of eleven, all ten are stranger than 0.5 and none is stranger than 99. Equal to 10 is one.
    beyond = norm.sf(norm.isf(0.5 / 11)) / 1000
    equal = norm.sf(norm.isf(1.5 / 11)) / 1000
    np.testing.assert_allclose(found, [0, 1 - (2 + equal) / 11, 1 - (1 + beyond) / 11])


def test_what_is_stranger_than_all_known_is_still_ranked():
    """Beyond the known the count is the same: the larger statistic has the larger score."""
    rng = np.random.default_rng(0)
    fused = OODScore.calibrate(scores_of(rng.standard_normal((3, 100))), NAMES)
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
        [applied(OODScore.calibrate(scores, [name]), scores, r) for r in range(3)]
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
    rounds, images = 1000, 20
    for _ in range(rounds):
        fused = OODScore.calibrate(scores_of(draw(39)), NAMES)
        found = applied(fused, scores_of(draw(images)))
        assert ((found >= 0) & (found < 1)).all()
        for a in flagged:
            # One image a round: those of a round share their calibration.
            flagged[a] += int(found[0] >= 1 - a - 1e-3 / 40)
    for a, count in flagged.items():
        assert count <= binom.ppf(0.9999, rounds, a)
        # 2 and 8 of 40 ranks: exactly this often, but for ties.
        if dependence != "opposed":
            assert count >= binom.ppf(0.0001, rounds, a)


def test_what_only_one_score_sees_is_flagged():
    rng = np.random.default_rng(1)
    fused = OODScore.calibrate(scores_of(rng.standard_normal((3, 200))), NAMES)
    strange = rng.standard_normal((3, 50))
    strange[1] += 9
    usual = rng.standard_normal((3, 50))
    assert applied(fused, scores_of(strange)).mean() > 0.85
    assert applied(fused, scores_of(usual)).mean() < 0.6


def test_too_few_known_images_are_refused():
    check_enough(SMALLEST_CALIBRATION)
    with pytest.raises(AttractorError, match="at least 20 .* got 19"):
        check_enough(SMALLEST_CALIBRATION - 1)
