import json

import numpy as np
import pytest

from attractor_ae.experiment.result import DatasetScores, EvaluationResult
from attractor_ae.reporting import compare
from released import FOLDER, arrays

ROWS = json.loads((FOLDER / "latex_rows.json").read_text(encoding="utf-8"))
STORED = arrays("latex_entropies.npz")
CASES = [(group, int(r)) for group, found in ROWS.items() for r in found["rows"]]


def scored(name, split, role, entropies, correct=None):
    """Return the scores of one recursion; predictions are right where ``correct`` is."""
    n = len(entropies)
    right = np.ones(n, dtype=bool) if correct is None else correct
    p = np.stack([right, ~right], axis=1)[None].astype(np.float32)
    labels = np.zeros(n, dtype=np.int64) if role != "out" else np.full(n, -1)
    return DatasetScores(name, split, role, labels, p, {"stored": entropies[None]})


def result(known, *others):
    return EvaluationResult("m", ("right", "wrong"), 0, known, out_scores=others, score="stored")


def row(grid, label, keys):
    metrics = {metric.key: metric for metric in grid.metrics}
    cells = [grid.cell("m", label, key).text(metrics[key], r"\pm") for key in keys]
    return " & ".join(cells)


@pytest.mark.parametrize(("group", "r"), CASES)
def test_rows_of_detection(group, r):
    described = ROWS[group]
    for k, out in enumerate(described["d_outs"]):
        # The released code draws new masks for D_in with each D_out.
        results = [
            result(scored("known", "test", "in", u[k, r]), scored(out, "test", "out", v[k, r]))
            for u, v in zip(STORED[f"{group}_in"], STORED[f"{group}_out"], strict=True)
        ]
        found = compare({"m": results}, grid="paper").detection
        expected = described["rows"][str(r)][f"ood-{out}"]
        assert row(found, out, ("auroc", "aupr", "fpr95")) == expected


@pytest.mark.parametrize(("group", "r"), CASES)
def test_rows_of_wrong_predictions(group, r):
    described = ROWS[group]
    for k, split in enumerate(described["splits"]):
        results = [
            result(scored("known", split, "in", u[k, r], right[k, r]))
            for u, right in zip(STORED[f"{group}_mis"], STORED[f"{group}_correct"], strict=True)
        ]
        found = compare({"m": results}, grid="paper").accuracy
        keys = [f"misclassification_{key}" for key in ("auroc", "aupr", "fpr95")]
        assert row(found, "known", keys) == described["rows"][str(r)][split]


@pytest.mark.parametrize(("group", "r"), CASES)
def test_wasserstein_sums(group, r):
    described = ROWS[group]
    first = described["d_outs"].index("cifar10")
    results = []
    for u, v in zip(STORED[f"{group}_in"], STORED[f"{group}_out"], strict=True):
        outs = [scored(name, "test", "out", v[k, r]) for k, name in enumerate(described["d_outs"])]
        results.append(result(scored("known", "test", "in", u[first, r]), *outs))
    found = compare({"m": results}, grid="paper").wasserstein
    for key, name in (("in_to_out", "test"), ("reference_to_out", "cifar10")):
        mean, deviation = described["wasserstein"][str(r)]["mean_and_deviation"][name]
        assert row(found, "known", [key]) == rf"{mean} \pm {deviation}"
        values = [f"{value:.3f}" for value in found.cell("m", "known", key).values]
        assert values == described["wasserstein"][str(r)][name]
