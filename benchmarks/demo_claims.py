"""Measure what README says of the demo, on the folder that `make demo` wrote.

    python benchmarks/demo_claims.py demo

The first table is about attractors: training images, spread over the classes, are iterated under
several masks. Those that stand still at the end (a last step shorter than 0.1) are counted, and the
attractors that they have reached; the rest still moves, or diverges. Distances are Euclidean, over
the 4 096 pixels of standardised images, to the nearest training image. The second table is about
verdicts: the share of each set's test images whose OOD score is above 0.95.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from attractor_ae import Run, load, load_detector
from attractor_ae.attractors import nearest
from attractor_ae.core.detector import AttractorDetector

SETS = ("mnist5k", "digits8", "mirrored", "faces", "textures", "photos")
STANDS_STILL = 0.1


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of the demo")
    parser.add_argument("--images", type=int, default=100, help="training images to iterate")
    parser.add_argument("--masks", type=int, default=6)
    parser.add_argument("--recursions", type=int, default=100)
    parser.add_argument("--tolerance", type=float, default=1.0, help="distance of one attractor")
    arguments = parser.parse_args()
    detector = load_detector(arguments.folder / "detector.safetensors")
    if not isinstance(detector, AttractorDetector):
        parser.error(f"{arguments.folder}: has no attractors")
    print_attractors(detector, Run.open(arguments.folder), arguments)
    print()
    print_verdicts(detector)


def print_attractors(detector: AttractorDetector, run: Run, arguments: argparse.Namespace) -> None:
    """Print where training images end, a row per mask."""
    dataset = run.config().dataset
    train = load(dataset.name, per_class=dataset.nbr_of_samples_per_class)
    test = load(dataset.name, "test", per_class=10)
    known = points(detector, train.images)
    distance, _ = nearest(points(detector, test.images), known)
    print(f"Distance of a test image to the nearest training image: {distance.mean():.1f}.\n")
    print("| mask | images | stand still | attractors | median distance | of its class, % |")
    print("|---|---|---|---|---|---|")
    rows = np.linspace(0, len(train) - 1, arguments.images).astype(int)
    start, labels = train.images[rows], train.labels
    paths = detector.trajectory(start, arguments.recursions, arguments.masks)
    for mask, path in enumerate(paths):
        before, ends = path.reconstructions[-2:].flatten(2)
        still = (ends - before).norm(dim=1) < STANDS_STILL
        distance, index = nearest(ends, known)
        same = 100 * (labels[index.numpy()] == labels[rows]).mean()
        count = attractors(ends[still], arguments.tolerance)
        print(
            f"| {mask} | {len(rows)} | {int(still.sum())} | {count} | {distance.median():.1f} "
            f"| {same:.0f} |"
        )


def print_verdicts(detector: AttractorDetector) -> None:
    """Print how many test images of each set are above 0.95."""
    print("| set | images | OOD score above 0.95, % |")
    print("|---|---|---|")
    for name in SETS:
        images = load(name, "test", per_class=100).images
        above = 100 * (detector.predict(images) > 0.95).double().mean()
        print(f"| {name} | {len(images)} | {above:.1f} |")


def points(detector: AttractorDetector, images: np.ndarray) -> torch.Tensor:
    """Return uint8 images as rows of points of the detector's space."""
    return detector.network.space.points(torch.from_numpy(images).float() / 255).flatten(1)


def attractors(ends: torch.Tensor, tolerance: float) -> int:
    """Return the number of end points that are further apart than the tolerance."""
    kept: list[torch.Tensor] = []
    for end in ends:
        if all((end - other).norm() > tolerance for other in kept):
            kept.append(end)
    return len(kept)


if __name__ == "__main__":
    main()
