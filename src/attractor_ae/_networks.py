"""What detectors of trained networks share: their settings, and how masks make members of one."""

import copy
from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar, get_args

import torch

from attractor_ae._detector import Detector
from attractor_ae._devices import mixed_precision
from attractor_ae._errors import AttractorError, unknown_name
from attractor_ae.core.autoencoder import Autoencoder
from attractor_ae.core.classifier import ConvClassifier
from attractor_ae.core.masks import DropoutMasks, sample_masks, trial_masks
from attractor_ae.experiment.config import MaskScope, Precision

MASK_SCOPES: tuple[str, ...] = get_args(MaskScope)
PRECISIONS: tuple[str, ...] = get_args(Precision)

Network = TypeVar("Network", Autoencoder, ConvClassifier)


def check_counts(**counts: int) -> None:
    """Raise an AttractorError that names the first setting that is less than 1."""
    for name, value in counts.items():
        if value < 1:
            raise AttractorError(f"{name} must be at least 1, got {value}")


class NetworkDetector(Detector, Generic[Network]):
    """An detector that computes with trained networks of one kind.

    Parameters
    ----------
    networks
        At least one, all for images of the same shape. They are copied: the given modules are left
        as they are.
    seed
        What everything random is derived from.
    batch_size
        Images computed at once.
    precision
        What convolutions are computed in, as `attractor_ae._devices.mixed_precision` takes it.

    Raises
    ------
    AttractorError
        If a setting is out of range or unknown, or a weight is no finite number.
    """

    def __init__(
        self, networks: Sequence[Network], *, seed: int, batch_size: int, precision: str
    ) -> None:
        check_counts(batch_size=batch_size)
        if precision not in PRECISIONS:
            raise unknown_name("precision", precision, PRECISIONS)
        for network in networks:
            if not all(bool(weights.isfinite().all()) for weights in network.parameters()):
                raise AttractorError(
                    "the model has weights that are no finite numbers; train it again"
                )
        self.networks: tuple[Network, ...] = tuple(
            copy.deepcopy(network)
            .requires_grad_(False)
            .eval()
            .to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            for network in networks
        )
        self.seed = seed
        self.batch_size = batch_size
        self.precision = precision

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the networks' images."""
        first = self.networks[0]
        return (first.channels, first.image_size, first.image_size)

    @property
    def device(self) -> torch.device:
        """The device that is computed on."""
        return next(self.networks[0].parameters()).device

    def to(self, device: torch.device | str) -> "NetworkDetector":
        """Compute on another device from now on, and return self."""
        for network in self.networks:
            network.to(device)
        return self

    @property
    def _dtype(self) -> torch.dtype:
        return mixed_precision(self.device, self.precision)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self._dtype, enabled=self._dtype != torch.float32)


class MaskedDetector(NetworkDetector[Network]):
    """An detector whose members are one network under one dropout mask each.

    Parameters
    ----------
    model
        The network.
    trials
        Number of masks.
    mask_scope
        ``"trial"``: the images of a trial share its mask. ``"sample"``: each image has its own,
        derived from its index in what `predict` is given.
    seed, batch_size, precision
        As for `NetworkDetector`.

    Raises
    ------
    AttractorError
        As `NetworkDetector`.
    """

    def __init__(
        self,
        model: Network,
        *,
        trials: int,
        mask_scope: str,
        seed: int,
        batch_size: int,
        precision: str,
    ) -> None:
        check_counts(trials=trials)
        if mask_scope not in MASK_SCOPES:
            raise unknown_name("mask scope", mask_scope, MASK_SCOPES)
        super().__init__([model], seed=seed, batch_size=batch_size, precision=precision)
        self.trials = trials
        self.mask_scope = mask_scope
        self._trial_masks: dict[tuple[object, ...], list[DropoutMasks]] = {}

    @property
    def model(self) -> Network:
        """The network."""
        return self.networks[0]

    def to(self, device: torch.device | str) -> "MaskedDetector":
        """Compute on another device from now on, and return self."""
        super().to(device)
        self._trial_masks.clear()
        return self

    def _trials(self, first_index: int, count: int) -> Iterable[DropoutMasks]:
        drawn = (self._masks(t, first_index, count, self._dtype) for t in range(self.trials))
        if self.mask_scope == "sample":
            return drawn
        drawn_for = (self.trials, self.seed, self._dtype)
        if drawn_for not in self._trial_masks:
            self._trial_masks = {drawn_for: list(drawn)}
        return self._trial_masks[drawn_for]

    def _masks(self, trial: int, first_index: int, count: int, dtype: torch.dtype) -> DropoutMasks:
        shapes, rate = self.model.site_shapes, self.model.dropout
        if self.mask_scope == "sample":
            masks = sample_masks(shapes, rate, self.seed, trial, first_index, count, dtype=dtype)
        else:
            masks = trial_masks(shapes, rate, self.seed, trial, dtype=dtype)
        return masks.to(self.device)
