"""Networks, dropout masks and losses."""

from attractor_ae.models.autoencoder import (
    ACTIVATIONS,
    Autoencoder,
    AutoencoderOutput,
    initialised_from,
)
from attractor_ae.models.classifier import ConvClassifier
from attractor_ae.models.masks import DropoutMasks, draw_masks, sample_masks, trial_masks

__all__ = [
    "ACTIVATIONS",
    "Autoencoder",
    "AutoencoderOutput",
    "ConvClassifier",
    "DropoutMasks",
    "draw_masks",
    "initialised_from",
    "sample_masks",
    "trial_masks",
]
