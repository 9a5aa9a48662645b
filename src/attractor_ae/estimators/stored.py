"""Estimators as files: one safetensors file each, tensors beside metadata of JSON."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from attractor_ae.errors import AttractorError
from attractor_ae.estimators.networks import Network, NetworkEstimator
from attractor_ae.fusion import FusedScore
from attractor_ae.models.autoencoder import Autoencoder, initialised_from
from attractor_ae.models.classifier import ConvClassifier
from attractor_ae.scores import FUSED
from attractor_ae.storage import load_weights, read_tensors, write_tensors

Estimator = TypeVar("Estimator", bound=NetworkEstimator)


def write_estimator(
    path: str | Path,
    estimator: NetworkEstimator,
    networks: Mapping[str, Autoencoder | ConvClassifier],
    settings: Mapping[str, Any],
    state: Mapping[str, Mapping[str, Tensor]],
) -> None:
    """Write a fitted estimator, atomically.

    Parameters
    ----------
    path
        The file.
    estimator
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
        "seed": estimator.seed,
        "batch_size": estimator.batch_size,
        "precision": estimator.precision,
        "score": estimator.score,
    }
    metadata = {
        "method": estimator.method,
        "settings": json.dumps({**settings, **common}),
        **{name: json.dumps(_architecture(network)) for name, network in networks.items()},
    }
    parts = {**{name: n.state_dict() for name, n in networks.items()}, **state}
    if FUSED in estimator.score_names:
        parts["fused"] = estimator.fused_.state()
        metadata["fused_scores"] = json.dumps(estimator.fused_.names)
    tensors = {f"{part}.{name}": t for part, held in parts.items() for name, t in held.items()}
    write_tensors(Path(path), {**tensors, "classes": estimator.classes_}, metadata)


@dataclass(frozen=True, eq=False)
class StoredEstimator:
    """What the file of an estimator holds.

    Attributes
    ----------
    path
        The file.
    tensors, metadata
        All that is in it.
    settings
        Arguments of the estimator's constructor.
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


def read_estimator(
    path: str | Path, method: str, build: Callable[[StoredEstimator], Estimator]
) -> Estimator:
    """Return the estimator that `write_estimator` wrote.

    Parameters
    ----------
    path
        The file.
    method
        The method that it must be of.
    build
        Makes the estimator, but for what is written for every method.

    Raises
    ------
    AttractorError
        If the file is missing, damaged, or holds something else.
    """
    path = Path(path)
    tensors, metadata = read_tensors(path)
    if metadata.get("method") != method:
        raise AttractorError(f"{path}: holds no estimator of method {method}")
    try:
        settings = json.loads(metadata["settings"])
        score = settings.pop("score")
        stored = StoredEstimator(path, tensors, metadata, settings)
        estimator = build(stored)
        estimator.classes_ = tensors["classes"]
        if "fused_scores" in metadata:
            names = tuple(json.loads(metadata["fused_scores"]))
            estimator.fused_ = FusedScore(names, **stored.part("fused"))
        estimator.score = score
    except (KeyError, TypeError, ValueError) as error:
        raise AttractorError(f"{path}: is no complete estimator ({error}); save it again") from None
    return estimator


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
