"""One calibrated OOD score from several scores, by split conformal prediction.

A combination of scores only has to *rank* images; n known images that were not used for training or
fitting turn the ranks into p-values (Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random
World", 2005, section 2.2).

1. The scores s_k are standardised by their mean and standard deviation on training images, to
   t_k = (s_k - mean_k) / deviation_k, and T = mean_k ln(1 + exp(t_k)), so that a low
   score does not outweigh a high one.
2. On the n calibration images T becomes the p-value p = (1 + #{known T >= T} + e) / (1 + n), at
   most 1, with e = 1 / (1 + T) / 1000.

T is a fixed function of an image and does not depend on the calibration images. So for a new
known image, exchangeable with the calibration images, P(p <= a) <= a for every a in [0, 1],
whatever the scores and their dependence. Given the calibration images, the fraction of known images
with p <= a is at most Beta(k, n + 1 - k) distributed, k = floor(a (n + 1)). e is not part of the
theory; it makes p larger and ranks images whose T is between the same two known values. The OOD
score is 1 - p, in [0, 1): at most the fraction a of known images has a score above 1 - a, on
average over calibrations.
"""

import bisect
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attractor_ae._errors import AttractorError
from attractor_ae._random import Stream, generator

DEFAULT_COMPONENTS = (
    "knn_distance@0",
    "step",
    "layer_mahalanobis@0",
    "contrast@0",
    "detail_mahalanobis@0",
)
"""Components of MC-AE's OOD score; ``name@r``: always at recursion r, else at the reported one."""

FEATURE_COMPONENTS = ("layer_mahalanobis@0", "feature_norm@0", "linear_energy@0")
"""The same in the space of features."""

SMALLEST_CALIBRATION = 9
"""Smallest number of calibration images: with nine, alpha can be 0.1."""

LEAST_PER_CLASS = 100
"""Smallest number of calibration images of a class with p-values of its own."""

_FINER = 1e-3  # largest e, as a fraction of one count
_ROUNDING = 1e-9  # tolerance for p-values, 1 / alpha and alpha (n + 1)


def p_values(values: Float[Tensor, " n"], known: Float[Tensor, " m"]) -> Float[Tensor, " n"]:
    """Return (1 + #{known >= value}) / (1 + m), in (0, 1]; ``known`` ascends.

    Examples:
        >>> p_values(torch.tensor([0.0, 2.0, 9.0]), torch.tensor([1.0, 2.0, 3.0]))
        tensor([1.0000, 0.7500, 0.2500])
    """
    if torch.compiler.is_compiling():  # ONNX has only comparisons
        above = (known >= values[:, None]).sum(-1)
    else:
        above = len(known) - torch.searchsorted(known, values)
    return (1 + above).to(values.dtype) / (1 + len(known))


@dataclass(frozen=True, eq=False)
class Groups:
    """Groups of predicted classes, each with p-values of its own.

    Attributes:
        of_class: The group of each class.
        members: The known images that images of each group are ranked among.
    """

    of_class: Int[Tensor, " classes"]
    members: Bool[Tensor, "groups m"]

    @classmethod
    def of(
        cls, known_labels: Int[Tensor, " m"], classes: int, least: int = LEAST_PER_CLASS
    ) -> "Groups":
        """Return the groups for the predicted classes of the known images, 0 .. classes - 1.

        A class with at least ``least`` known images is a group. The other classes form one group,
        joined by the next larger classes until it has as many. The new image counts in the size of
        its class: groups are then the same whichever of the m + 1 images is the new one, so that
        its rank is uniform in its group.
        """
        one_more = torch.eye(classes, dtype=torch.int64)  # row c: the new image is of class c
        alone = are_alone(known_labels.bincount(minlength=classes) + one_more, least)
        own = known_labels == torch.arange(classes)[:, None]
        rows = torch.where(alone.diagonal()[:, None], own, ~alone[:, known_labels])
        members, of_class = rows.unique(dim=0, return_inverse=True)
        return cls(of_class, members)

    @property
    def sizes(self) -> Int[Tensor, " groups"]:
        """Number of known images of each group."""
        return self.members.sum(-1)


def p_values_per_class(
    values: Float[Tensor, " n"],
    labels: Int[Tensor, " n"],
    known: Float[Tensor, " m"],
    groups: Groups,
) -> Float[Tensor, " n"]:
    """Return p-values among the known images of the group of the predicted class, in (0, 1].

    Then P(p <= a) <= a for the images of each group, not only for all together (Mondrian conformal
    prediction; Vovk, Gammerman and Shafer 2005, section 4.5).
    """
    group = groups.of_class[labels]
    if torch.compiler.is_compiling():
        above = ((known >= values[:, None]) & groups.members[group]).sum(-1)
        return (1 + above).to(values.dtype) / (1 + groups.sizes[group])
    found = torch.ones_like(values)
    for g in group.unique().tolist():
        found[group == g] = p_values(values[group == g], known[groups.members[g]].sort().values)
    return found


