"""Network, loss and targets of a training (PROTOCOL section 3)."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from attractor_ae._errors import AttractorError
from attractor_ae._fast_layers import Linear
from attractor_ae.baselines import ConvClassifier
from attractor_ae.core.autoencoder import Autoencoder, FeatureAutoencoder, make_autoencoder
from attractor_ae.core.masks import DropoutMasks
from attractor_ae.data import ImageSet
from attractor_ae.experiment.config import ExperimentConfig
from attractor_ae.losses.metric import metric_loss
from attractor_ae.losses.reconstruction import reconstruction_loss

Network = Autoencoder | FeatureAutoencoder | ConvClassifier
"""A network that can be trained."""

Losses = dict[str, Tensor]
"""Scalars: "loss", which is minimised, its parts, and the accuracy of a classifier."""

Objective = Callable[[Tensor, Tensor, Tensor, DropoutMasks | None], Losses]
"""(augmented images, target images, labels, masks) -> losses"""


Sampler = Callable[[NDArray[np.int64], np.random.Generator], NDArray[np.int64]]
"""(rows of images, random generator) -> rows of their targets"""


def build_network(config: ExperimentConfig, classes: int) -> Network:
    """Return the untrained network of a config, with weights drawn from its seed."""
    model, dataset = config.model, config.dataset
    image = (dataset.image_size, dataset.channels, model.space)
    shared = (model.dropout, model.activation, *image)
    extractor = (model.extractor,) if model.space == "features" else ()
    generator = torch.Generator().manual_seed(config.training.seed)
    if model.type == "conv":
        network = ConvClassifier(classes, *shared, generator=generator)
    else:
        network = make_autoencoder(model.dimension, *shared, *extractor, generator=generator)
    with torch.no_grad():
        for weights in network.parameters():
            if weights.ndim > 1:  # not biases
                weights.mul_(model.weight_gain)
    return network


def build_class_layer(config: ExperimentConfig, classes: int) -> nn.Linear | None:
    """Return the linear layer on the codes whose cross entropy is minimised, if there is one."""
    if config.model.type == "conv" or not config.training.class_weight:
        return None
    layer = Linear(config.model.dimension, classes)
    for weights in layer.parameters():
        nn.init.zeros_(weights)  # its loss is convex in them
    return layer


def build_objective(
    config: ExperimentConfig, network: Network, class_layer: nn.Linear | None = None
) -> Objective:
    """Return the objective of a network.

    For an autoencoder, the reconstruction loss plus the weighted squared error, and the metric loss
    and the cross entropy of ``class_layer`` on the latent codes, if the config names them; for a
    classifier, the cross entropy.
    """
    if isinstance(network, ConvClassifier):

        def classification(x: Tensor, _: Tensor, y: Tensor, masks: DropoutMasks | None) -> Losses:
            logits = network(x, masks)
            loss = F.cross_entropy(logits.float(), y)
            accuracy = (logits.detach().argmax(-1) == y).float().mean()
            return {"loss": loss, "cross_entropy": loss, "accuracy": accuracy}

        return classification

    training = config.training
    reconstruct = reconstruction_loss(training.loss) if training.loss else None
    space = network.space
    metric = metric_loss(config.model.metric) if config.model.metric else None

    def reconstruction(x: Tensor, target: Tensor, y: Tensor, masks: DropoutMasks | None) -> Losses:
        output, latent = network(x, masks)
        target = space.points(target)
        parts: Losses = {}
        if reconstruct is not None:
            parts["reconstruction"] = reconstruct(output.float(), target)
        if training.mse_weight:
            error = training.mse_weight * F.mse_loss(output.float(), target)
            parts["reconstruction"] = parts.get("reconstruction", 0) + error
        if metric is not None:
            parts["metric"] = training.metric_weight * metric(latent.float(), y)
        if class_layer is not None:
            loss = training.class_weight * F.cross_entropy(class_layer(latent.float()), y)
            parts["metric"] = parts.get("metric", 0) + loss
        return {"loss": sum(parts.values(), start=output.new_zeros((), dtype=torch.float)), **parts}

    return reconstruction


def target_sampler(images: ImageSet, instance: bool) -> Sampler:
    """Return a function that draws the row of the target of each image, int64 of shape (m,).

    With ``instance``, the target is another random image of the same class (partially impossible
    reconstruction), otherwise the image itself.
    """
    if not instance:
        return lambda rows, rng: rows
    labels = images.labels
    # Images sorted by class; an image's class is the slice [start, start + count) of them.
    by_class = np.argsort(labels, kind="stable")
    ordered = labels[by_class]
    start = np.searchsorted(ordered, labels, side="left")
    count = np.searchsorted(ordered, labels, side="right") - start
    rank = np.empty(len(labels), dtype=np.int64)
    rank[by_class] = np.arange(len(labels)) - start[by_class]
    if len(labels) and count.min() < 2:
        alone = images.classes[labels[count.argmin()]]
        raise AttractorError(
            f"class {alone!r} of {images.name!r} has a single image, so there is no other "
            "image to reconstruct; set training.make_instance_impossible to false"
        )

    def draw(rows: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        # One of the count - 1 others: a step of 1 .. count - 1 from the image's own place.
        step = rng.integers(1, count[rows])
        return by_class[start[rows] + (rank[rows] + step) % count[rows]]

    return draw
