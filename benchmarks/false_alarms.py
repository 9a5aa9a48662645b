"""Known test images that are rejected at 5 %, with several divisions into training and calibration.

    python benchmarks/false_alarms.py --in-datasets scenes cifar10.npz --channels 3
    python benchmarks/false_alarms.py --in-datasets mnist fashion --recipe default --splits 0 1 2

With n calibration images, the rate of one division varies as Beta(k, n + 1 - k) does, k the largest
number of them that may be rejected, and the share of m test images is beta-binomial: its standard
deviation is in the last column. A mean over seeds of one division keeps the error of its
calibration images; a mean over divisions does not. Prints a table in Markdown.
"""

import argparse
import math

import numpy as np
from evidence import Job, jobs_of, prepared, shared_arguments, trained
from scipy.stats import betabinom

from attractor_ae import fit_detector, load
from attractor_ae.training import training_part, with_features

ALPHA = 0.05


def rejected(job: Job) -> tuple[float, int, int]:
    """Return the share of test images rejected, and the numbers of calibration and test images."""
    config, images, form = prepared(job)
    shared = {"root": job.root, "image_format": form}
    test = load(job.in_dataset, "test", per_class=job.per_class, **shared)
    images, test = (with_features(config, some) for some in (images, test))
    detector = fit_detector(trained(job, images).path, images)
    flagged = detector.predict(test.inputs).numpy() > 1 - ALPHA
    return float(flagged.mean()), len(training_part(config, images)[1]), len(test)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shared_arguments(parser)
    parser.add_argument("--recipe", default="photographs")
    parser.add_argument("--channels", type=int, choices=(1, 3), default=1)
    parser.add_argument("--splits", nargs="+", type=int, default=list(range(8)))
    parser.set_defaults(seeds=[0])
    a = parser.parse_args()
    print("| D_in | divisions | rejected at 5 %, each | mean | deviation | by chance |")
    print("|---|---|---|---|---|---|")
    recipes = [f"{a.recipe}:dataset.channels={a.channels}:dataset.split_seed={s}" for s in a.splits]
    for name in a.in_datasets:
        jobs = [job for job in jobs_of(a, recipes) if job.in_dataset == name]
        shares, kept, tested = zip(*map(rejected, jobs), strict=True)
        n, m = kept[0], tested[0]
        k = math.floor(ALPHA * (n + 1))
        chance = betabinom(m, k, n + 1 - k).std() / m
        each = ", ".join(f"{100 * share:.1f}" for share in shares)
        numbers = [np.mean(shares), np.std(shares, ddof=1), chance]
        shown = [f"{100 * value:.1f}" for value in numbers]
        colour = "grey" if a.channels == 1 else "RGB"
        place = f"{jobs[0].label}, {colour}: {n} calibration, {m} test images"
        print("|", " | ".join([place, str(len(jobs)), each, *shown]), "|", flush=True)


if __name__ == "__main__":
    main()
