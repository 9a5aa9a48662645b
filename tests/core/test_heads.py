import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier

from attractor_ae import _perceptrons
from attractor_ae._errors import AttractorError
from attractor_ae._perceptrons import fit_perceptrons
from attractor_ae.core.heads import HEAD_INPUTS, HEADS, KNNHead, MLPHead, PaperMLPHead, make_head


@pytest.fixture(scope="module")
def split():
    """Real digits of 64 features, as codes of two recursions: one of them of another scale."""
    x, y = load_digits(return_X_y=True)
    x = x + np.random.default_rng(0).normal(0, 0.01, x.shape)  # no two neighbours equally far
    a, b, ya, yb = train_test_split(x.astype(np.float32), y, random_state=0)

    def codes(features):
        return torch.from_numpy(np.stack([features, 1000 * features[:, ::-1] + 5]))

    return codes(a), torch.from_numpy(ya), codes(b), torch.from_numpy(yb)


@pytest.mark.parametrize("name", HEADS)
def test_probabilities_are_distributions_and_right(split, name, unchanged_random_state):
    train, labels, test, truth = split
    head = make_head(name, "code").fit(train, labels, 10, seed=0)
    p = head.predict_proba(test, range(2))
    assert p.shape == (2, len(truth), 10)
    assert p.dtype == torch.float32
    torch.testing.assert_close(p.sum(-1), torch.ones(2, len(truth)))
    assert (p >= 0).all()
    for recursion in range(2):
        assert (p[recursion].argmax(-1) == truth).float().mean() > 0.9


def test_the_perceptron_is_as_good_as_scikit_learns(split):
    train, labels, test, truth = split
    ours = MLPHead().fit(train, labels, 10, seed=0).predict_proba(test, range(2))[0].argmax(-1)
    # One hidden layer as wide as the code, as in the original.
    reference = MLPClassifier((64,), max_iter=2000, random_state=0).fit(train[0], labels)
    accuracy = (ours == truth).float().mean().item()
    assert accuracy > reference.score(test[0], truth) - 0.02


@pytest.fixture
def few_epochs(monkeypatch):
    monkeypatch.setattr(MLPHead, "EPOCHS", 5)


class InOrder(np.random.Generator):
    """A generator that never shuffles."""

    def permutation(self, count):
        return np.arange(count)


class Started(MLPClassifier):
    """scikit-learn's perceptron, from the given first ``layers``."""

    def _init_coef(self, *_):
        return self.layers.pop(0)


def test_the_published_perceptron_takes_the_steps_of_scikit_learns(monkeypatch):
    """From the same first weights to the same last ones, with two batches of unequal size."""
    labels = np.arange(250) % 3
    noise = np.random.default_rng(0).standard_normal((2, 250, 6))
    x = noise + np.array([3, 0.3])[:, None, None] * np.eye(6)[labels]  # the second is harder

    def fitted():
        codes, targets = torch.from_numpy(x), torch.from_numpy(labels)
        layers = fit_perceptrons(codes, 5, targets, 3, InOrder(np.random.PCG64(0)))
        return [[layer[head].squeeze(0).numpy() for layer in layers] for head in range(2)]

    monkeypatch.setattr(_perceptrons, "TOLERANCE", 3e-3)
    monkeypatch.setattr(_perceptrons, "EPOCHS", 0)
    first = fitted()
    monkeypatch.setattr(_perceptrons, "EPOCHS", 1000)
    epochs = []
    for codes, (w1, b1, w2, b2), ours in zip(x, first, fitted(), strict=True):
        reference = Started((5,), max_iter=1000, tol=3e-3, shuffle=False)
        reference.layers = [(w1.copy(), b1.copy()), (w2.copy(), b2.copy())]
        reference.fit(codes, labels)
        theirs = zip(reference.coefs_, reference.intercepts_, strict=True)
        for a, b in zip(ours, [part for layer in theirs for part in layer], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)
        epochs.append(reference.n_iter_)
    assert epochs[0] != epochs[1]  # one goes on without the other
    assert max(epochs) < 1000


def test_two_classes_have_two_softmax_outputs(split):
    """A difference: scikit-learn's perceptron has one logistic output."""
    train, labels, test, truth = split
    x, y = train[:, labels < 2], labels[labels < 2]
    assert MLPClassifier((4,)).partial_fit(x[0], y, classes=[0, 1]).n_outputs_ == 1
    p = PaperMLPHead().fit(x, y, 2, seed=0).predict_proba(test[:, truth < 2], [0])
    assert p.shape[-1] == 2
    assert (p[0].argmax(-1) == truth[truth < 2]).float().mean() > 0.95


def test_recursions_are_separate_problems(split, few_epochs):
    """Fitting two recursions at once gives each the head that it has when fitted alone."""
    train, labels, test, _ = split
    both = MLPHead().fit(train, labels, 10, seed=3).predict_proba(test, range(2))
    alone = MLPHead().fit(train[:1], labels, 10, seed=3).predict_proba(test[:1], range(1))
    torch.testing.assert_close(both[:1], alone, rtol=1e-3, atol=1e-4)


