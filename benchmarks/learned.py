"""Whether trainings learn: the self-check for several sets, numbers of images and seeds.

    python benchmarks/learned.py --in-datasets mnist fashion gtsrb.npz cifar10.npz scenes
    python benchmarks/learned.py --in-datasets gtsrb.npz cifar10.npz scenes --channels 3
    python benchmarks/learned.py --in-datasets mnist cifar10.npz --seeds 0 --counts 50 --shuffled

Accuracy (of a head on the codes, without dropout) and R² of reconstruction are those of test
images. ``--shuffled`` permutes the training labels, so that the classes cannot be learned.
Trainings on 250 images per class are those of `peers.py`. Prints a table in Markdown.
"""

import argparse
from dataclasses import replace

import numpy as np
import torch
from evidence import TRAINED, Job, jobs_of, prepared, shared_arguments, trained
from peers import CELLS, Cell

from attractor_ae import load
from attractor_ae._files import load_weights, read_tensors
from attractor_ae.training import training_part
from attractor_ae.training.objective import build_network
from attractor_ae.training.self_check import check_network


def row_of(job: Job, count: int, shuffled: bool) -> list[str]:
    """Train on a number of images per class, and return the cells of its row."""
    torch.set_num_threads(1)
    config, _, form = prepared(job)
    shared = {"root": job.root, "image_format": form}
    images = load(job.in_dataset, per_class=count, **shared)
    test = load(job.in_dataset, "test", per_class=job.per_class, **shared)
    if shuffled:
        labels = np.random.default_rng(job.seed).permutation(images.labels)
        images = replace(images, labels=labels)
    if shuffled or count != TRAINED:
        name = f"{count}-per-class" + ("-shuffled" if shuffled else "")
        job = replace(job, folder=job.folder / name)
    run = trained(job, images)
    network = build_network(config, len(images.classes))
    load_weights(network, read_tensors(run.weights_file)[0], run.weights_file)
    found = check_network(config, network, training_part(config, images)[0], test)
    stored = run.self_check()
    return [
        job.label,
        f"{count}{', labels shuffled' if shuffled else ''}",
        str(job.seed),
        f"{100 * (found.accuracy or 0):.1f} ({100 * found.chance:.0f})",
        f"{found.r2:.2f}",
        "yes" if stored["restarted"] else "no",
        f"{stored['self_check']}: {'; '.join(stored['failures'])}".removesuffix(": "),
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shared_arguments(parser)
    parser.add_argument("--channels", type=int, choices=(1, 3), default=1)
    parser.add_argument("--counts", nargs="+", type=int, default=[50, 100, TRAINED])
    parser.add_argument("--shuffled", action="store_true")
    a = parser.parse_args()
    print("| D_in | images per class | seed | accuracy (chance) | R² | restarted | self-check |")
    print("|---|---|---|---|---|---|---|")
    for job in jobs_of(a):
        for count in a.counts:
            cell = Cell(job, a.channels, "attractors", CELLS)
            print("|", " | ".join(row_of(cell.default, count, a.shuffled)), "|", flush=True)


if __name__ == "__main__":
    main()
