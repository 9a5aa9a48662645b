"""Choose what the fused score combines: try every combination of two to five scores.

    python benchmarks/combinations.py --in-datasets fashion mnist gtsrb.npz cifar10.npz --seeds 0 1
    python benchmarks/combinations.py --recipe photographs --splits 0 1 2 3 4 --in-datasets ...

Trainings are those of `evidence.py`, made if they are missing. Each score takes part at recursion 0
and at the reported one, transformed as in the OOD score. Combinations are compared by what they
rank, on the images kept for calibration and on that half of the D_outs which choices are made on.
Calibration images that nearly equal a training image, as frames of one film do, are left out: they
would reward a score that knows training images by heart. The best are printed as Markdown, by their
mean AUROC over D_ins, seeds and D_outs, and what is fused by default with its place among all. With
``--splits`` there are columns of open-set splits too, and both kinds of unknown images count the
same.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from evidence import Job, jobs_of, prepared, shared_arguments, trained
from torch import Tensor

from attractor_ae import ImageSet, fit_detector, load
from attractor_ae.conformal import OODScore, component_values
from attractor_ae.core.scores import IMAGE_SCORES, OOD_SCORE
from attractor_ae.training import training_part, with_features

LARGEST = 5
"""Scores in a combination at most."""
LIMIT = 0.9
"""Of the correlation, at 16 x 16 pixels, of a calibration image with training images."""
TRANSFORMS = {
    "softplus": F.softplus,
    "none": lambda t: t,
    "positive part": F.relu,
    "its square": lambda t: t.relu().square(),
}
"""Of each component, before they are averaged."""
OPEN_SET = Path("build/open-set")
"""Folder of the trainings on open-set splits, those of `open_set.py`."""
_AT_ONCE = 500  # combinations


@dataclass(frozen=True, eq=False)
class Measured:
    """Of one training: each component's transformed values, of known images and of each D_out."""

    components: tuple[str, ...]
    default: tuple[str, ...]  # those of the OOD score
    known: Tensor  # (components, n)
    outs: tuple[Tensor, ...]  # each (components, m)


def measure(job: Job, transform: str) -> Measured:
    """Score the images of a training with everything that there is to combine."""
    config, images, image_format = prepared(job)
    if job.folder == OPEN_SET:
        images = images.open_set(job.seed)[0]
    run = trained(job, images)
    detector = fit_detector(run.path, images, overrides=job.settings)
    names = [name for name in detector.score_names if name != OOD_SCORE]
    r = detector.recursion
    training, kept = training_part(config, images)
    known = apart(kept, training)
    if job.folder == OPEN_SET:
        test = load(job.in_dataset, "test", per_class=100, root=job.root, image_format=image_format)
        unknown = test.open_set(job.seed)[1]
        outs = [unknown.take(range(0, len(unknown), 2))]
    else:
        known, outs = job.sets(known, image_format)
    training, known, *outs = (with_features(config, some) for some in (training, known, *outs))

    at_0 = [f"{name}@0" for name in names if name != "step"]  # reconstruction_error@0
    components = (*at_0, *(name for name in names if name not in IMAGE_SCORES))  # the same at r

    def scores(pixels: np.ndarray) -> dict[str, Tensor]:
        return detector.predict_scores(pixels, names).scores

    some = training.take(detector.standardising(len(training)).numpy())
    ood = OODScore.fit(scores(some.inputs), components)

    def transformed(images: ImageSet) -> Tensor:
        values = component_values(scores(images.inputs), components)[:, r]
        return TRANSFORMS[transform](ood.standardised(values, r))

    outside = tuple(map(transformed, outs))
    return Measured(components, detector.components, transformed(known), outside)


def apart(images: ImageSet, training: ImageSet) -> ImageSet:
    """Return the images whose correlation with each training image is at most ``LIMIT``."""

    def small(images: ImageSet) -> np.ndarray:
        pixels = images.images[:, :, ::4, ::4].reshape(len(images), -1).astype(np.float32)
        pixels = pixels - pixels.mean(1, keepdims=True)
        return pixels / np.linalg.norm(pixels, axis=1, keepdims=True).clip(1e-6)

    nearest = (small(images) @ small(training).T).max(1)
    return images.take(np.flatnonzero(nearest <= LIMIT).tolist())


def rates(measured: Measured, chosen: Tensor) -> Tensor:
    """Return mean and worst AUROC and mean FPR95 over the D_outs of combinations: (3, n)."""
    known = measured.known[chosen].mean(1).sort(-1).values  # (n, images)
    limit = known[:, -(-95 * known.shape[-1] // 100) - 1, None]
    aurocs, fprs = [], []
    for out in measured.outs:
        t = out[chosen].mean(1)
        # Half of what is equal counts as ranked right.
        twice = torch.searchsorted(known, t) + torch.searchsorted(known, t, right=True)
        aurocs.append(twice.double().mean(-1) / (2 * known.shape[-1]))
        fprs.append((t <= limit).double().mean(-1))
    found = torch.stack(aurocs)
    return torch.stack([found.mean(0), found.amin(0), torch.stack(fprs).mean(0)])


def all_rates(measured: Measured) -> tuple[list[tuple[str, ...]], Tensor]:
    """Return every combination and its rates, of shape (3, combinations)."""
    names, found = [], []
    for size in range(2, LARGEST + 1):
        names += combinations(measured.components, size)
        chosen = torch.combinations(torch.arange(len(measured.components)), size)
        found += [rates(measured, some) for some in chosen.split(_AT_ONCE)]
    return names, torch.cat(found, dim=-1)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shared_arguments(parser)
    parser.set_defaults(seeds=[0, 1])
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--splits", type=int, nargs="*", default=[], help="open-set splits")
    parser.add_argument("--transform", choices=TRANSFORMS, default="softplus")
    parser.add_argument("--best", type=int, default=10, help="how many are printed")
    a = parser.parse_args()
    jobs = jobs_of(a, [a.recipe], half="choosing")
    far, first = len(jobs), [job for job in jobs if job.seed == a.seeds[0]]
    jobs += [replace(job, seed=s, folder=OPEN_SET) for s in a.splits for job in first]
    # Fresh processes: a forked one would inherit PyTorch's threads.
    with ProcessPoolExecutor(a.jobs, mp_context=get_context("spawn")) as pool:
        found = list(pool.map(partial(measure, transform=a.transform), jobs))
    names, of_runs = zip(*map(all_rates, found), strict=True)
    names, of_runs = names[0], torch.stack(of_runs)  # of_runs: (runs, 3, combinations)
    mean = of_runs[:far].mean(0)
    if a.splits:
        mean = (mean + of_runs[far:].mean(0)) / 2
    kinds = ["seed"] * far + ["split"] * (len(jobs) - far)
    columns = [f"{job.label}, {kind} {job.seed}" for job, kind in zip(jobs, kinds, strict=True)]
    print("| place | combination |", " | ".join([*columns, "mean"]), "|")
    print("|---|---|" + "---|" * (len(columns) + 1))
    for place, index in enumerate(mean[0].argsort(descending=True).tolist(), start=1):
        default = set(names[index]) == set(found[0].default)
        if place <= a.best or default:
            triples = [*of_runs[..., index].tolist(), mean[:, index].tolist()]
            cells = [" / ".join(f"{100 * rate:.1f}" for rate in rates) for rates in triples]
            named = ", ".join(names[index]) + (" (the default)" if default else "")
            print(f"| {place} | {named} |", " | ".join(cells), "|")
    print(f"\nMean and worst AUROC, mean FPR95 over the D_outs; {len(names)} combinations.")


if __name__ == "__main__":
    main()
