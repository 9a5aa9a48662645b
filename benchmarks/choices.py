"""Measure what the defaults of the estimator are chosen by, on a finished run.

    python benchmarks/choices.py RUN... > docs/choices-table.md

For each mask scope, head and number of head masks: accuracy on held-out images of the known
classes, mean AUROC over the built-in D_outs, and the time of fit and scoring, at the recursion that
the run reports; mean and standard deviation over the given runs (train them with several seeds).
"""

import argparse
import itertools
import time
from collections import defaultdict

import numpy as np

from attractor_ae import Run, evaluate, load
from attractor_ae.workflows import fit_estimator

OUTS = ("faces", "textures", "photos")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", help="folders of finished runs")
    parser.add_argument("--head-masks", type=int, nargs="+", default=[1, 4, 16])
    arguments = parser.parse_args()
    measured = defaultdict(list)
    for folder in arguments.runs:
        run = Run.open(folder)
        config = run.config()
        n = config.evaluation.nbr_of_samples_per_class
        known = load(config.dataset.name, "test", per_class=n)
        outs = [load(name, "test") for name in OUTS]
        for choice in itertools.product(("trial", "sample"), ("mlp", "knn"), arguments.head_masks):
            settings = dict(zip(("mask_scope", "head", "head_masks"), choice, strict=True))
            changed = config.evaluation.model_copy(update=settings)
            began = time.perf_counter()
            estimator = fit_estimator(run, config.model_copy(update={"evaluation": changed}))
            fitted = time.perf_counter()
            metrics = evaluate(estimator, known, outs).metrics()
            scored = time.perf_counter()
            aurocs = [row["auroc"] for row in metrics["out"].values()]
            measured[choice].append(
                [
                    100 * metrics["accuracy"],
                    *(100 * auroc for auroc in aurocs),
                    fitted - began,
                    scored - fitted,
                ]
            )
    columns = ["accuracy", *(f"AUROC {name}" for name in OUTS), "fit, s", "scoring, s"]
    print("| masks | head | head masks |", " | ".join(columns), "|")
    print("|---|---|---|" + "---|" * len(columns))
    for (scope, head, masks), rows in measured.items():
        cells = [
            f"{mean:.1f} ± {deviation:.1f}"
            for mean, deviation in zip(np.mean(rows, 0), np.std(rows, 0), strict=True)
        ]
        print(f"| {scope} | {head} | {masks} |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
