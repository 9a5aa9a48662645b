import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import betabinom, binom

from attractor_ae._errors import AttractorError
from attractor_ae.conformal import (
    SMALLEST_CALIBRATION,
    Groups,
    OODScore,
    check_alpha,
    check_enough,
    false_alarm_rate,
    first_drift,
    halves,
    least_calibration,
    p_values,
    p_values_per_class,
    usual_rejections,
)

NAMES = ("a", "b", "c")


def calibrated(values, names=NAMES):
    """Scores are standardised by the first 10 images, and calibrated on the others."""
    scores = scores_of(values)
    ood = OODScore.fit({name: of_one[:, :10] for name, of_one in scores.items()}, names)
    return ood.calibrated({name: of_one[:, 10:] for name, of_one in scores.items()})


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
    """Training scores 0 and 2 (mean 1, deviation 1), 20 and 60 times that, and ten known images."""
    training, known = np.array([0.0, 2.0] * 5), np.arange(10.0)
    factors = np.array([[1.0], [20.0], [60.0]])
    ood = calibrated(factors * np.concatenate([training, known]))
    np.testing.assert_allclose(ood.statistics[0], np.log1p(np.exp(known - 1)))
    values = torch.from_numpy(factors * np.array([9.0, 8.5, -4.0, 99.0]))
    values[0, 3] = 0  # a deviation below the mean, the others 98 above it
    found = ood(values, 0)
    # One known image is as strange as the first two, all ten as the third, none as the last.
    t = np.log1p(np.exp([8.0, 7.5, -5.0]))
    t = np.append(t, (np.log1p(np.exp(-1)) + 2 * 98) / 3)
    counts = np.array([2, 2, 11, 1]) + 1 / (1 + t) / 1000
    np.testing.assert_allclose(found, [*(1 - counts[:2] / 11), 0, 1 - counts[3] / 11])


def test_what_is_stranger_than_all_known_is_still_ranked():
    """Beyond the known the count is the same: the larger statistic has the larger score."""
    rng = np.random.default_rng(0)
    fused = calibrated(rng.standard_normal((3, 110)))
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
        [applied(OODScore.fit(scores, [name]).calibrated(scores), scores, r) for r in range(3)]
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
        fused = calibrated(draw(49))
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
    fused = calibrated(rng.standard_normal((3, 210)))
    strange = rng.standard_normal((3, 50))
    strange[1] += 9
    usual = rng.standard_normal((3, 50))
    assert applied(fused, scores_of(strange)).mean() > 0.85
    assert applied(fused, scores_of(usual)).mean() < 0.6


def test_too_few_known_images_are_refused():
    check_enough(SMALLEST_CALIBRATION)
    with pytest.raises(AttractorError, match="at least 9 .* got 8"):
        check_enough(SMALLEST_CALIBRATION - 1)


@given(st.floats(1e-4, 0.99), st.integers(1, 3000))
def test_alpha_is_possible_if_the_smallest_p_value_reaches_it(alpha, n):
    possible = 1 / (n + 1) <= alpha
    assert (n >= least_calibration(alpha)) == possible
    if possible:
        check_alpha(alpha, n, "")
    else:
        with pytest.raises(AttractorError, match=str(least_calibration(alpha))):
            check_alpha(alpha, n, "")


@pytest.mark.parametrize(("alpha", "n"), [(0.05, 112), (0.05, 19), (0.1, 60), (0.3, 500)])
def test_the_rate_of_false_alarms_over_many_calibrations(alpha, n):
    """Known images are uniform: the rate of a calibration is where its threshold is."""
    rng = np.random.default_rng(0)
    known = np.sort(rng.random((20_000, n)), axis=1)
    k = sum((1 + i) / (n + 1) <= alpha + 1e-12 for i in range(n))  # of the largest values
    rates = 1 - known[:, n - k]
    mean, low, high = false_alarm_rate(alpha, n)
    assert rates.mean() == pytest.approx(mean, rel=0.03)
    assert np.mean((rates >= low) & (rates <= high)) == pytest.approx(0.9, abs=0.01)
    assert mean <= alpha


