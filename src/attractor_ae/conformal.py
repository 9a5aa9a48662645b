"""One trustworthy number out of many scores: split conformal, right under any dependence.

Scores of one image depend on each other in unknown ways, so no rule that combines their p-values by
a formula is both right and sharp. Here the rule only has to *rank* images; what the ranks mean is
read off known images that nothing was fitted on (Vovk, Gammerman and Shafer, "Algorithmic Learning
in a Random World", 2005, section 2.2). Those are divided into two halves:

1. On the first half each score s_k becomes a p-value, p_k = (1/2 + #{known >= s_k}) / (1 + n_1).
2. The p-values are combined into T = mean_k Phi^-1(1 - p_k) (Stouffer's statistic, scaled).
3. On the second half T becomes the p-value p = (1 + #{known T >= T} + e) / (1 + n_2), at most 1,
   with e = (1 - Phi(T)) / 1000.

Given the first half, T is one fixed function of an image. So for a new known image, exchangeable
with those of the second half, P(p <= a) <= a for every a in [0, 1] - whatever the scores are, and
however they depend on each other; e, which is no part of the theory, only makes p larger. It ranks
the images between which no known one lies, those beyond all known ones above all. The fused score
is 1 - p, in [0, 1): flagging what lies above 1 - a flags at most the share a of known images, on
average over calibrations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from attractor_ae._errors import AttractorError
from attractor_ae._random import Stream, generator

DEFAULT_COMPONENTS = (
    "ssim_distance",
    "reconstruction_error@0",
    "knn_distance@0",
    "feature_norm@0",
)
"""What an attractor detector fuses. ``name@r`` is a score at recursion r, whatever is reported."""

SMALLEST_CALIBRATION = 20
"""Known images that a calibration needs at least."""

# How much of a count tells apart what lies between the same known images.
_FINER = 1e-3


def p_values(
    values: Float[Tensor, "*batch n"], known: Float[Tensor, "*batch m"]
) -> Float[Tensor, "*batch n"]:
    """Return (1 + #{known >= value}) / (1 + m) for each value, in (0, 1].

    Parameters
    ----------
    values
        Scores, larger is more unknown.
    known
        Scores of known images, ascending along the last axis.

    Examples
    --------
    >>> p_values(torch.tensor([0.0, 2.0, 9.0]), torch.tensor([1.0, 2.0, 3.0]))
    tensor([1.0000, 0.7500, 0.2500])
    """
    m = known.shape[-1]
    below = torch.searchsorted(known.contiguous(), values.contiguous())  # how many are smaller
    return (1 + m - below).to(values.dtype) / (1 + m)


def normal_quantiles(
    values: Float[Tensor, "*batch n"], known: Float[Tensor, "*batch m"]
) -> Float[Tensor, "*batch n"]:
    """Return Phi^-1(1 - p_k) of scores, of which T is the mean; see above.

    Parameters
    ----------
    values, known
        As for `p_values`, in float64.
    """
    # Half a count less than a p-value of conformal prediction: neither 0 nor 1.
    p = p_values(values, known) - 0.5 / (1 + known.shape[-1])
    return torch.special.ndtri(1 - p)


def halves(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return a division of the calibration images 0 .. n - 1 into two halves, at random.

    Raises
    ------
    AttractorError
        If there are fewer than ``SMALLEST_CALIBRATION`` images.
    """
    if n < SMALLEST_CALIBRATION:
        raise AttractorError(
            f"calibration needs at least {SMALLEST_CALIBRATION} known images that nothing was "
            f"fitted on, got {n}; set dataset.calibration_fraction higher, or use more images"
        )
    first, second = torch.from_numpy(
        generator(seed, Stream.CALIBRATION).permutation(n)
    ).tensor_split(2)
    return first, second


@dataclass(frozen=True, eq=False)
class FusedScore:
    """A calibrated combination of scores.

    Attributes
    ----------
    names
        The scores that are combined: ``name`` at the recursion that is asked for, or ``name@r``.
    known
        Those of the first half of the calibration images, ascending, shape
        (components, recursions, n_1).
    statistics
        T of the second half, ascending, shape (recursions, n_2).
    """

    names: tuple[str, ...]
    known: Float[Tensor, "components recursions m"]
    statistics: Float[Tensor, "recursions m2"]

    @classmethod
    def calibrate(
        cls, scores: Mapping[str, Tensor], names: Sequence[str], seed: int
    ) -> "FusedScore":
        """Calibrate on scores of known images that neither network nor head was fitted on.

        Parameters
        ----------
        scores
            Name of a score -> values, float, shape (recursions, n).
        names
            Which of them to combine, as in ``FusedScore.names``.
        seed
            What the division into halves is derived from.

        Raises
        ------
        AttractorError
            If there are fewer than ``SMALLEST_CALIBRATION`` images.
        """
        values = _components(scores, names)
        first, second = (values[..., rows] for rows in halves(values.shape[-1], seed))
        known = first.sort(-1).values
        return cls(tuple(names), known, _statistic(second, known).sort(-1).values)

    def __call__(self, scores: Mapping[str, Tensor]) -> Float[Tensor, "recursions n"]:
        """Return the fused score of images, in [0, 1).

        Parameters
        ----------
        scores
            As for `calibrate`.
        """
        t = _statistic(_components(scores, self.names), self.known)
        finer = _FINER * torch.special.ndtr(-t) / (1 + self.statistics.shape[-1])
        return 1 - (p_values(t, self.statistics) + finer).clamp_max(1)

    def state(self) -> dict[str, Tensor]:
        """Return the tensors of the calibration; the names are to be kept beside them."""
        return {"known": self.known, "statistics": self.statistics}


def score_name(component: str) -> str:
    """Return the name of the score that ``name`` or ``name@r`` is."""
    return component.partition("@")[0]


def _components(scores: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    """Return the components' values, float64, of shape (components, recursions, n)."""
    values = []
    for component in names:
        of_all = scores[score_name(component)].double()
        at = component.partition("@")[2]
        values.append(of_all[int(at)].expand_as(of_all) if at else of_all)
    return torch.stack(values)


def _statistic(values: Tensor, known: Tensor) -> Tensor:
    return normal_quantiles(values, known).mean(0)  # (recursions, n)
