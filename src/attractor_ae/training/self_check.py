"""Self-check: whether a network has learned anything, during and after its training.

A network on a plateau gives the same code, or the same reconstruction, to all images. Whatever the
reconstruction loss, it is then not below that of a constant output.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from attractor_ae._devices import pixels
from attractor_ae._files import atomic_path
from attractor_ae._reporter import percent
from attractor_ae.baselines import ConvClassifier
from attractor_ae.core.autoencoder import Autoencoder, FeatureAutoencoder
from attractor_ae.core.heads import make_head
from attractor_ae.core.spaces import Features
from attractor_ae.data import ImageSet
from attractor_ae.data.decode import side_by_side
from attractor_ae.experiment.config import ExperimentConfig
from attractor_ae.losses.reconstruction import reconstruction_loss
from attractor_ae.training.objective import Network

_BATCH = 128
_MOST = 5_000  # training images for the accuracy
_PLATEAU_IMAGES = 256
_LEAST_SPREAD = 5e-3  # fraction of the squared length of codes that differs between images
_LEAST_GAIN = 0.01  # fraction by which the loss must be below that of a constant
_QUANTILE = 2.326  # of the normal distribution, for a one-sided test at 1 %


@dataclass(frozen=True)
class SelfCheck:
    """Accuracy and reconstruction of a network, compared with guessing and with the mean image.

    Attributes:
        part: "calibration", "training" or "test": the images, which are not augmented.
        images: Number of images.
        accuracy: Accuracy of a head on the latent codes, or of the classifier, without dropout, in
            [0, 1]; None if it was not measured.
        chance: Fraction of the most frequent class.
        r2: R² of reconstruction, 1 for the image itself and 0 for the mean training image, in units
            of the space; None for a classifier.
        restarted: Whether the training started again with a longer warm-up.
        failures: One clause for each reason to think that nothing was learned; empty if passed.
    """

    part: str
    images: int
    accuracy: float | None
    chance: float
    r2: float | None
    restarted: bool
    failures: tuple[str, ...]

    @property
    def self_check(self) -> str:
        """Verdict, "passed" or "failed"."""
        return "failed" if self.failures else "passed"

    def summary(self) -> str:
        """Return one line with the measured numbers."""
        found = []
        if self.accuracy is not None:
            found.append(f"accuracy {percent(self.accuracy)} (guessing: {percent(self.chance)})")
        if self.r2 is not None:
            found.append(f"R² of reconstruction {self.r2:.2f} (mean image: 0)")
        return f"{self.images} {self.part} images: {', '.join(found)}"

    def values(self) -> dict[str, Any]:
        """Return the JSON values that are stored with the run."""
        return {"self_check": self.self_check, **asdict(self)}


def check_network(
    config: ExperimentConfig,
    network: Network,
    trained: ImageSet,
    kept: ImageSet,
    restarted: bool = False,
) -> SelfCheck:
    """Return the self-check of a trained network, on the calibration images ``kept`` if any."""
    some = trained.at_most(_MOST)
    checked, part = (kept, "calibration") if len(kept) else (some, "training")
    chance = float(np.bincount(checked.labels).max() / len(checked))
    accuracy = r2 = None
    failures: list[str] = []
    if isinstance(network, ConvClassifier):
        with torch.no_grad():
            logits = torch.cat([network(x).float().cpu() for x in _batches(network, checked)])
        accuracy = _accuracy(logits, checked)
    else:
        found = _Outputs.of(network, checked)
        fitted = _Outputs.of(network, some) if len(kept) else found
        error = (found.outputs - found.points).square().sum()
        variance = (found.points - fitted.points.mean(0)).square().sum().clamp_min(1e-12)
        r2 = 1 - (error / variance).item()
        failures += _collapse(config, found)
        if len(kept) and chance < 1:
            head = make_head("mlp", "code")
            labels = torch.from_numpy(some.labels)
            head.fit(fitted.codes[None], labels, len(trained.classes), config.training.seed)
            accuracy = _accuracy(head.predict_proba(found.codes[None], [0])[0], checked)
    if accuracy is not None:
        deviation = math.sqrt(chance * (1 - chance) / len(checked))
        if accuracy <= chance + _QUANTILE * deviation:
            failures.append(
                f"accuracy {percent(accuracy)} on {len(checked)} {part} images is not clearly "
                f"above guessing ({percent(chance)})"
            )
    return SelfCheck(part, len(checked), accuracy, chance, r2, restarted, tuple(failures))


def validate(
    config: ExperimentConfig, network: Network, trained: ImageSet, test: ImageSet, picture: Path
) -> str:
    """Return one line with the accuracy on test images, and draw some and their reconstructions."""
    check = check_network(config, network, trained, test)
    if not isinstance(network, ConvClassifier) and not isinstance(network.space, Features):
        found = _Outputs.of(network, test.at_most(16))
        pairs = torch.cat([found.points, found.outputs], dim=2)  # one above the other
        drawn = (255 * pairs.clamp(0, 1)).round().byte().numpy()
        with atomic_path(picture) as path:
            side_by_side(list(drawn)).save(path, "PNG")
    return replace(check, part="test").summary()


def plateau(
    config: ExperimentConfig, network: Autoencoder | FeatureAutoencoder, trained: ImageSet
) -> Sequence[str]:
    """Return the reasons to think that an autoencoder has learned nothing so far."""
    return _collapse(config, _Outputs.of(network, trained.at_most(_PLATEAU_IMAGES)))


def _collapse(config: ExperimentConfig, found: "_Outputs") -> list[str]:
    reasons = []
    direction = F.normalize(found.codes, dim=-1).mean(0)
    if 1 - direction.square().sum().item() < _LEAST_SPREAD:
        reasons.append("the codes of different images are alike")
    loss = reconstruction_loss(config.training.loss or "mse")
    target = found.points

    def of(outputs: Tensor) -> float:
        parts = [
            loss(a, b).item() * len(a)
            for a, b in zip(outputs.split(_BATCH), target.split(_BATCH), strict=True)
        ]
        return sum(parts) / len(target)

    constant = of(found.outputs.mean(0).expand_as(target))
    if of(found.outputs) > (1 - _LEAST_GAIN) * constant:
        reasons.append("reconstructions are not better than one picture for all images")
    return reasons


@dataclass(frozen=True, eq=False)
class _Outputs:
    """Points, latent codes and reconstructions of images, without dropout, on the CPU."""

    points: Tensor
    codes: Tensor
    outputs: Tensor

    @classmethod
    def of(cls, network: Autoencoder | FeatureAutoencoder, images: ImageSet) -> "_Outputs":
        parts = []
        with torch.no_grad():
            for x in _batches(network, images):
                x = network.space.points(x)
                output, code = network(x)
                parts.append([t.float().cpu() for t in (x, code, output)])
        return cls(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _batches(network: torch.nn.Module, images: ImageSet) -> Iterator[Tensor]:
    device = next(network.parameters()).device
    for i in range(0, len(images), _BATCH):
        yield pixels(torch.tensor(images.inputs[i : i + _BATCH]), device)


def _accuracy(scores: Tensor, images: ImageSet) -> float:
    return float((scores.argmax(-1).numpy() == images.labels).mean())
