"""Measure where the attractors of features are: at training images, class means, or nowhere.

    python benchmarks/feature_attractors.py RUN --root .real

Training images, spread over the classes, are iterated under several masks. An image stands still if
its last step is shorter than 1 % of the mean length of a point; end points closer than 5 % of it to
each other are one attractor. Distances are Euclidean, divided by the mean distance of a training
image to its nearest other one.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from demo_claims import attractors

from attractor_ae import AttractorDetector, Run, load
from attractor_ae.attractors import nearest
from attractor_ae.data import ImageFormat
from attractor_ae.experiment.fit import fit_detector
from attractor_ae.training import training_part, with_features


def main() -> None:
    """Print a row per mask."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--root", type=Path, default=Path(".real"), help="data root")
    parser.add_argument("--images", type=int, default=200, help="training images to iterate")
    parser.add_argument("--masks", type=int, default=4)
    parser.add_argument("--recursions", type=int, default=200)
    a = parser.parse_args()
    config = Run.open(a.run).config()
    dataset = config.dataset
    form = ImageFormat(dataset.image_size, dataset.channels)
    images = load(
        dataset.name, per_class=dataset.nbr_of_samples_per_class, root=a.root, image_format=form
    )
    detector = fit_detector(a.run, images)
    if not isinstance(detector, AttractorDetector):
        parser.error(f"{a.run}: has no attractors")
    train = training_part(config, with_features(config, images))[0]
    labels = torch.from_numpy(train.labels)
    known = detector.network.space.points(torch.from_numpy(train.features))
    means = torch.stack([known[labels == c].mean(0) for c in labels.unique()])
    length = known.norm(dim=1).mean()
    neighbours = torch.cdist(known, known).fill_diagonal_(torch.inf)
    apart = neighbours.min(1).values.mean()
    rows = np.linspace(0, len(train) - 1, a.images).astype(int)
    print(
        "| mask | images | stand still | attractors | to a training image | of its class, % "
        "| to a class mean | of its class, % |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for mask, path in enumerate(detector.trajectory(train.features[rows], a.recursions, a.masks)):
        before, ends = path.reconstructions[-2:]
        still = (ends - before).norm(dim=1) < 0.01 * length
        count = attractors(ends[still], 0.05 * float(length))
        near, image = nearest(ends, known)
        close, mean = nearest(ends, means)
        of_image = 100 * (labels[image] == labels[rows]).double().mean()
        of_mean = 100 * (mean == labels[rows]).double().mean()
        print(
            f"| {mask} | {len(rows)} | {int(still.sum())} | {count} "
            f"| {(near / apart).median():.2f} | {of_image:.0f} "
            f"| {(close / apart).median():.2f} | {of_mean:.0f} |"
        )


if __name__ == "__main__":
    main()