def test_the_temperature_is_that_of_the_greatest_likelihood(split, few_epochs):
    """Of the mean over the trials, against a search over a grid; classes stay as they were."""
    train, labels, test, truth = split
    head = MLPHead().fit(train, labels, 10, seed=0)
    noise = torch.randn(2, 3, *test.shape[1:], generator=torch.Generator().manual_seed(0))
    trials = test[:, None] + noise * train.std(1)[:, None, None]
    before = head.predict_proba(trials.flatten(1, 2), range(2))

    def likelihood(p):
        mean = p.unflatten(1, trials.shape[1:3]).double().mean(1)
        return mean[:, torch.arange(len(truth)), truth].clamp_min(1e-12).log().mean(1)

    head.calibrate(trials, truth)
    found = head.state["temperature"].flatten()
    reached = likelihood(head.predict_proba(trials.flatten(1, 2), range(2)))
    assert (reached >= likelihood(before)).all()
    for temperature in np.exp(np.linspace(-2.9, 2.9, 59)):
        head.state["temperature"] = torch.full((2, 1, 1), float(temperature))
        tried = head.predict_proba(trials.flatten(1, 2), range(2))
        assert (likelihood(tried) <= reached + 1e-5).all()
        assert torch.equal(tried.argmax(-1), before.argmax(-1))
    assert not torch.allclose(found, torch.ones(2))


def test_neighbours_are_scikit_learns_with_fifty_weighted_by_distance(split):
    train, labels, test, _ = split
    p = KNNHead().fit(train, labels, 10, seed=0).predict_proba(test, range(2))
    for recursion in range(2):
        reference = KNeighborsClassifier(50, weights="distance").fit(train[recursion], labels)
        np.testing.assert_allclose(
            p[recursion], reference.predict_proba(test[recursion]), atol=1e-6
        )


def test_neighbours_with_few_codes_and_a_class_without_any():
    codes = torch.eye(4)[None]
    labels = torch.tensor([0, 0, 2, 2])
    p = KNNHead().fit(codes, labels, 3, seed=0).predict_proba(codes, [0])
    assert torch.equal(p[0], torch.eye(3)[labels])


@pytest.mark.parametrize("name", HEADS)
def test_a_path_keeps_what_a_later_code_has_lost(split, name):
    """At recursion 1 every image has the same code; what recursion 0 knew is still read."""
    train, labels, test, truth = split
    train, test = train.clone(), test.clone()
    train[1], test[1] = 7, 7
    accuracies = {}
    for reads in HEAD_INPUTS:
        head = make_head(name, reads).fit(train, labels, 10, seed=0)
        right = head.predict_proba(test, range(2)).argmax(-1) == truth
        accuracies[reads] = right.float().mean(-1)
    assert accuracies["code"][1] < 0.2
    assert accuracies["path"][1] > 0.93
    # There is nothing before recursion 0.
    assert (accuracies["path"][0] - accuracies["code"][0]).abs() < 0.02


def test_neighbours_of_paths_are_scikit_learns_of_codes_side_by_side(split):
    train, labels, test, _ = split
    p = KNNHead("path").fit(train, labels, 10, seed=0).predict_proba(test, range(2))
    reference = KNeighborsClassifier(50, weights="distance").fit(np.hstack([*train]), labels)
    np.testing.assert_allclose(p[1], reference.predict_proba(np.hstack([*test])), atol=1e-6)
    assert torch.equal(
        p[:1], KNNHead().fit(train[:1], labels, 10, seed=0).predict_proba(test[:1], range(1))
    )


def test_the_perceptron_of_a_path_sees_no_later_code(split, few_epochs):
    """What recursion 0 says is the same whatever comes at recursion 1."""
    train, labels, test, _ = split
    head = MLPHead("path").fit(train, labels, 10, seed=0)
    other = torch.stack([test[0], torch.rand_like(test[1])])
    before, after = head.predict_proba(test, range(2)), head.predict_proba(other, range(2))
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(before[1], after[1])


@pytest.mark.parametrize("reads", HEAD_INPUTS)
@pytest.mark.parametrize("name", HEADS)
def test_state_restores_the_head(split, name, reads):
    train, labels, test, _ = split
    head = make_head(name, reads).fit(train[:, :200], labels[:200], 10, seed=0)
    again = make_head(name, reads, head.state)
    assert torch.equal(again.predict_proba(test, range(2)), head.predict_proba(test, range(2)))


def test_an_unknown_head_is_named():
    with pytest.raises(AttractorError, match="unknown head 'mpl'; did you mean 'mlp'"):
        make_head("mpl", "code")
    with pytest.raises(AttractorError, match="unknown head input 'paths'; did you mean 'path'"):
        MLPHead("paths")


@pytest.mark.parametrize("reads", HEAD_INPUTS)
@pytest.mark.parametrize("name", HEADS)
def test_one_recursion_is_that_of_all(split, name, reads):
    """Codes of later recursions are not needed."""
    train, labels, test, _ = split
    head = make_head(name, reads).fit(train[:, :200], labels[:200], 10, seed=0)
    every = head.predict_proba(test, [0, 1])
    torch.testing.assert_close(head.predict_proba(test[:1], [0])[0], every[0])
    torch.testing.assert_close(head.predict_proba(test, [1])[0], every[1])
