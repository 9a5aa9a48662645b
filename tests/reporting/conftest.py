"""Results of made-up detectors, in which every number is known."""

import numpy as np
import pytest

from attractor_ae import EvaluationResult
from attractor_ae.experiment.result import DatasetScores

CLASSES = tuple("abcd")


def scores(name, role, concentration, n, seed, recursions=3):
    rng = np.random.default_rng(seed)
    shape = (recursions, n)
    p = rng.dirichlet(np.full(4, concentration), size=shape).astype(np.float32)
    labels = rng.integers(0, 4, n) if role != "out" else np.full(n, -1)
    if role != "out":
        # Of known images most are predicted right.
        right = rng.random(n) < 0.7
        for r in range(recursions):
            place = p[r].argmax(-1)
            rows = np.flatnonzero(right)
            best, there = p[r, rows, place[rows]], p[r, rows, labels[rows]]
            p[r, rows, place[rows]], p[r, rows, labels[rows]] = there, best
    return DatasetScores(name, "test", role, labels, p)


def made_result(seed=0, method="MC-AE", recursions=3, outs=("one", "two")):
    first = 10 * seed
    return EvaluationResult(
        method,
        CLASSES,
        min(1, recursions - 1),
        scores("known", "in", 0.3, 60, first, recursions),
        (scores("shifted", "covariate_shift", 0.5, 50, first + 1, recursions),),
        tuple(
            scores(name, "out", 1.0 + 2 * i, 40 - 3 * i, first + 2 + i, recursions)
            for i, name in enumerate(outs)
        ),
    )


@pytest.fixture(scope="session")
def make_result():
    return made_result


@pytest.fixture(scope="session")
def result():
    return made_result()


@pytest.fixture(scope="session")
def seeds():
    """Three seeds of one method."""
    return [made_result(seed) for seed in range(3)]


@pytest.fixture(scope="session")
def methods():
    """Two seeds of a method with recursions, and one of a method without."""
    return [made_result(0), made_result(1), made_result(2, "MC dropout", 1)]
