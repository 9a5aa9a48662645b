"""Detectors as files: one safetensors file each, tensors beside metadata of JSON."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from attractor_ae._errors import AttractorError
from attractor_ae._files import load_weights, read_tensors, write_tensors
from attractor_ae._networks import Network, NetworkDetector
from attractor_ae.conformal import FusedScore
from attractor_ae.core.autoencoder import Autoencoder, initialised_from
from attractor_ae.core.classifier import ConvClassifier
from attractor_ae.core.scores import OOD_SCORE

Detector = TypeVar("Detector", bound=NetworkDetector)


def write_detector(
    path: str | Path,
    detector: NetworkDetector,
    networks: Mapping[str, Autoencoder | ConvClassifier],
    settings: Mapping[str, Any],
    state: Mapping[str, Mapping[str, Tensor]],
) -> None:
    """Write a fitted detector, atomically.

    Parameters
    ----------
    path
        The file.
    detector
        What is written; its classes, its score and its calibration are written for every method.
    networks
        Name in the file -> network.
    settings
        Arguments of the constructor that not every method has; values that JSON can hold.
    state
        Name in the file -> tensors of a fitted part.

    Raises
    ------
    AttractorError
        If the file cannot be written.
    """
    common = {
        "seed": detector.seed,
        "batch_size": detector.batch_size,
        "precision": detector.precision,
        "score": detector.score,
    }
    metadata = {
        "method": detector.method,
        "settings": json.dumps({**settings, **common}),
        **{name: json.dumps(_architecture(network)) for name, network in networks.items()},
    }
    parts = {**{name: n.state_dict() for name, n in networks.items()}, **state}
    if OOD_SCORE in detector.score_names:
        parts["ood_score"] = detector.fused_.state()
        metadata["components"] = json.dumps(detector.fused_.names)
    tensors = {f"{part}.{name}": t for part, held in parts.items() for name, t in held.items()}
    write_tensors(Path(path), {**tensors, "classes": detector.classes_}, metadata)


@dataclass(frozen=True, eq=False)
class StoredDetector:
    """What the file of an detector holds.

    Attributes
    ----------
    path
        The file.
    tensors, metadata
        All that is in it.
    settings
        Arguments of the detector's constructor.
    """

    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    settings: dict[str, Any]

    def part(self, name: str) -> dict[str, Tensor]:
        """Return the tensors of one part."""
        prefix = f"{name}."
        return {k.removeprefix(prefix): t for k, t in self.tensors.items() if k.startswith(prefix)}

    def network(self, name: str, kind: type[Network]) -> Network:
        """Return one network with its weights."""
        with initialised_from(0):  # the weights follow; the global random state stays
            network = kind(**json.loads(self.metadata[name]))
        load_weights(network, self.part(name), self.path)
        return network


def read_detector(
    path: str | Path, method: str, build: Callable[[StoredDetector], Detector]
) -> Detector:
    """Return the detector that `write_detector` wrote.

    Parameters
    ----------
    path
        The file.
    method
        The method that it must be of.
    build
        Makes the detector, but for what is written for every method.

    Raises
    ------
    AttractorError
        If the file is missing, damaged, or holds something else.
    """
    path = Path(path)
    tensors, metadata = read_tensors(path)
    if metadata.get("method") != method:
        raise AttractorError(f"{path}: holds no detector of method {method}")
    try:
        settings = json.loads(metadata["settings"])
        score = settings.pop("score")
        stored = StoredDetector(path, tensors, metadata, settings)
        detector = build(stored)
        detector.classes_ = tensors["classes"]
        if "components" in metadata:
            names = tuple(json.loads(metadata["components"]))
            detector.fused_ = FusedScore(names, **stored.part("ood_score"))
        detector.score = score
    except (KeyError, TypeError, ValueError) as error:
        raise AttractorError(f"{path}: is no complete detector ({error}); save it again") from None
    return detector


def _architecture(network: Autoencoder | ConvClassifier) -> dict[str, Any]:
    """Return the arguments that a network was made with."""
    if isinstance(network, Autoencoder):
        size = {"latent_dim": network.latent_dim}
    else:
        size = {"classes": network.classes}
    return {
        **size,
        "dropout": network.dropout,
        "activation": network.activation_name,
        "image_size": network.image_size,
        "channels": network.channels,
    }
