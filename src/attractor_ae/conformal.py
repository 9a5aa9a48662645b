"""One calibrated OOD score from several scores, by split conformal prediction.

A combination of scores only has to *rank* images; known images that were not used for training or
fitting turn the ranks into p-values (Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random
World", 2005, section 2.2). These calibration images are divided into two halves:

1. On the first half each score s_k becomes a p-value, p_k = (1/2 + #{known >= s_k}) / (1 + n_1).
2. The p-values are combined into T = mean_k Phi^-1(1 - p_k) (Stouffer's statistic, scaled).
3. On the second half T becomes the p-value p = (1 + #{known T >= T} + e) / (1 + n_2), at most 1,
   with e = (1 - Phi(T)) / 1000.

Given the first half, T is a fixed function of an image. So for a new known image, exchangeable with
those of the second half, P(p <= a) <= a for every a in [0, 1], whatever the scores and their
dependence. e is not part of the theory; it makes p larger and ranks images whose T is between the
same two known values. The OOD score is 1 - p, in [0, 1): flagging images above 1 - a flags at most
the fraction a of known images, on average over calibrations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from attractor_ae._errors import AttractorError
from attractor_ae._random import Stream, generator

DEFAULT_COMPONENTS = ("ssim_distance", "reconstruction_error@0", "knn_distance@0", "feature_norm@0")
"""Components of MC-AE's OOD score; ``name@r``: always at recursion r, else at the reported one."""

SMALLEST_CALIBRATION = 20
"""Smallest number of calibration images."""

_FINER = 1e-3  # weight of e, as a fraction of one count


def p_values(
    values: Float[Tensor, "*batch n"], known: Float[Tensor, "*batch m"]
) -> Float[Tensor, "*batch n"]:
    """Return (1 + #{known >= value}) / (1 + m), in (0, 1]; ``known`` ascends on its last axis.

    Examples:
        >>> p_values(torch.tensor([0.0, 2.0, 9.0]), torch.tensor([1.0, 2.0, 3.0]))
        tensor([1.0000, 0.7500, 0.2500])
    """
    m = known.shape[-1]
    below = torch.searchsorted(known.contiguous(), values.contiguous())  # number of smaller values
    return (1 + m - below).to(values.dtype) / (1 + m)


def normal_quantiles(
    values: Float[Tensor, "*batch n"], known: Float[Tensor, "*batch m"]
) -> Float[Tensor, "*batch n"]:
    """Return Phi^-1(1 - p_k) of scores, float64; arguments as for `p_values`."""
    # Half a count less than the conformal p-value, so that p is neither 0 nor 1.
    p = p_values(values, known) - 0.5 / (1 + known.shape[-1])
    return torch.special.ndtri(1 - p)


def halves(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Divide the calibration images 0 .. n - 1 at random into two halves.

    Raises:
        AttractorError: If there are fewer than ``SMALLEST_CALIBRATION``.
    """
    if n < SMALLEST_CALIBRATION:
        raise AttractorError(
            f"calibration needs at least {SMALLEST_CALIBRATION} known images that were not used "
            f"for training or fitting, got {n}; set dataset.calibration_fraction higher, or use "
            "more images"
        )
    order = generator(seed, Stream.CALIBRATION).permutation(n)
    first, second = torch.from_numpy(order).tensor_split(2)
    return first, second


def parse_component(component: str, recursion: int) -> tuple[str, int]:
    """Return the score and the recursion of ``name@r``, or of ``name`` at ``recursion``."""
    name, _, at = component.partition("@")
    return name, int(at) if at else recursion


@dataclass(frozen=True, eq=False)
class OODScore:
    """A calibrated combination of scores.

    Attributes:
        components: The combined scores, ``name`` or ``name@r``.
        known: Their values on the first half, ascending, float64.
        statistics: T of the second half, ascending, float64.
    """

    components: tuple[str, ...]
    known: Float[Tensor, "components recursions m1"]
    statistics: Float[Tensor, "recursions m2"]

    @classmethod
    def calibrate(
        cls, scores: Mapping[str, Tensor], components: Sequence[str], first: Tensor, second: Tensor
    ) -> "OODScore":
        """Calibrate on scores (recursions, n) of known images; see `halves`."""
        count = len(next(iter(scores.values())))
        at = [[parse_component(c, r) for r in range(count)] for c in components]
        values = torch.stack([torch.stack([scores[n][r].double() for n, r in c]) for c in at])
        known = values[..., first].sort(-1).values
        statistics = normal_quantiles(values[..., second], known).mean(0)
        return cls(tuple(components), known, statistics.sort(-1).values)

    def __call__(
        self, values: Float[Tensor, "components n"], recursion: int
    ) -> Float[Tensor, " n"]:
        """Return the OOD score, in [0, 1), of the components' values at a recursion."""
        t = normal_quantiles(values.double(), self.known[:, recursion]).mean(0)
        known = self.statistics[recursion]
        finer = _FINER * torch.special.ndtr(-t) / (1 + len(known))
        return 1 - (p_values(t, known) + finer).clamp_max(1)
