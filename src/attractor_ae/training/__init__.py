"""Training: the loop, the objective, checkpoints and history."""

from attractor_ae.training.loop import train
from attractor_ae.training.objective import build_network
from attractor_ae.training.preparation import trained_on, training_augmentation, training_part

__all__ = ["build_network", "train", "trained_on", "training_augmentation", "training_part"]
