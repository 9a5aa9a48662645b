"""What a training step minimises, and what a reconstruction should look like."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from attractor_ae._errors import AttractorError
from attractor_ae.baselines import ConvClassifier
from attractor_ae.core.autoencoder import Autoencoder
from attractor_ae.core.masks import DropoutMasks
from attractor_ae.data import ImageSet
from attractor_ae.experiment.config import ExperimentConfig
from attractor_ae.losses.metric import metric_loss
from attractor_ae.losses.reconstruction import reconstruction_loss


class Losses(NamedTuple):
    """What one batch gives: scalars, of which ``total`` is minimised, and the network's output.

    ``parts`` are what else is told of a training: the losses that ``total`` is the sum of, and the
    accuracy of a classifier.
    """

    total: Tensor
    parts: dict[str, Tensor]
    output: Tensor


Objective = Callable[[Tensor, Tensor, Tensor, DropoutMasks | None], Losses]
"""(augmented images, target images, labels, masks) -> losses"""


def build_network(config: ExperimentConfig, classes: int) -> Autoencoder | ConvClassifier:
    """Return the untrained network that a config describes, its weights drawn from the seed."""
    model, size, channels = config.model, config.dataset.image_size, config.dataset.channels
    shared = (model.dropout, model.activation, size, channels)
    generator = torch.Generator().manual_seed(config.training.seed)
    if model.type == "conv":
        return ConvClassifier(classes, *shared, generator=generator)
    return Autoencoder(model.dimension, *shared, generator=generator)


def build_objective(config: ExperimentConfig, network: nn.Module) -> Objective:
    """Return the objective of PROTOCOL section 3 for a network.

    An autoencoder has its reconstruction loss and, if the config names one, a metric loss on the
    latent codes with weight 1; a classifier has the cross entropy.
    """
    if isinstance(network, ConvClassifier):

        def classification(x: Tensor, _: Tensor, y: Tensor, masks: DropoutMasks | None) -> Losses:
            output = network(x, masks)
            loss = F.cross_entropy(output.float(), y)
            accuracy = (output.detach().argmax(-1) == y).float().mean()
            return Losses(loss, {"cross_entropy": loss, "accuracy": accuracy}, output)

        return classification

    reconstruct = reconstruction_loss(config.training.loss)
    metric = metric_loss(config.model.metric) if config.model.metric else None

    def reconstruction(x: Tensor, target: Tensor, y: Tensor, masks: DropoutMasks | None) -> Losses:
        output, latent = network(x, masks)
        loss = reconstruct(output.float(), target)
        parts = {"reconstruction": loss}
        if metric is not None:
            parts["metric"] = metric(latent.float(), y)
        return Losses(sum(parts.values(), start=loss.new_zeros(())), parts, output)

    return reconstruction


class Targets:
    """Draws the image that each input should be reconstructed as.

    Parameters
    ----------
    images
        What is trained on.
    instance
        Whether the target is a random other image of the same class ("instance", partially
        impossible reconstruction), instead of the image itself.

    Raises
    ------
    AttractorError
        If ``instance`` is wanted and a class has a single image.
    """

    def __init__(self, images: ImageSet, instance: bool) -> None:
        self._instance = instance
        labels = images.labels
        # Images sorted by class; an image's class is the slice [start, start + count) of them.
        self._by_class = np.argsort(labels, kind="stable")
        ordered = labels[self._by_class]
        self._start = np.searchsorted(ordered, labels, side="left")
        self._count = np.searchsorted(ordered, labels, side="right") - self._start
        self._rank = np.empty(len(labels), dtype=np.int64)
        self._rank[self._by_class] = np.arange(len(labels)) - self._start[self._by_class]
        if instance and len(labels) and self._count.min() < 2:
            alone = images.classes[labels[self._count.argmin()]]
            raise AttractorError(
                f"class {alone!r} of {images.name!r} has a single image, so there is no other to "
                "reconstruct; set training.make_instance_impossible to false"
            )

    def draw(self, rows: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """Return the row of the target of each image in ``rows``, both int64 of shape (m,)."""
        if not self._instance:
            return rows
        # One of the count - 1 others: a step of 1 .. count - 1 from the image's own place.
        step = rng.integers(1, self._count[rows])
        return self._by_class[self._start[rows] + (self._rank[rows] + step) % self._count[rows]]
