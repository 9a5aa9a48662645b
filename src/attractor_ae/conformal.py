"""One calibrated OOD score from several scores, by full conformal prediction.

A combination of scores only has to *rank* images; n known images that were not used for training or
fitting turn the ranks into p-values (Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random
World", 2005, section 2.2). For each image in question, these calibration images and the image
itself are n + 1 images, all treated alike:

1. Each score s_k of each of the n + 1 becomes a p-value among the others,
   p_k = (1/2 + #{others >= s_k}) / (n + 1).
2. The p-values are combined into T = mean_k Phi^-1(1 - p_k) (Stouffer's statistic, scaled).
3. The p-value of the image in question is p = (1 + #{calibration images with T >= its T} + e)
   / (n + 1), at most 1, with e = (1 - Phi(T)) / 1000.

The n + 1 values of T are a symmetric function of the n + 1 images: to exchange two images exchanges
their T. So if a new known image is exchangeable with the calibration images, the rank of its T is
uniform but for ties, and P(p <= a) <= a for every a in [0, 1], whatever the scores and their
dependence, as long as nothing but ranks depends on the calibration images. e is not part of the
theory; it makes p larger and ranks images whose T is between the same two known values. The OOD
score is 1 - p, in [0, 1): flagging images above 1 - a flags at most the fraction a of known images,
on average over calibrations.
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
_ENTRIES = 1_000_000  # largest number of comparisons at once, per component


def check_enough(n: int) -> None:
    """Raise an AttractorError if there are fewer than ``SMALLEST_CALIBRATION`` images."""
    if n < SMALLEST_CALIBRATION:
        raise AttractorError(
            f"calibration needs at least {SMALLEST_CALIBRATION} known images that were not used "
            f"for training or fitting, got {n}; set dataset.calibration_fraction higher, or use "
            "more images"
        )


def halves(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Divide the calibration images 0 .. n - 1 at random into two halves."""
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
        known: Their values on the calibration images, one column per image, float64.
    """

    components: tuple[str, ...]
    known: Float[Tensor, "components recursions n"]

    @classmethod
    def calibrate(cls, scores: Mapping[str, Tensor], components: Sequence[str]) -> "OODScore":
        """Calibrate on scores (recursions, n) of known images."""
        count = len(next(iter(scores.values())))
        at = [[parse_component(c, r) for r in range(count)] for c in components]
        values = torch.stack([torch.stack([scores[n][r].double() for n, r in c]) for c in at])
        return cls(tuple(components), values)

    def __call__(
        self, values: Float[Tensor, "components m"], recursion: int
    ) -> Float[Tensor, " m"]:
        """Return the OOD score, in [0, 1), of the components' values at a recursion."""
        values, known = values.double(), self.known[:, recursion]
        n = known.shape[-1]
        ascending = known.sort(-1).values
        t = _quantiles(n - torch.searchsorted(ascending, values.contiguous()), n).mean(0)
        others = n - 1 - torch.searchsorted(ascending, known.contiguous())
        # Of a calibration image: without and with the image in question among those above it.
        without, within = _quantiles(others, n), _quantiles(others + 1, n)
        counts = []
        for some, t_some in zip(
            values.split(_ENTRIES // n + 1, -1), t.split(_ENTRIES // n + 1), strict=True
        ):
            above = some[..., None] >= known[:, None]  # (components, m, n)
            t_known = torch.where(above, within[:, None], without[:, None]).mean(0)
            # Equal statistics may differ by rounding.
            counts.append((t_known >= t_some[:, None] - 1e-9).sum(-1))
        finer = _FINER * torch.special.ndtr(-t)
        return 1 - ((1 + torch.cat(counts) + finer) / (n + 1)).clamp_max(1)


def _quantiles(above: Tensor, n: int) -> Tensor:
    """Return Phi^-1(1 - p) of the number of others at or above a score."""
    return torch.special.ndtri(1 - (above.double() + 0.5) / (n + 1))