@pytest.mark.parametrize(
    ("counts", "groups"),
    [
        ([5, 7, 9], [[0], [1], [2]]),
        ([2, 7, 9], [[0, 1], [2]]),
        ([0, 6, 1, 1, 8], [[0, 2, 3, 1], [4]]),
        ([1, 1, 1], [[0, 1, 2]]),
        ([3, 4, 3, 4], [[0, 1, 2, 3]]),  # the smaller ones are enough, but none is
        ([3, 8, 4, 9], [[0, 2], [1], [3]]),
    ],
)
def test_p_values_per_class_count_the_known_of_the_same_group(counts, groups):
    """With at least five per group, counted one by one."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(len(counts)), counts)
    known, values = rng.normal(size=len(labels)), rng.normal(size=40)
    new = rng.integers(len(counts), size=40)
    arrays = (torch.tensor(a) for a in (values, new, known, labels))
    values_, new_, known_, labels_ = arrays
    found = p_values_per_class(values_, new_, known_, Groups.of(labels_, len(counts), least=5))
    for value, label, p in zip(values, new, found.tolist(), strict=True):
        (group,) = (group for group in groups if label in group)
        same = known[np.isin(labels, group)]
        assert p == pytest.approx((1 + (same >= value).sum()) / (1 + len(same)))


def test_every_predicted_class_has_the_promised_rate():
    """Two classes, of which the known images of the one are stranger: 5 % of each, not 10 and 0."""
    rng = np.random.default_rng(0)
    rates = {"apart": [], "together": []}
    new = torch.arange(2).repeat_interleave(4000)
    shift = np.repeat([0.0, 3.0], 4000)
    for _ in range(40):
        known = torch.tensor(rng.normal(size=400) + np.repeat([0.0, 3.0], 200))
        labels = torch.arange(2).repeat_interleave(200)
        values = torch.tensor(rng.normal(size=8000) + shift)
        apart = p_values_per_class(values, new, known, Groups.of(labels, 2))
        together = p_values(values, known.sort().values)
        for name, p in (("apart", apart), ("together", together)):
            rates[name].append((p <= 0.05).float().unflatten(0, (2, -1)).mean(1).numpy())
    np.testing.assert_allclose(np.mean(rates["apart"], axis=0), 0.05, atol=0.006)
    assert np.mean(rates["together"], axis=0).tolist() == pytest.approx([0, 0.1], abs=0.01)


@pytest.mark.parametrize("least", [20, 100])
def test_every_group_has_the_promised_rate_with_random_classes(least):
    """The number of known images of a class is random, also on which side of the limit it is."""
    rng, share = np.random.default_rng(0), [0.5, 0.25, 0.15, 0.1]
    excess, shift = [], np.array([0.0, 3.0, -2.0, 6.0])
    for _ in range(400):
        old, new = rng.choice(4, size=4 * least, p=share), rng.choice(4, size=1000, p=share)
        groups = Groups.of(torch.tensor(old), 4, least)
        known, values = (torch.tensor(rng.normal(size=len(x)) + shift[x]) for x in (old, new))
        p = p_values_per_class(values, torch.tensor(new), known, groups).numpy()
        shared = (groups.of_class.bincount() > 1)[groups.of_class].numpy()[new]
        over = (p <= 0.05) - 0.05
        excess.append([over[part].sum() for part in (new == 0, shared, ~shared, new >= 0)])
    mean, error = np.mean(excess, axis=0), np.std(excess, axis=0) / 20
    assert (mean <= 2 * error).all()
    assert mean[-1] > -20  # of 50 expected in 1 000 images: not by rejecting nothing


def test_the_usual_number_of_false_alarms():
    """Against the rank of each image among simulated calibration images, of two groups."""
    rng, counts = np.random.default_rng(0), np.zeros(20_000, int)
    for n, m, k in ((27, 45, 2), (60, 20, 6)):  # k of n + 1 at alpha 0.1
        limits = np.sort(rng.random((len(counts), n)), axis=1)[:, n - k]
        counts += rng.binomial(m, 1 - limits)
    low, high = usual_rejections(0.1, [(27, 45), (60, 20)])
    assert np.mean(counts < low) <= 0.055
    assert np.mean(counts > high) <= 0.055
    assert np.mean(counts <= low) > 0.045
    assert np.mean(counts >= high) > 0.045
    single = betabinom(45, 2, 26).ppf([0.05, 0.95])
    assert usual_rejections(0.1, [(27, 45)]) == tuple(single)


def test_a_stream_like_the_known_images_rarely_raises_an_alarm():
    """At most 5 % of streams at that level; a shift of one deviation is found within 300 images."""
    rng = np.random.default_rng(0)
    alarms, delays = 0, []
    for _ in range(150):
        alarms += first_drift(rng.normal(size=400), rng.normal(size=100), 0.05) is not None
    for _ in range(20):
        stream = np.concatenate([rng.normal(size=100), rng.normal(1, 1, size=400)])
        delays.append(first_drift(stream, rng.normal(size=100)))
    assert alarms <= binom(150, 0.05).ppf(0.999)
    assert None not in delays
    assert 0 < np.median(delays) - 100 < 300


def test_equal_scores_say_nothing():
    assert first_drift([1.0] * 500, [1.0] * 30) is None
    assert first_drift([2.0] * 500, [1.0] * 30) is not None
