"""Measure what the defaults of the detector are chosen by, on a finished run.

    python benchmarks/choices.py RUN...

For each mask scope, head and number of head masks: accuracy on held-out images of the known
classes, mean AUROC over the built-in D_outs, and the time of fit and scoring, at the recursion that
the run reports; mean and standard deviation over the given runs (train them with several seeds).
"""

import argparse
import itertools
import time
from collections import defaultdict

import numpy as np

from attractor_ae import Run, evaluate, fit_detector, load

OUTS = ("faces", "textures", "photos")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", help="folders of finished runs")
    parser.add_argument("--head-masks", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--per-class", type=int, default=20, help="test images of each class")
    arguments = parser.parse_args()
    measured = defaultdict(list)
    for folder in arguments.runs:
        config = Run.open(folder).config()
        name = config.dataset.name
        train = load(name, per_class=config.dataset.nbr_of_samples_per_class)
        known, *outs = (load(n, "test", per_class=arguments.per_class) for n in (name, *OUTS))
        for head, masks in itertools.product(("mlp", "knn"), arguments.head_masks):
            overrides = [f"evaluation.head={head}", f"evaluation.head_masks={masks}"]
            began = time.perf_counter()
            detector = fit_detector(folder, train, overrides=overrides)
            fit_seconds = time.perf_counter() - began
            for scope in ("trial", "sample"):
                detector.mask_scope = scope  # heads are fitted alike for both
                began = time.perf_counter()
                metrics = evaluate(detector, known, outs).metrics()
                aurocs = [row["auroc"] for row in metrics["out"].values()]
                measured[scope, head, masks].append(
                    [
                        100 * metrics["accuracy"],
                        *(100 * auroc for auroc in aurocs),
                        fit_seconds,
                        time.perf_counter() - began,
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
