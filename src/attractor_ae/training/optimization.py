"""How weights are changed: the optimiser, its learning rate, and the average that is kept."""

import math

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from attractor_ae.experiment.config import TrainingConfig


def build_optimizer(network: nn.Module, settings: TrainingConfig) -> torch.optim.Optimizer:
    """Return the optimiser of PROTOCOL section 3 for a network's parameters."""
    builders = {
        "Adam": lambda p, **kw: torch.optim.Adam(p, fused=True, **kw),
        "AdamW": lambda p, **kw: torch.optim.AdamW(p, fused=True, **kw),
        "SGD": lambda p, **kw: torch.optim.SGD(p, momentum=0.9, nesterov=True, fused=True, **kw),
    }
    return builders[settings.optimizer](
        network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )


def learning_rate(settings: TrainingConfig, step: int, steps: int) -> float:
    """Return the learning rate of a step.

    A function of the step alone, so that a schedule has no state to save.

    Parameters
    ----------
    settings
        ``schedule`` is "constant" (the original) or "onecycle": a linear rise to
        ``learning_rate`` over the first tenth of the steps, then half a cosine down to a
        thousandth of it (after Smith and Topin, "Super-convergence", 2018).
    step, steps
        The step, from 0 on, and the number of all steps.
    """
    peak = settings.learning_rate
    if settings.schedule == "constant":
        return peak
    rise = max(1, round(0.1 * steps))
    if step < rise:
        return peak * (step + 1) / rise
    through = (step - rise) / max(1, steps - rise - 1)
    return peak * (0.001 + 0.999 * 0.5 * (1 + math.cos(math.pi * through)))


def moving_average(network: nn.Module, decay: float) -> AveragedModel:
    """Return a copy of a network that follows its weights (after Polyak and Juditsky, 1992).

    Each call of ``update_parameters(network)`` moves the average by 1 - ``decay`` of the way to the
    weights; the first one takes them as they are. The averaged network is ``module``.

    Parameters
    ----------
    network
        What is trained; its weights stay as they are.
    decay
        In (0, 1): the average is one of the last 1 / (1 - decay) steps, roughly.

    Examples
    --------
    >>> network = nn.Linear(1, 1)
    >>> average = moving_average(network, 0.9)
    >>> average.update_parameters(network)
    >>> bool(average.module.weight == network.weight)
    True
    """
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay))
