"""Compare with other methods: train, score with each, and keep the rates as a file per training.

    python benchmarks/peers.py --in-datasets mnist fashion gtsrb.npz cifar10.npz scenes
    python benchmarks/peers.py --in-datasets gtsrb.npz cifar10.npz scenes --channels 3

All methods see the same images; the seconds of their trainings on one core are measured:

* attractors: the default recipe, its OOD score, and the entropy of the paper;
* classifier: one convolutional classifier of ours (PROTOCOL section 5) with all detectors of
  pytorch-ood that can be applied to it, and MC dropout;
* ensemble: five such classifiers without dropout, each with a fifth of the epochs;
* statistics: no network; the Mahalanobis distance of four numbers of an image, its mean, standard
  deviation, total variation and compressed size.

D_outs are faces, textures, photos and the other sets of ``--others``; test images and halves are
those of `evidence.py`. Finished files are skipped, so that the table can be made in several
sittings. `peers_report.py` makes the tables.
"""

import argparse
import math
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_ood.detector as peers
import torch
from evidence import Job, finished, jobs_of, prepared, shared_arguments, trained, training_seconds
from sklearn.covariance import LedoitWolf
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from attractor_ae import ImageSet, Run, fit_detector, fit_ensemble
from attractor_ae._detector import Detector
from attractor_ae._files import write_json
from attractor_ae.baselines import ConvClassifier
from attractor_ae.core.scores import OOD_SCORE
from attractor_ae.metrics import detection_metrics
from attractor_ae.training import training_part

CELLS = Path(__file__).parent / "peers"
MEMBERS = 5
_STEPS = 2_160
"""Of the classifier: two for each step of the autoencoder, in two thirds of its time."""
_CLASSIFIER = (
    "model.type=conv:model.metric=:training.learning_rate=1e-3:"
    "evaluation.recursions=1:evaluation.recursion=0:evaluation.score=entropy"
)

_OF_MEMBERS = ("entropy", "mutual_information")
_SHOWN = {"mutual_information": "mutual information"}

GROUPS = ("attractors", "classifier", "ensemble", "statistics")

Score = Callable[[ImageSet], np.ndarray]
"""Larger is more out of distribution."""
Detectors = dict[str, Any]
"""Detectors of pytorch-ood by name."""


@dataclass(frozen=True)
class Method:
    """A way to score images."""

    name: str
    score: Score
    accuracy: float | None = None
    passes: float = 1.0  # forward passes of a network per image
    calibrated: bool = False  # whether 1 - score is a p-value


def floats(images: ImageSet) -> Tensor:
    """Return images as floats in [0, 1]."""
    return torch.from_numpy(np.asarray(images.images)).float() / 255


def batched(function: Callable[[Tensor], Tensor], inputs: Tensor) -> np.ndarray:
    """Apply a function in batches of 100."""
    return torch.cat([function(x).detach() for x in inputs.split(100)]).double().numpy()


def statistics(images: ImageSet) -> np.ndarray:
    """Return mean, standard deviation, total variation and compressed size, (n, 4)."""
    x = images.images.astype(np.float64) / 255
    differences = [np.abs(np.diff(x, axis=axis)).mean((1, 2, 3)) for axis in (2, 3)]
    size = [len(zlib.compress(np.ascontiguousarray(image).tobytes(), 9)) for image in images.images]
    return np.stack(
        [x.mean((1, 2, 3)), x.std((1, 2, 3)), np.log(sum(differences) + 1e-6), np.log(size)], axis=1
    )


def statistics_methods(training: ImageSet) -> Iterator[Method]:
    """Yield the baseline without a network."""
    known = statistics(training)
    mean, deviation = known.mean(0), known.std(0)
    model = LedoitWolf().fit((known - mean) / deviation)

    def distance(images: ImageSet) -> np.ndarray:
        return model.mahalanobis((statistics(images) - mean) / deviation)

    yield Method("image statistics", distance, passes=0)


def accuracy_of(predicted: Tensor, known: ImageSet) -> float:
    """Return the fraction of right labels."""
    return float((predicted.numpy() == known.labels).mean())


def detector_methods(
    label: str, detector: Detector, known: ImageSet, names: Sequence[str]
) -> Iterator[Method]:
    """Yield scores of a detector of ours at its reported recursion."""
    accuracy = accuracy_of(detector.predict_label(known.inputs), known)
    r, passes = detector.recursion, detector.trials * (detector.recursion + 1)
    for name in names:

        def score(images: ImageSet, name: str = name) -> np.ndarray:
            return detector.predict_scores(images.inputs, [name]).scores[name][r].numpy()

        shown = f"{label}, {_SHOWN.get(name, name)}"
        yield Method(shown, score, accuracy, passes, calibrated=name == OOD_SCORE)


