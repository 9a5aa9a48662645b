"""Compare methods on near unknowns: classes of D_in that no method has seen.

    python benchmarks/open_set.py --in-datasets mnist fashion gtsrb.npz cifar10.npz
    python benchmarks/open_set.py --in-datasets gtsrb.npz cifar10.npz --channels 3
    python benchmarks/open_set.py --in-datasets scenes --channels 3 --unknown other-scenes

The seed is the open-set split: of ten classes, six are known. With ``--unknown``, all classes of
D_in are known, and the images of another folder are unknown. Methods are MC-AE on pixels, on
features, and with the scores of both in one mean; and those of `feature_peers.py` on the same
features. Files are skipped and reported as those of `peers.py` are.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from evidence import Job, finished, jobs_of, prepared, shared_arguments, trained
from feature_peers import Points, baselines
from peers import CELLS, Cell, Method, detector_methods, write_cell

from attractor_ae import ImageSet, Run, fit_detector, load
from attractor_ae._detector import Detector
from attractor_ae.conformal import component_values
from attractor_ae.core.scores import OOD_SCORE
from attractor_ae.experiment.plan import UNKNOWN_CLASSES
from attractor_ae.training import training_part, with_features


@dataclass(frozen=True, eq=False)
class Trained:
    """A run and its detector; training, known and unknown images in its format."""

    run: Run
    detector: Detector
    training: ImageSet
    known: ImageSet
    unknown: ImageSet

    def its(self, images: ImageSet) -> ImageSet:
        """Return the known or unknown images of another run in the format of this one."""
        return self.unknown if images.name == UNKNOWN_CLASSES else self.known


def trained_on_known(job: Job, other: str) -> Trained:
    """Train a recipe on the known classes, fit its detector and load the test images."""
    config, images, form = prepared(job)
    shared = {"root": job.root, "image_format": form}
    test = load(job.in_dataset, "test", per_class=2 * job.per_class, **shared)
    if other:
        known, unknown = test, load(other, "all", **shared)
    else:
        images = images.open_set(job.seed)[0]
        known, unknown = test.open_set(job.seed)
    # The other half is for choices.
    unknown = replace(unknown.take(range(1, len(unknown), 2)), name=UNKNOWN_CLASSES)
    images, known, unknown = (with_features(config, s) for s in (images, known, unknown))
    run = trained(job, images)
    training = training_part(config, images)[0]
    return Trained(run, fit_detector(run.path, images), training, known, unknown)


def statistic(detector: Detector, images: ImageSet) -> np.ndarray:
    """Return the transformed components of the OOD score, (components, n)."""
    scores = detector.predict_scores(images.inputs, detector.member_scores).scores
    values = component_values(scores, detector.components)[:, detector.recursion]
    t = detector.ood_.standardised(values, detector.recursion)
    return torch.nn.functional.softplus(t).numpy()


def methods(pixels: Trained, features: Trained) -> Iterator[Method]:
    """Yield the methods; all score the images of ``pixels``."""

    def both(images: ImageSet) -> np.ndarray:
        of_features = statistic(features.detector, features.its(images))
        return np.concatenate([statistic(pixels.detector, images), of_features]).mean(0)

    names = (OOD_SCORE, "entropy")
    yield from detector_methods("MC-AE on pixels", pixels.detector, pixels.known, names)
    yield Method("MC-AE on both, ood_score", both)
    points = Points(features.detector.networks[0].space)  # type: ignore[arg-type]
    for method in (
        *detector_methods("MC-AE on features", features.detector, features.known, names),
        *baselines(points, features.training, features.known),
    ):
        yield replace(method, score=lambda images, of=method.score: of(features.its(images)))


def measure(cell: Cell, other: str) -> Path:
    """Train and score; leave the file of the cell."""
    if cell.target.exists():
        return cell.target
    torch.set_num_threads(1)
    shape = f":dataset.channels={cell.channels}"
    pixels, features = (
        trained_on_known(replace(cell.job, recipe=recipe + shape), other)
        for recipe in ("default", "photographs")
    )
    sets: Sequence[ImageSet] = [pixels.training, pixels.known, pixels.unknown]
    return write_cell(cell, [pixels.run, features.run], sets, methods(pixels, features))


def main() -> None:
    """Make the cells that are missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shared_arguments(parser)
    parser.add_argument("--channels", type=int, choices=(1, 3), default=1)
    parser.add_argument("--unknown", default="", help="images of unknown classes")
    parser.add_argument("--cells", type=Path, default=CELLS / "open-set", help="of the results")
    parser.set_defaults(seeds=list(range(5)), out=Path("build/open-set"))
    a = parser.parse_args()
    cells = [Cell(job, a.channels, "open-set", a.cells) for job in jobs_of(a)]
    for _ in finished(partial(measure, other=a.unknown), cells, a.jobs):
        pass


if __name__ == "__main__":
    main()
