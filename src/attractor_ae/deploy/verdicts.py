"""Verdicts on images: the rows of a file of verdicts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

KNOWN, UNKNOWN, UNSCORED = "known", "unknown", "unscored"

COLUMNS = (
    "path",
    "verdict",
    "class",
    "probability",
    "confidence",
    "uncertainty",
    "ood_score",
    "p_value",
    "epistemic",
    "nearest",
    "reason",
)
"""Columns of a file of verdicts, in their order."""


@dataclass(frozen=True)
class Verdict:
    """Verdict on one image; a number is None if it was not computed.

    Attributes:
        path: Path of the image as it was given, "" for an image of an array.
        verdict: "known", "unknown", or "unscored" if the image could not be read.
        label: Name of the most probable class, the column ``class``.
        probability: Probability of this class, in [0, 1]: the mean over the masks.
        confidence: Probability that a known image with this ``probability`` has this class, in
            [0, 1], estimated on the calibration images.
        uncertainty: Normalised entropy of the class distribution, in [0, 1].
        ood_score: OOD score, in [0, 1), larger = more out of distribution.
        p_value: Conformal p-value, in (0, 1]; the verdict is "unknown" if it is at most alpha.
        epistemic: Mutual information of class and mask, in [0, 1]: disagreement of the masks.
        nearest: Training image with the most similar latent code.
        reason: Why the image could not be read, in one line; "" otherwise.
        parts: p-value of each component of the OOD score, in (0, 1], by name.
        statistic: T of the OOD score (`attractor_ae.conformal`), which orders images as the OOD
            score does before it is rounded.
    """

    path: str
    verdict: str
    label: str = ""
    probability: float | None = None
    confidence: float | None = None
    uncertainty: float | None = None
    ood_score: float | None = None
    p_value: float | None = None
    epistemic: float | None = None
    nearest: str = ""
    reason: str = ""
    parts: Mapping[str, float] = field(default_factory=dict)
    statistic: float | None = field(default=None, compare=False, repr=False)

    def row(self, parts: bool = False) -> dict[str, Any]:
        """Return the values of ``COLUMNS``, and with ``parts`` those of the components."""
        values = {"class": self.label, **vars(self)}
        row = {name: values[name] for name in COLUMNS}
        return row | ({part_column(n): p for n, p in self.parts.items()} if parts else {})


def part_column(component: str) -> str:
    """Return the column with the p-values of a component of the OOD score."""
    return f"p_{component}"
