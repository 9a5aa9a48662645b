"""The published baselines: MC dropout and deep ensemble (docs/protocol.md section 5).

p(x) is the mean softmax of the members. Only recursion 0 exists, because these methods do not
iterate.
"""

import json
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attractor_ae._detector import Detector, Requests, Scored, part_of
from attractor_ae._errors import AttractorError, unknown_name
from attractor_ae._fast_layers import (
    Linear,
    activation_function,
    draw_first_weights,
    masked_activation,
)
from attractor_ae._files import load_weights, read_tensors
from attractor_ae._logistic import best_temperature
from attractor_ae.conformal import OODScore
from attractor_ae.core.autoencoder import encoder_sites, layer_sizes, make_encoder
from attractor_ae.core.detector import AttractorDetector
from attractor_ae.core.masks import DropoutMasks, sites_of
from attractor_ae.core.spaces import make_space


class ConvClassifier(nn.Module):
    """Encoder stages 1 to 4 with dropout after each, and two linear layers without dropout.

    Args:
        classes: Number of classes, at least 2.
        dropout, activation, image_size, channels, generator: As for `Autoencoder`.

    Raises:
        AttractorError: If activation or space is unknown or a number is out of range.
    """

    def __init__(
        self,
        classes: int,
        dropout: float = 0.33,
        activation: str = "ReLU",
        image_size: int = 64,
        channels: int = 1,
        space: str = "pixels",
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if classes < 2:
            raise AttractorError(f"a classifier needs at least 2 classes, got {classes}")
        w, f, side = layer_sizes(dropout, image_size)
        self.arguments = (classes, dropout, activation, image_size, channels, space)
        self.space = make_space(space)
        self.classes, self.dropout = classes, dropout
        self.image_shape = (channels, image_size, image_size)
        self.encoder = make_encoder(channels, w)
        self.hidden = Linear(2 * w * side**2, f)
        self.output = Linear(f, classes)
        self.activation = activation_function(activation)
        self.site_shapes = encoder_sites(w, image_size)
        draw_first_weights(self, generator)

    def forward(
        self, x: Float[Tensor, "n c h w"], masks: DropoutMasks | None = None
    ) -> Float[Tensor, "n classes"]:
        """Return logits, under ``masks`` or without dropout."""
        x = self.space.points(x)
        for convolution, mask in zip(self.encoder, sites_of(masks, self.site_shapes), strict=True):
            x = masked_activation(convolution(x), self.activation, mask)
        return self.output(self.activation(self.hidden(x.flatten(1))))


class _ClassifierDetector(Detector):
    """Detector from classifiers; the temperature of their softmax is 1 until calibrated."""

    network_class = ConvClassifier
    _temperature = 1.0

    @abstractmethod
    def _members(self, x: Tensor, first: int) -> Iterator[Tensor]:
        """Yield the logits (n, classes) of each member; ``first``: index of the first image."""

    def _fit(self, images: Tensor, targets: Tensor, classes: int) -> None:
        outputs = self.networks[0].classes
        if classes != outputs:
            raise AttractorError(
                f"fit got images of {classes} classes, but the classifier has {outputs} outputs; "
                "give images of every class that it was trained on"
            )
        self._temperature = 1.0

    def _calibrate_heads(self, images: Tensor, targets: Tensor) -> None:
        logits = torch.cat([self._logits(x, i) for x, i in self._batches(images)], dim=1)
        self._temperature = best_temperature(logits, targets.to(logits.device))

    def _score(self, x: Tensor, first: int, wanted: Requests) -> Scored:
        """Return the members' distributions, (1, members, n, classes)."""
        p = (self._logits(x, first) / self._temperature).softmax(-1)[None]
        return {}, p[: len(wanted.distributions)]

    def _logits(self, x: Tensor, first: int) -> Tensor:
        """Return the logits of every member, float32, (members, n, classes)."""
        x = x.contiguous(memory_format=torch.channels_last)
        with self._autocast():
            logits = torch.stack([member.float() for member in self._members(x, first)])
        # Equal logits, the uniform distribution, where outputs are not finite.
        return logits.masked_fill(~logits.isfinite().all(-1, keepdim=True), 0)

    def _state(self) -> dict[str, Tensor]:
        return {"temperature": torch.tensor(self._temperature, dtype=torch.float64)}

    def _restore(self, state: dict[str, Tensor]) -> None:
        self._temperature = state["temperature"].item()


class MCDropoutDetector(_ClassifierDetector):
    """MC dropout: a classifier evaluated with dropout, one mask per trial.

    The network is copied; settings are as for `AttractorDetector`.

    Raises:
        AttractorError: If a setting is unknown or out of range, or the classifier has no dropout.

    Examples:
        >>> images, labels = torch.rand(8, 1, 64, 64), torch.arange(8) % 2
        >>> detector = MCDropoutDetector(ConvClassifier(2), trials=3).fit(images, labels)
        >>> detector.sample_proba(images).shape
        torch.Size([3, 8, 2])
    """

    method = "MC dropout"
    reference = (
        "Y. Gal, Z. Ghahramani: Dropout as a Bayesian Approximation: Representing Model "
        "Uncertainty in Deep Learning. ICML 2016, arXiv 1506.02142"
    )
    settings = ("trials", "mask_scope")

    def __init__(
        self,
        network: ConvClassifier,
        *,
        trials: int = 20,
        mask_scope: str = "trial",
        seed: int = 0,
        batch_size: int = 128,
        precision: str = "auto",
    ) -> None:
        if network.dropout == 0:
            raise AttractorError(
                "MC dropout needs a classifier with dropout, but this one has dropout rate 0; "
                "use it in an EnsembleDetector, or train one with model.dropout = 0.33"
            )
        super().__init__([network], seed, batch_size, precision, trials, mask_scope=mask_scope)

    def _members(self, x: Tensor, first: int) -> Iterator[Tensor]:
        return (self.networks[0](x, m) for m in self._masks(first, len(x)))


class EnsembleDetector(_ClassifierDetector):
    """Deep ensemble: classifiers trained from different seeds; dropout is off.

    The networks are copied. ``seed`` determines the two halves of the calibration images; other
    settings are as for `AttractorDetector`.

    Raises:
        AttractorError: If there are no networks, or they differ in classes or image shape.

    Examples:
        >>> images, labels = torch.rand(8, 1, 64, 64), torch.arange(8) % 2
        >>> members = [ConvClassifier(2, dropout=0.0) for _ in range(3)]
        >>> EnsembleDetector(members).fit(images, labels).sample_proba(images).shape
        torch.Size([3, 8, 2])
    """

    method = "deep ensemble"
    reference = (
        "B. Lakshminarayanan, A. Pritzel, C. Blundell: Simple and Scalable Predictive Uncertainty "
        "Estimation using Deep Ensembles. NeurIPS 2017, arXiv 1612.01474"
    )

    def __init__(
        self,
        networks: Sequence[ConvClassifier],
        *,
        seed: int = 0,
        batch_size: int = 128,
        precision: str = "auto",
    ) -> None:
        if not networks:
            raise AttractorError("an ensemble needs at least one classifier; give trained ones")
        for i, network in enumerate(networks):
            form, wanted = ((n.classes, n.image_shape) for n in (network, networks[0]))
            if form != wanted:
                raise AttractorError(
                    f"member {i} of the ensemble has (classes, image shape) {form}, member 0 "
                    f"{wanted}; give classifiers with the same classes and image shape"
                )
        super().__init__(networks, seed, batch_size, precision, len(networks))

    def _members(self, x: Tensor, first: int) -> Iterator[Tensor]:
        return (network(x) for network in self.networks)


METHODS: dict[str, type[Detector]] = {
    kind.method: kind for kind in (AttractorDetector, MCDropoutDetector, EnsembleDetector)
}
"""Method name -> detector class."""


def load_detector(path: str | Path) -> Detector:
    """Load a detector of any method from a file written by its `save`.

    Raises:
        AttractorError: If the file is missing, damaged, or not a detector.
    """
    path = Path(path)
    return stored_detector(*read_tensors(path), path)


def stored_detector(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path
) -> Detector:
    """Return the detector of the tensors and metadata of `Detector.stored`, read from ``path``."""
    if "method" not in metadata:
        raise AttractorError(f"{path}: is not a detector; give a file written by Detector.save")
    if metadata["method"] not in METHODS:
        raise AttractorError(f"{path}: {unknown_name('method', metadata['method'], METHODS)}")
    kind: Any = METHODS[metadata["method"]]

    try:
        networks = []
        for i, arguments in enumerate(json.loads(metadata["networks"])):
            network = kind.network_class(*arguments, generator=torch.Generator())
            load_weights(network, part_of(tensors, f"network.{i}"), path)
            networks.append(network)
        given = (networks,) if kind is EnsembleDetector else networks
        detector = kind(*given, **json.loads(metadata["settings"]))
        state = part_of(tensors, "fitted")
        detector.classes_ = state.pop("classes")
        detector._restore(state)
        ood = part_of(tensors, "ood")
        detector.ood_ = OODScore(tuple(json.loads(metadata["components"])), **ood)
        detector.score = metadata["score"]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise AttractorError(
            f"{path}: is not a complete detector ({error}); save the detector again"
        ) from None
    return detector
