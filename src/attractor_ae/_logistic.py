"""Logistic regression, and temperature scaling of its probabilities."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from scipy.optimize import minimize_scalar
from torch import Tensor


@dataclass(frozen=True, eq=False)
class LinearClassifier:
    """Multinomial logistic regression of classes on features."""

    weight: Float[Tensor, "features classes"]
    bias: Float[Tensor, " classes"]

    @classmethod
    def of(
        cls, f: Float[Tensor, "m features"], labels: Int[Tensor, " m"], classes: int, penalty: float
    ) -> "LinearClassifier":
        """Minimise the mean cross entropy + penalty / 2 * |weight|^2."""
        found = cls(f.new_zeros(f.shape[1], classes), f.new_zeros(classes))
        parameters = [part.requires_grad_() for part in vars(found).values()]
        optimizer = torch.optim.LBFGS(
            parameters, max_iter=100, tolerance_change=1e-12, line_search_fn="strong_wolfe"
        )

        def loss() -> Tensor:
            optimizer.zero_grad()
            value = F.cross_entropy(found.logits(f), labels)
            value = value + penalty / 2 * found.weight.square().sum()
            value.backward()
            return value

        with torch.enable_grad():
            optimizer.step(loss)
        return cls(*(part.detach() for part in parameters))

    def logits(self, f: Float[Tensor, "n features"]) -> Float[Tensor, "n classes"]:
        """Return the logits of points."""
        return f @ self.weight + self.bias


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
