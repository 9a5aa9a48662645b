"""Adaptive sampling: an image draws masks until its verdict is very unlikely to change.

T_n is the statistic of the OOD score (`attractor_ae.conformal`) from the first n trials. Images can
stop after 1, 2, 4, ... trials, and stop after n if T_n is further from the threshold q of T than
all but 1 % of the calibration images have |T_n - T_last|. The calibration images stop by the same
rule, so that p-values compare numbers that were computed alike.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attractor_ae._errors import AttractorError
from attractor_ae.conformal import Groups, rejected_ranks
from attractor_ae.core.detector import AttractorDetector
from attractor_ae.core.scores import IMAGE_SCORES

ERROR = 0.01
"""Fraction of calibration images whose T differs by more from T of all trials, at each stage."""


def stages(trials: int) -> list[int]:
    """Return the numbers of trials after which an image can stop: 1, 2, 4, ..., and all."""
    return [*(2**k for k in range(math.ceil(math.log2(trials)))), trials]


def chosen_stages(trials: int, of: Sequence[int]) -> slice:
    """Return the rows of ``stages(trials)`` from a smallest to a largest number of trials."""
    possible = stages(trials)
    if len(of) != 2 or not set(of) <= set(possible) or of[0] > of[1]:
        raise AttractorError(
            f"trials {' to '.join(map(str, of))}: give two of {', '.join(map(str, possible))}, "
            "ascending"
        )
    return slice(possible.index(of[0]), possible.index(of[1]) + 1)


@dataclass(frozen=True)
class StoppingRule:
    """Threshold q of T of each predicted class, and the distance beyond which an image stops."""

    thresholds: Float[Tensor, " classes"]
    distances: tuple[float, ...]  # of each stage

    @classmethod
    def of(
        cls, t: Float[Tensor, "stages n"], alpha: float, groups: Groups, error: float = ERROR
    ) -> "StoppingRule":
        """Return the rule for T_n of the calibration images, at the thresholds of ``alpha``."""
        q = [  # images with a larger T are rejected
            t[-1, some].sort().values[n - rejected_ranks(alpha, n)]
            for some, n in zip(groups.members, groups.sizes.tolist(), strict=True)
        ]
        differences = (t - t[-1]).abs().quantile(1 - error, dim=1, interpolation="higher")
        return cls(torch.stack(q)[groups.of_class], (*differences[:-1].tolist(), -1.0))

    def stops(
        self, t: Float[Tensor, " n"], labels: Int[Tensor, " n"], stage: int
    ) -> Bool[Tensor, " n"]:
        """Return whether images with T_n = t stop at a stage; at the last one, all do."""
        return (t - self.thresholds[labels]).abs() > self.distances[stage]

    def applied(
        self, t: Float[Tensor, "stages n"], labels: Int[Tensor, "stages n"]
    ) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
        """Return T_n and the predicted class of each image at the stage at which it stops."""
        pairs = zip(t, labels, strict=True)
        stopped = torch.stack([self.stops(*pair, i) for i, pair in enumerate(pairs)])
        stage = stopped.int().argmax(0, keepdim=True)
        return t.gather(0, stage)[0], labels.gather(0, stage)[0]


def sampled(
    detector: AttractorDetector,
    inputs: Tensor,
    names: Sequence[str],
    recursions: Sequence[int],
    counts: Sequence[int],
    stops: Callable[[int, dict[str, Tensor]], Tensor] | None = None,
) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Yield the rows that are left at each stage, and the means over the trials so far.

    Args:
        detector: A fitted detector.
        inputs: Images or features (n, ...).
        names: Scores that are means over trials, or of the image alone.
        recursions: Recursions of the result.
        counts: Number of trials at each stage, ascending.
        stops: Return, for a stage and the means of the rows, which rows stop; without it, none.

    Yields:
        Rows, int64 (m,), and score -> (recursions, m); the class distributions are named "".
    """
    rows, means = torch.arange(len(inputs)), dict[str, Tensor]()
    for stage, (before, after) in enumerate(itertools.pairwise((0, *counts))):
        some = detector.some_trials(before, after - before)
        varying = [n for n in names if not before or n.partition("@")[0] not in IMAGE_SCORES]
        found = some.predict_scores(inputs[rows], varying, recursions)
        means = dict(means)  # those of earlier stages stay as they are
        for name, values in (*found.scores.items(), ("", found.probabilities)):
            mean = means.get(name, values)  # the same in the first stage
            means[name] = mean + (values - mean) * ((after - before) / after)
        yield rows, means
        if stops is not None:
            left = ~stops(stage, means)
            rows, means = rows[left], {name: of[:, left] for name, of in means.items()}
            if not len(rows):
                return