class Stage(nn.Module):
    """An encoder stage of the classifier, with the conversion to its space before the first."""

    def __init__(self, network: ConvClassifier, index: int) -> None:
        super().__init__()
        self.network, self.index = network, index

    def forward(self, x: Tensor) -> Tensor:
        """Return the feature maps."""
        if self.index == 0:
            x = self.network.space.points(x)
        return self.network.activation(self.network.encoder[self.index](x))


class Hidden(nn.Module):
    """The layer between feature maps and output."""

    def __init__(self, network: ConvClassifier) -> None:
        super().__init__()
        self.network = network

    def forward(self, maps: Tensor) -> Tensor:
        """Return the features that the output layer reads."""
        return self.network.activation(self.network.hidden(maps.flatten(1)))


def detectors_on_features(network: nn.Module, encoder: nn.Module, output: nn.Linear) -> Detectors:
    """Return the detectors of pytorch-ood on logits, and on features that a linear layer reads."""
    w, b = output.weight, output.bias
    return {
        "MSP": peers.MaxSoftmax(network),
        "MaxLogit": peers.MaxLogit(network),
        "energy": peers.EnergyBased(network),
        "entropy": peers.Entropy(network),
        "GEN": peers.GEN(network),
        "KL matching": peers.KLMatching(network),
        "ODIN": peers.ODIN(network),
        "OpenMax": peers.OpenMax(network),
        "Mahalanobis": peers.Mahalanobis(encoder),
        "relative Mahalanobis": peers.RMD(encoder),
        "kNN": peers.KNN(encoder),
        "GMM": peers.GMM(encoder, reg=1e-3),
        "ViM": peers.ViM(encoder, w.shape[1] // 2, w, b),
        "SHE": peers.SHE(encoder, output),
        "NNGuide": peers.NNGuide(encoder, output),
        "fDBD": peers.fDBD(encoder, output),
        "NCI": peers.NCI(encoder, output),
        "pNML": peers.PNML(encoder, output),
        "ReAct": peers.ReAct(encoder, output),
        "DICE": peers.DICE(encoder, w, b, p=0.7),
        "VRA": peers.VRA(encoder, output),
    }


def detectors_on_maps(network: ConvClassifier) -> Detectors:
    """Return all detectors of pytorch-ood on a convolutional classifier."""
    stages: list[nn.Module] = [Stage(network, i) for i in range(len(network.encoder))]
    backbone = nn.Sequential(*stages)
    hidden, output = Hidden(network), network.output
    after = nn.Sequential(hidden, output)
    return {
        **detectors_on_features(network, nn.Sequential(backbone, hidden), output),
        "Mahalanobis, layers": peers.MultiMahalanobis(
            [*stages, nn.Sequential(hidden, nn.Unflatten(1, (-1, 1, 1)))]
        ),
        "ASH": peers.ASH(backbone, after),
        "SCALE": peers.SCALE(backbone, after),
        "Gram": peers.Gram(after, stages, network.classes),
    }


def pytorch_ood_methods(
    detectors: Detectors, training: ImageSet, inputs: Callable[[ImageSet], Tensor] = floats
) -> Iterator[Method]:
    """Yield detectors of pytorch-ood, fitted as its documentation says."""
    data = TensorDataset(inputs(training), torch.from_numpy(training.labels))
    for name, detector in detectors.items():
        detector.fit(DataLoader(data, batch_size=100))
        # ODIN needs gradients, so nothing is computed without.
        yield Method(f"{name} (pytorch-ood)", lambda x, d=detector: batched(d.predict, inputs(x)))


def classifier_methods(run: Run, images: ImageSet, known: ImageSet) -> Iterator[Method]:
    """Yield MC dropout and pytorch-ood's detectors on the same classifier."""
    detector = fit_detector(run.path, images)
    yield from detector_methods("MC dropout", detector, known, _OF_MEMBERS)
    network = detector.networks[0].float().to(memory_format=torch.contiguous_format)
    with torch.no_grad():
        accuracy = accuracy_of(network(floats(known)).argmax(-1), known)
    training = training_part(run.config(), images)[0]
    for method in pytorch_ood_methods(detectors_on_maps(network), training):
        yield replace(method, accuracy=accuracy)


@dataclass(frozen=True)
class Cell:
    """A D_in, a seed and a group of methods: one file."""

    job: Job
    channels: int
    group: str
    folder: Path

    @property
    def target(self) -> Path:
        """The file of the cell."""
        colour = "grey" if self.channels == 1 else "rgb"
        return self.folder / colour / f"{self.job.label}-seed{self.job.seed}-{self.group}.json"

    @property
    def default(self) -> Job:
        """The training of the default recipe."""
        shape = "" if self.channels == 1 else f":dataset.channels={self.channels}"
        settings = (*self.job.settings, "evaluation.recursions=2")
        return replace(self.job, recipe=f"default{shape}", settings=settings)

    def jobs(self, images: int) -> list[Job]:
        """Return the trainings that it needs, on a number of images."""
        if self.group == "statistics":
            return []
        if self.group == "attractors":
            return [self.default]
        recipe = self.default.recipe.replace("default", f"default:{_CLASSIFIER}")
        epochs = math.ceil(_STEPS / math.ceil(images / 64))
        classifier = replace(self.job, recipe=recipe, epochs=epochs)
        if self.group == "classifier":
            return [classifier]
        recipe = f"{classifier.recipe}:model.dropout=0:training.dropout_warmup=0"
        return [
            replace(self.job, recipe=recipe, epochs=epochs // MEMBERS, seed=seed)
            for seed in range(MEMBERS * self.job.seed, MEMBERS * (self.job.seed + 1))
        ]


def measure(cell: Cell) -> Path:
    """Train and score; leave the file of the cell."""
    if cell.target.exists():
        return cell.target
    torch.set_num_threads(1)
    config, images, form = prepared(cell.default)
    training, kept = training_part(config, images)
    known, outs = cell.job.sets(kept, form)
    runs = [trained(job, images) for job in cell.jobs(len(training))]
    if cell.group == "statistics":
        methods = statistics_methods(training)
    elif cell.group == "attractors":
        detector = fit_detector(runs[0].path, images)
        methods = detector_methods("MC-AE", detector, known, (OOD_SCORE, "entropy"))
    elif cell.group == "classifier":
        methods = classifier_methods(runs[0], images, known)
    else:
        detector = fit_ensemble([run.path for run in runs], images)
        methods = detector_methods("ensemble", detector, known, _OF_MEMBERS)
    return write_cell(cell, runs, [training, known, *outs], methods)


def write_cell(
    cell: Cell,
    runs: Sequence[Run],
    sets: Sequence[ImageSet],
    methods: Iterable[Method],
    more: Iterable[dict[str, Any]] = (),
) -> Path:
    """Score and write the file of a cell, with ``more`` rows at the end.

    ``sets`` are training images, known ones and D_outs.
    """
    _, known, *outs = sets
    write_json(
        cell.target,
        {
            "in_dataset": cell.job.label,
            "channels": cell.channels,
            "seed": cell.job.seed,
            "group": cell.group,
            "training_seconds_one_thread": sum(map(training_seconds, runs)),
            "images": {s.name: len(s) for s in sets},
            "rows": [*(row_of(method, known, outs) for method in methods), *more],
        },
    )
    return cell.target


def row_of(method: Method, known: ImageSet, outs: Sequence[ImageSet]) -> dict[str, Any]:
    """Return the rates of a method on each D_out."""
    began = time.perf_counter()
    inside = method.score(known)
    rates = {out.name: detection_metrics(inside, method.score(out)) for out in outs}
    return {
        "method": method.name,
        "accuracy": method.accuracy,
        "passes": method.passes,
        "auroc": {name: of.auroc for name, of in rates.items()},
        "fpr95": {name: of.fpr95_in for name, of in rates.items()},
        "flagged": float((inside > 0.95).mean()) if method.calibrated else None,
        "scoring_seconds": time.perf_counter() - began,
    }


def main() -> None:
    """Make the cells that are missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shared_arguments(parser)
    parser.add_argument("--channels", type=int, choices=(1, 3), default=1)
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=GROUPS)
    parser.add_argument("--cells", type=Path, default=CELLS, help="folder of the results")
    a = parser.parse_args()
    cells = [Cell(job, a.channels, group, a.cells) for job in jobs_of(a) for group in a.groups]
    for _ in finished(measure, cells, a.jobs):
        pass


if __name__ == "__main__":
    main()
