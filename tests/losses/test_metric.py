from typing import get_args

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from sklearn.metrics import silhouette_score

from attractor_ae._errors import AttractorError
from attractor_ae.experiment.config import MetricLossName
from attractor_ae.losses.metric import METRIC_LOSSES, metric_loss

# Four classes of several sizes, in no order, one of them alone.
LABELS = np.array([0, 2, 1, 0, 1, 1, 2, 0, 0, 3, 2, 1])


@pytest.fixture(scope="module")
def codes():
    # Of several norms, and with classes that overlap, so that every case of a loss occurs.
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((4, 6))
    return centres[LABELS] + rng.standard_normal((len(LABELS), 6))


def unit_length(codes):
    return codes / np.linalg.norm(codes, axis=1, keepdims=True)


def positive_pairs():
    n = range(len(LABELS))
    return [(a, p) for a in n for p in n if a != p and LABELS[a] == LABELS[p]]


def negative_pairs():
    n = range(len(LABELS))
    return [(a, b) for a in n for b in n if LABELS[a] != LABELS[b]]


def distances(codes):
    return np.linalg.norm(codes[:, None] - codes[None], axis=2)


def mean_of_positive(values):
    values = np.array(values)
    assert (values > 0).any()
    assert (values <= 0).any()
    return values[values > 0].mean()


def triplet_by_hand(codes):
    d = distances(unit_length(codes))
    swaps = 0
    violations = []
    for a, p in positive_pairs():
        for n in np.flatnonzero(LABELS[a] != LABELS):
            swaps += d[p, n] < d[a, n]
            violations.append(d[a, p] - min(d[a, n], d[p, n]) + 0.2)
    assert swaps > 0
    return mean_of_positive(violations)


def contrastive_by_hand(codes):
    d = distances(unit_length(codes))
    positive = np.mean([d[pair] for pair in positive_pairs()])
    return positive + mean_of_positive([1 - d[pair] for pair in negative_pairs()])


def ntxent_by_hand(codes):
    unit = unit_length(codes)
    similarity = unit @ unit.T / 0.07
    losses = []
    for a, p in positive_pairs():
        denominator = [similarity[a, p], *similarity[a, LABELS[a] != LABELS]]
        losses.append(logsumexp(denominator) - similarity[a, p])
    return np.mean(losses)


def npair_by_hand(codes):
    # Anchor and positive: the first two codes of each class that has two.
    members = [np.flatnonzero(label == LABELS) for label in np.unique(LABELS)]
    anchors, positives = np.array([m[:2] for m in members if len(m) > 1]).T
    assert len(anchors) == 3
    unit = unit_length(codes)
    products = unit[anchors] @ unit[positives].T
    # Sohn 2016: log(1 + sum of exp(negative - positive))
    margins = np.exp(products - np.diag(products)[:, None])
    np.fill_diagonal(margins, 0)
    return np.log1p(margins.sum(axis=1)).mean()


def angular_by_hand(codes):
    # Wang et al. 2017, equation 8, with anchors and positives of unit length.
    unit = unit_length(codes)
    tan2 = np.tan(np.radians(40)) ** 2
    losses = []
    for a, p in positive_pairs():
        negatives = codes[LABELS[a] != LABELS]
        f = 4 * tan2 * negatives @ (unit[a] + unit[p]) - 2 * (1 + tan2) * unit[a] @ unit[p]
        losses.append(np.log1p(np.exp(f).sum()))
    return np.mean(losses)


BY_HAND = {
    "triplet": triplet_by_hand,
    "angular": angular_by_hand,
    "npair": npair_by_hand,
    "ntxent": ntxent_by_hand,
    "contrastive": contrastive_by_hand,
}


@pytest.mark.parametrize("name", METRIC_LOSSES)
def test_the_loss_is_its_formula(codes, name):
    loss = metric_loss(name)(torch.from_numpy(codes).float(), torch.from_numpy(LABELS))
    assert loss.shape == ()
    assert loss.item() == pytest.approx(BY_HAND[name](codes), rel=1e-4)


def test_the_names_are_those_of_a_config():
    assert get_args(MetricLossName) == ("", *METRIC_LOSSES)


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(AttractorError, match=r"^unknown metric loss 'tripled'.*'triplet'"):
        metric_loss("tripled")


@pytest.mark.parametrize("name", METRIC_LOSSES)
def test_gradient_descent_brings_the_codes_of_a_class_together(name):
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(3), 8)
    latent = torch.from_numpy(rng.standard_normal((24, 4))).float().requires_grad_()
    loss = metric_loss(name)
    optimizer = torch.optim.Adam([latent], lr=0.05)

    def separation():
        return silhouette_score(latent.detach().numpy(), labels, metric="cosine")

    assert separation() < 0.1
    for _ in range(100):
        optimizer.zero_grad()
        loss(latent, torch.from_numpy(labels)).backward()
        optimizer.step()
    # N-pairs moves one pair of each class only.
    if name == "npair":
        rows = np.concatenate([np.flatnonzero(labels == label)[:2] for label in range(3)])
        assert silhouette_score(latent.detach().numpy()[rows], labels[rows], metric="cosine") > 0.5
    else:
        assert separation() > 0.5


@pytest.mark.parametrize("name", METRIC_LOSSES)
@pytest.mark.parametrize("labels", [[0], [0, 1, 2], [1, 1, 1], [0, 0, 1]])
def test_a_batch_with_few_pairs_has_a_finite_loss_and_gradient(name, labels):
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(len(labels), 4, generator=generator).requires_grad_()
    loss = metric_loss(name)(latent, torch.tensor(labels))
    loss.backward()
    assert loss.shape == ()
    assert bool(loss.isfinite())
    assert latent.grad is not None
    assert bool(latent.grad.isfinite().all())


@pytest.mark.parametrize("name", METRIC_LOSSES)
def test_autocast_changes_nothing(codes, name):
    loss = metric_loss(name)
    latent, labels = torch.from_numpy(codes).float(), torch.from_numpy(LABELS)
    expected = loss(latent, labels)
    with torch.autocast("cpu", torch.bfloat16):
        result = loss(latent, labels)
    assert result.dtype == torch.float32
    assert torch.equal(result, expected)


@pytest.mark.parametrize("name", METRIC_LOSSES)
def test_codes_in_16_bit_are_compared_in_32(codes, name):
    loss = metric_loss(name)
    latent, labels = torch.from_numpy(codes).bfloat16(), torch.from_numpy(LABELS)
    result = loss(latent, labels)
    assert result.dtype == torch.float32
    assert torch.equal(result, loss(latent.float(), labels))
