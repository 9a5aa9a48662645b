import io

import numpy as np
import pytest
from rich.console import Console

from attractor_ae import EvaluationResult
from attractor_ae.core.scores import SCORES
from attractor_ae.experiment.result import DatasetScores
from attractor_ae.reporting import detection_table, recursion_table, score_table


def constant(name, role, p, n):
    """Scores of images that all have the same distribution (p, 1 - p)."""
    probabilities = np.tile(np.array([p, 1 - p], np.float32), (2, n, 1))
    return DatasetScores(name, "test", role, np.full(n, -1 if role == "out" else 0), probabilities)


@pytest.fixture
def result():
    return EvaluationResult(
        "MC-AE",
        ("a", "b"),
        1,
        constant("sure", "in", 1.0, 6),
        (constant("moved", "covariate_shift", 0.25, 4),),
        (constant("unsure", "out", 0.5, 3),),
    )


def text_of(table, width=200):
    console = Console(width=width, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()


def rows(text):
    return [[c.strip() for c in line.split("│")] for line in text.splitlines() if "│" in line]


def test_the_detection_table_by_hand(result):
    text = text_of(detection_table(result))
    # Entropy 0 for the known, ln 2 / ln 2 = 1 for the unknown: told apart without error.
    # H(1/4, 3/4) = 0.5623 / 0.6931 = 0.811, and none of the shifted is taken for class a.
    assert rows(text) == [
        ["sure", "known", "6", "", "", "", "0.0", "100.0"],
        ["moved", "covariate shift", "4", "100.0", "100.0", "0.0", "81.1", "0.0"],
        ["unsure", "unknown", "3", "100.0", "100.0", "0.0", "100.0", ""],
    ]
    assert "accuracy on sure (test, 6 images): 100.0" in text
    assert "recursion 1" in text


def test_the_recursion_table_has_every_recursion(result):
    assert rows(text_of(recursion_table(result))) == [
        ["0", "100.0", "100.0"],
        ["1", "100.0", "100.0"],
    ]


@pytest.mark.parametrize("table_of", [detection_table, recursion_table, score_table])
def test_tables_of_three_d_outs_are_whole_in_80_columns(table_of):
    rng = np.random.default_rng(0)

    def measured(name, role):
        p = rng.uniform(size=(2, 30, 1)).astype(np.float32)
        scores = {score: rng.uniform(size=(2, 30)) for score in SCORES[1:]}
        labels = np.full(30, -1 if role == "out" else 0)
        return DatasetScores(name, "test", role, labels, np.concatenate((p, 1 - p), -1), scores)

    result = EvaluationResult(
        "MC-AE",
        ("a", "b"),
        1,
        measured("mnist5k", "in"),
        (measured("digits8", "covariate_shift"),),
        tuple(measured(name, "out") for name in ("faces", "textures", "photos")),
    )
    text = text_of(table_of(result), width=80)
    assert "…" not in text
    if table_of is score_table:
        assert [row[0] for row in rows(text)] == [*SCORES]
