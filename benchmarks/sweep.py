"""Measure what a sweep gains by training several runs at once, each with fewer threads.

    python benchmarks/sweep.py

As many runs as cores, of preset `quick` with fewer epochs, once one after the other with all cores'
threads (``workers=1``), and once all at once with one thread each, the default. Both do the same
steps; the start of the processes and the reading of the images count. Runs are repeated in turn,
and the median and range of the ratio are printed as a row of Markdown.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from statistics import median

from attractor_ae import preset
from attractor_ae.experiment.sweep import seed_jobs, sweep

CORES = os.cpu_count() or 1


def seconds(workers: int, epochs: int) -> float:
    """Return how long a sweep with that many workers takes."""
    config = preset("quick", [f"training.epochs={epochs}", "training.device=cpu"])
    with tempfile.TemporaryDirectory() as folder:
        jobs = seed_jobs(config, range(CORES), Path(folder) / "runs")
        began = time.perf_counter()
        report = sweep(jobs, workers=workers)
        taken = time.perf_counter() - began
    if len(report.finished) != len(jobs):
        raise SystemExit(f"failed: {report.failed[0].error}")
    return taken


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    a = parser.parse_args()
    seconds(CORES, 1)  # images are decoded, files are in memory
    pairs = [(seconds(1, a.epochs), seconds(CORES, a.epochs)) for _ in range(a.repeats)]
    ratios = sorted(one / many for one, many in pairs)
    print("| runs | epochs | one after the other, s | all at once, s | ratio |")
    print("|---|---|---|---|---|")
    print(
        f"| {CORES} | {a.epochs} | {median(p[0] for p in pairs):.1f} | "
        f"{median(p[1] for p in pairs):.1f} | "
        f"{ratios[0]:.2f} / **{median(ratios):.2f}** / {ratios[-1]:.2f} |"
    )


if __name__ == "__main__":
    main()
