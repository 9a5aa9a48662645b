"""Temperature scaling of class probabilities."""

import math

from jaxtyping import Float, Int
from scipy.optimize import minimize_scalar
from torch import Tensor


def best_temperature(
    logits: Float[Tensor, "members n classes"], labels: Int[Tensor, " n"]
) -> float:
    """Return the temperature in [exp(-3), exp(3)] that maximises the likelihood of the labels.

    The likelihood is that of the reported distribution, the mean over members, of the logits
    divided by the temperature (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017).
    """
    logits = logits.double()
    index = labels[None, :, None].expand(len(logits), -1, 1)

    def loss(log_temperature: float) -> float:
        p = (logits / math.exp(log_temperature)).softmax(-1).gather(-1, index).mean(0)
        return float(-p.clamp_min(1e-12).log().mean())

    return math.exp(minimize_scalar(loss, bounds=(-3.0, 3.0), method="bounded").x)
