"""Training: the loop, its objectives, checkpoints and resumption."""

from attractor_ae.training.history import EpochReport
from attractor_ae.training.images import trained_on, training_augmentation, training_part
from attractor_ae.training.loop import Progress, train
from attractor_ae.training.objectives import build_network

__all__ = [
    "EpochReport",
    "Progress",
    "build_network",
    "train",
    "trained_on",
    "training_augmentation",
    "training_part",
]
