"""The optimiser and its learning rate (PROTOCOL section 3)."""

import math

import torch
from torch import nn

from attractor_ae.experiment.config import TrainingConfig


def build_optimizer(trained: nn.Module, settings: TrainingConfig) -> torch.optim.Optimizer:
    """Return the optimiser for the parameters of modules."""
    kind = getattr(torch.optim, settings.optimizer)
    more = {"momentum": 0.9, "nesterov": True} if settings.optimizer == "SGD" else {}
    return kind(
        trained.parameters(),
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        fused=True,
        **more,
    )


def dropout_rate(rate: float, step: int, warmup: int) -> float:
    """Return the dropout rate: 0 in the first half of the warm-up, then rising to ``rate``."""
    return rate if step >= warmup else rate * max(0.0, 2 * step / warmup - 1)


def learning_rate(settings: TrainingConfig, step: int, steps: int) -> float:
    """Return the learning rate of a step, a function of only the step: there is no state.

    "constant" is as in the original. "onecycle" rises linearly to ``learning_rate`` over the first
    tenth of the steps, then falls to a thousandth of it along half a cosine (after Smith and Topin,
    "Super-convergence", 2018). ``step`` counts from 0.
    """
    peak = settings.learning_rate
    if settings.schedule == "constant":
        return peak
    rise = max(1, round(0.1 * steps))
    if step < rise:
        return peak * (step + 1) / rise
    through = (step - rise) / max(1, steps - rise - 1)
    return peak * (0.001 + 0.999 * 0.5 * (1 + math.cos(math.pi * through)))
