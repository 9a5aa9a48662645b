"""Compare methods on the same features of a pretrained network.

    python benchmarks/feature_peers.py --in-datasets mnist fashion gtsrb.npz cifar10.npz scenes
    python benchmarks/feature_peers.py --in-datasets gtsrb.npz cifar10.npz scenes --channels 3

As `peers.py`, with the preset `photographs`. All methods see the standardised features of the same
images: MC-AE; a linear head (logistic regression) with the detectors of pytorch-ood that need no
feature maps; the residual of the principal components with 95 % of the variance; and FRE, a linear
autoencoder (Kamoi and Kobayashi, arXiv 2003.00402, in anomalib under this name), whose optimum is
that residual for its number of dimensions.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from evidence import finished, jobs_of, prepared, shared_arguments, trained
from peers import (
    CELLS,
    Cell,
    Method,
    detector_methods,
    detectors_on_features,
    pytorch_ood_methods,
    write_cell,
)
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from attractor_ae import ImageSet, fit_detector
from attractor_ae.core.scores import OOD_SCORE
from attractor_ae.core.spaces import Features
from attractor_ae.training import training_part, with_features


def linear_head(x: Tensor, labels: np.ndarray, classes: int) -> nn.Linear:
    """Return the linear layer of logistic regression."""
    fitted = LogisticRegression(max_iter=300).fit(x.numpy(), labels)
    head = nn.Linear(x.shape[1], classes)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(fitted.coef_))
        head.bias.copy_(torch.from_numpy(fitted.intercept_))
    return head


def baselines(points: "Points", training: ImageSet, known: ImageSet) -> Iterator[Method]:
    """Yield the methods that share the features."""
    x = points(training)
    for share, name in ((0.95, "PCA residual"), (128, "FRE, 128 dimensions")):
        pca = PCA(share, random_state=0).fit(x.numpy())

        def residual(images: ImageSet, pca: PCA = pca) -> np.ndarray:
            features = points(images).numpy()
            rebuilt = pca.inverse_transform(pca.transform(features))
            return np.linalg.norm(features - rebuilt, axis=1)

        yield Method(name, residual)
    head = linear_head(x, training.labels, len(training.classes))
    with torch.no_grad():
        right = head(points(known)).argmax(1).numpy() == known.labels
    detectors = detectors_on_features(head, nn.Identity(), head)
    for method in pytorch_ood_methods(detectors, training, points):
        yield replace(method, accuracy=float(right.mean()))


class Points:
    """The standardised features of images."""

    def __init__(self, space: Features) -> None:
        self.space = space

    def __call__(self, images: ImageSet) -> Tensor:
        """Return them, float32 (n, features)."""
        return self.space.points(torch.tensor(images.features))


def measure(cell: Cell, refresh: bool) -> Path:
    """Train and score; leave the file of the cell. ``refresh``: keep its rows of other methods."""
    others = None
    if cell.target.exists():
        if not refresh:
            return cell.target
        rows = json.loads(cell.target.read_text(encoding="utf-8"))["rows"]
        others = [row for row in rows if not row["method"].startswith("MC-AE")]
    torch.set_num_threads(1)
    config, images, form = prepared(cell.job)
    images = with_features(config, images)
    training, kept = training_part(config, images)
    known, outs = cell.job.sets(kept, form)
    known, *outs = (with_features(config, some) for some in (known, *outs))
    run = trained(cell.job, images)
    detector = fit_detector(run.path, images)
    methods = list(detector_methods("MC-AE", detector, known, (OOD_SCORE, "entropy")))
    if others is None:
        methods += baselines(Points(detector.networks[0].space), training, known)
    return write_cell(cell, [run], [training, known, *outs], methods, others or ())


def main() -> None:
    """Make the cells that are missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shared_arguments(parser)
    parser.add_argument("--channels", type=int, choices=(1, 3), default=1)
    parser.add_argument("--cells", type=Path, default=CELLS / "features", help="of the results")
    parser.add_argument("--refresh", action="store_true", help="compute the rows of MC-AE again")
    a = parser.parse_args()
    recipe = "photographs" + (":dataset.channels=1" if a.channels == 1 else "")
    cells = [Cell(job, a.channels, "features", a.cells) for job in jobs_of(a, [recipe])]
    for _ in finished(partial(measure, refresh=a.refresh), cells, a.jobs):
        pass


if __name__ == "__main__":
    main()