def are_alone(
    counts: Int[Tensor, "*n classes"], least: int = LEAST_PER_CLASS
) -> Bool[Tensor, "*n classes"]:
    """Return which classes have p-values of their own, from counts that include the new image.

    Examples:
        >>> are_alone(torch.tensor([30, 150, 90, 200])).tolist()  # 30 + 90 are enough
        [False, True, False, True]
        >>> are_alone(torch.tensor([30, 150, 200])).tolist()  # 30 need those of class 1
        [False, False, True]
    """
    ordered, order = counts.sort(stable=True)
    before = ordered.cumsum(-1) - ordered  # known images of the smaller classes
    alone = (ordered > least) & ((before >= least) | (ordered[..., :1] >= least))
    return torch.zeros_like(alone).scatter(-1, order, alone)


def leave_one_out(known: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Return the p-value of each known image among the n - 1 others.

    Examples:
        >>> leave_one_out(torch.tensor([1.0, 3.0, 2.0, 3.0]))
        tensor([1.0000, 0.5000, 0.7500, 0.5000])
    """
    n = len(known)
    return ((n + 1) * p_values(known, known.sort().values) - 1) / n


def first_drift(
    values: Iterable[float], known: Iterable[float], level: float = 0.01, seed: int = 0
) -> int | None:
    """Return the position at which a stream is found to differ from the known images, or None.

    The conformal test martingale "simple jumper" bets against uniform p-values, each among the
    known images and all earlier ones of the stream. If all are exchangeable, the probability that
    it ever reaches 1 / ``level`` is at most ``level`` (Vovk et al., "Retrain or not
    retrain: conformal test martingales for change-point detection", 2021).

    Args:
        values: Scores of a stream in its order, larger = more out of distribution.
        known: Scores of the calibration images.
        level: Probability of a false alarm in the whole stream, however long.
        seed: Seed that ranks equal scores.
    """
    rng = generator(seed, Stream.CALIBRATION, 1)
    earlier, capital, jump = sorted(known), [1 / 3] * 3, 0.01
    for position, value in enumerate(values):
        low, high = bisect.bisect_left(earlier, value), bisect.bisect_right(earlier, value)
        larger, equal = len(earlier) - high, high - low + 1
        p = (larger + rng.random() * equal) / (len(earlier) + 1)
        total = sum(capital)
        shared = ((1 - jump) * part + jump * total / 3 for part in capital)
        bets = (1 + slope * (p - 0.5) for slope in (-1, 0, 1))
        capital = [part * bet for part, bet in zip(shared, bets, strict=True)]
        if sum(capital) >= 1 / level:
            return position
        bisect.insort(earlier, value)
    return None


def check_enough(n: int) -> None:
    """Raise an AttractorError if there are fewer than ``SMALLEST_CALIBRATION`` images."""
    if n < SMALLEST_CALIBRATION:
        raise AttractorError(
            f"calibration needs at least {SMALLEST_CALIBRATION} known images that were not used "
            f"for training or fitting, got {n}; set dataset.calibration_fraction higher, or use "
            "more images"
        )


def least_calibration(alpha: float) -> int:
    """Return the number of calibration images that the false-alarm rate ``alpha`` needs.

    With fewer, no p-value is as small as alpha, and nothing is rejected.

    Examples:
        >>> least_calibration(0.05), least_calibration(0.1), least_calibration(0.5)
        (19, 9, 1)
    """
    return math.ceil(1 / alpha - _ROUNDING) - 1


def is_rejected(p: Float[Tensor, " n"], alpha: float | Tensor) -> Bool[Tensor, " n"]:
    """Return whether p-values are at most alpha, allowing for rounding."""
    return p <= alpha + _ROUNDING


def rejected_ranks(alpha: float, n: int) -> int:
    """Return k = floor(alpha (n + 1)): an image is rejected among the k largest of n + 1.

    Examples:
        >>> rejected_ranks(0.05, 112)
        5
    """
    return math.floor(alpha * (n + 1) + _ROUNDING)


def check_alpha(alpha: float, n: int, remedy: str) -> None:
    """Raise an AttractorError if ``alpha`` is not in (0, 1), or n calibration images are too few.

    ``remedy`` ends the message, after the number needed and the smallest alpha possible.
    """
    if not 0 < alpha < 1:
        raise AttractorError(f"alpha must be between 0 and 1, got {alpha:g}; give e.g. 0.05")
    if n < (needed := least_calibration(alpha)):
        raise AttractorError(
            f"alpha {alpha:g} needs {needed} calibration images, but there are {n}, with which the "
            f"smallest alpha is {math.ceil(1e4 / (n + 1)) / 1e4:g}; {remedy}"
        )


def false_alarm_rate(alpha: float, n: int, share: float = 0.9) -> tuple[float, float, float]:
    """Return mean and interval of the fraction of known images with p <= alpha.

    Over calibrations with n images, this fraction is Beta(k, n + 1 - k) distributed, with
    k = floor(alpha (n + 1)), if the statistic T is continuous, and smaller otherwise (Vovk,
    "Conditional validity of inductive conformal predictors", 2012).

    Returns:
        Mean, lower and upper end of the central interval that contains the fraction in ``share`` of
        calibrations.

    Examples:
        >>> [round(100 * rate, 1) for rate in false_alarm_rate(0.05, 112)]
        [4.4, 1.8, 8.0]
    """
    from scipy.stats import beta  # slow to import

    k = rejected_ranks(alpha, n)
    if not k:
        return 0.0, 0.0, 0.0
    low, high = beta(k, n + 1 - k).ppf([(1 - share) / 2, (1 + share) / 2])
    return k / (n + 1), float(low), float(high)


def usual_rejections(
    alpha: float, sizes: Iterable[tuple[int, int]], share: float = 0.9
) -> tuple[int, int]:
    """Return the central interval of the number of known images with p <= alpha.

    Both the calibration and the images are random: a sum of beta-binomial numbers.

    Args:
        alpha: The threshold.
        sizes: Numbers of calibration images and of images, of each group with its own p-values.
        share: Probability that the number is in the interval.

    Examples:
        >>> usual_rejections(0.05, [(112, 45)])
        (0, 5)
    """
    from scipy.signal import fftconvolve
    from scipy.stats import betabinom

    law = np.ones(1)
    for n, m in sizes:
        k = rejected_ranks(alpha, n)
        law = fftconvolve(law, betabinom.pmf(np.arange(m + 1), m, k, n + 1 - k))
    low, high = np.searchsorted(law.cumsum(), [(1 - share) / 2, (1 + share) / 2]).tolist()
    return low, high


def halves(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Divide the calibration images 0 .. n - 1 at random into two halves."""
    order = generator(seed, Stream.CALIBRATION).permutation(n)
    first, second = torch.from_numpy(order).tensor_split(2)
    return first, second


def parse_component(component: str, recursion: int) -> tuple[str, int]:
    """Return the score and the recursion of ``name@r``, or of ``name`` at ``recursion``."""
    name, _, at = component.partition("@")
    return name, int(at) if at else recursion


def component_values(
    scores: Mapping[str, Tensor], components: Sequence[str]
) -> Float[Tensor, "components recursions n"]:
    """Return the values of components, float64, from scores (recursions, n)."""
    recursions = range(len(next(iter(scores.values()))))
    at = [[parse_component(c, r) for r in recursions] for c in components]
    return torch.stack([torch.stack([scores[n][r].double() for n, r in c]) for c in at])


def ood_score(t: Float[Tensor, " n"], known: Float[Tensor, " m"]) -> Float[Tensor, " n"]:
    """Return the OOD score of the statistics T, in [0, 1); ``known`` ascends."""
    finer = _FINER / (1 + t) / (1 + len(known))
    return 1 - (p_values(t, known) + finer).clamp_max(1)


@dataclass(frozen=True, eq=False)
class OODScore:
    """A combination of scores.

    Attributes:
        components: The combined scores, ``name`` or ``name@r``.
        mean: Their means on training images, float64.
        deviation: Their standard deviations on training images, float64.
        statistics: T of the calibration images, ascending, float64; None before the calibration.
    """

    components: tuple[str, ...]
    mean: Float[Tensor, "components recursions"]
    deviation: Float[Tensor, "components recursions"]
    statistics: Float[Tensor, "recursions n"] | None = None

    @classmethod
    def fit(cls, scores: Mapping[str, Tensor], components: Sequence[str]) -> "OODScore":
        """Return the combination for the scores (recursions, n) of training images."""
        values = component_values(scores, components)
        deviation = values.std(-1, correction=0).clamp_min(1e-6)
        return cls(tuple(components), values.mean(-1), deviation)

    def calibrated(self, scores: Mapping[str, Tensor]) -> "OODScore":
        """Return the combination, calibrated on scores (recursions, n) of known images."""
        values = component_values(scores, self.components).unbind(1)
        statistics = torch.stack([self.statistic(of_r, r) for r, of_r in enumerate(values)])
        return OODScore(self.components, self.mean, self.deviation, statistics.sort(-1).values)

    def standardised(
        self, values: Float[Tensor, "components n"], recursion: int
    ) -> Float[Tensor, "components n"]:
        """Return the components' values in deviations from the mean of the training images."""
        mean, deviation = self.mean[:, recursion, None], self.deviation[:, recursion, None]
        return (values - mean) / deviation

    def __call__(
        self, values: Float[Tensor, "components n"], recursion: int
    ) -> Float[Tensor, " n"]:
        """Return the OOD score, in [0, 1), of the components' values at a recursion."""
        assert self.statistics is not None  # the caller has calibrated
        return ood_score(self.statistic(values.double(), recursion), self.statistics[recursion])

    def statistic(
        self, values: Float[Tensor, "components n"], recursion: int
    ) -> Float[Tensor, " n"]:
        """Return T of the components' values at a recursion; larger is more out of distribution."""
        t = self.standardised(values, recursion)
        return (t.clamp_min(0) + t.abs().neg().exp().log1p()).mean(0)  # ln(1 + exp(t))
