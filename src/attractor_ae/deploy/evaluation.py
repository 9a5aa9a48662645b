"""Effect of a model's threshold on known and unknown images."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attractor_ae._errors import AttractorError
from attractor_ae._reporter import SILENT, Reporter, percent
from attractor_ae.conformal import usual_rejections
from attractor_ae.deploy.model import Model
from attractor_ae.deploy.verdicts import UNKNOWN, UNSCORED, Verdict
from attractor_ae.metrics import detection_metrics, exact_interval


@dataclass(frozen=True)
class Rate:
    """A measured fraction, with its exact 95 % confidence interval (Clopper and Pearson, 1934)."""

    count: int
    of: int

    def __str__(self) -> str:
        if not self.of:
            return "none"
        shares = (self.count / self.of, *exact_interval(self.count, self.of))
        share, low, high = map(percent, shares)
        return f"{self.count} of {self.of}, {share} (95 % interval {low} to {high})"


@dataclass(frozen=True)
class ModelEvaluation:
    """Effect of a threshold.

    Attributes:
        alpha: The threshold.
        false_alarms: Known images with the verdict "unknown".
        per_class: The same for the known images of each class, if the classes are given.
        right: Known images whose class is predicted, if the classes are given.
        detected: Unknown images with the verdict "unknown".
        auroc: Of the OOD score, known against unknown images; None without unknown ones.
        unscored: Number of images that could not be read.
        usual: Interval of the number of false alarms, in 90 % of calibrations and sets of images.
    """

    alpha: float
    false_alarms: Rate
    per_class: dict[str, Rate]
    right: Rate | None
    detected: Rate | None
    auroc: float | None
    unscored: int
    usual: tuple[int, int] | None = None

    def lines(self) -> list[str]:
        """Return the result as lines of text."""
        lines = [f"false alarms at alpha {self.alpha:g}: {self.false_alarms}"]
        if self.usual:
            low, high = self.usual
            lines.append(f"  usual with this calibration: {low} to {high} (90 %)")
        lines += [f"  {name}: {rate}" for name, rate in self.per_class.items()]
        if self.right is not None:
            lines.append(f"class is right: {self.right}")
        if self.detected is not None:
            lines.append(f"unknown images detected: {self.detected}")
        if self.auroc is not None:
            lines.append(f"AUROC of the OOD score: {percent(self.auroc)}")
        if self.unscored:
            lines.append(f"images that could not be read: {self.unscored}")
        return lines

    def values(self) -> dict[str, Any]:
        """Return the JSON values that a model file has."""
        rates = {
            "false alarms": self.false_alarms,
            "class is right": self.right,
            "unknown images detected": self.detected,
        }
        values = {name: rate and [rate.count, rate.of] for name, rate in rates.items()}
        return values | {"per_class": {c: [r.count, r.of] for c, r in self.per_class.items()}}


def evaluate_model(
    model: Model,
    known: Sequence[str | Path] | str | Path,
    unknown: Sequence[str | Path] | str | Path | None = None,
    *,
    alpha: float | None = None,
    reporter: Reporter = SILENT,
) -> ModelEvaluation:
    """Measure the effect of the threshold on your own known and unknown images.

    Args:
        model: Its threshold is ``alpha``, if this is given.
        known: Sources of known images, as for `Model.score_files`. If the folder of an image has
            the name of a class, this is its class.
        unknown: Sources of unknown images.

    Raises:
        AttractorError: If there are no images, or none can be read.
    """
    alpha = model.checked_alpha(alpha)
    shared = {"alpha": alpha, "reporter": reporter}
    of_known = list(model.score_files(known, **shared))
    of_unknown = [] if unknown is None else list(model.score_files(unknown, **shared))
    labels = [os.path.basename(os.path.dirname(v.path)) for v in of_known]  # noqa: PTH119, PTH120
    kinds = model.classes if len(model.classes) > 1 else ()  # one class is always right
    labels = [label if label in kinds else "" for label in labels]
    found = evaluate_verdicts(alpha, of_known, labels, of_unknown)
    groups = model.groups(alpha, model.per_class)
    named = {model.classes[label]: i for i, label in enumerate(model.detector.classes_.tolist())}
    rows = torch.tensor([named[v.label] for v in of_known if v.verdict != UNSCORED])
    counts = groups.of_class[rows].bincount(minlength=len(groups.sizes))
    sizes = zip(groups.sizes.tolist(), counts.tolist(), strict=True)
    return replace(found, usual=usual_rejections(alpha, sizes))


def evaluate_verdicts(
    alpha: float, known: Sequence[Verdict], labels: Sequence[str], unknown: Sequence[Verdict] = ()
) -> ModelEvaluation:
    """Return the effect of a threshold; ``labels`` are the classes of known images, "" for none."""
    pairs = [(v, name) for v, name in zip(known, labels, strict=True) if v.verdict != UNSCORED]
    out = [verdict for verdict in unknown if verdict.verdict != UNSCORED]
    if not pairs or (unknown and not out):
        raise AttractorError("none of the known or of the unknown images can be read")
    labelled = [pair for pair in pairs if pair[1]]
    names = sorted({name for _, name in labelled})
    scores = [np.array([v.statistic for v in some]) for some in ([v for v, _ in pairs], out)]
    return ModelEvaluation(
        alpha,
        _rejected(v for v, _ in pairs),
        {name: _rejected(v for v, label in labelled if label == name) for name in names},
        Rate(sum(v.label == name for v, name in labelled), len(labelled)) if labelled else None,
        _rejected(out) if out else None,
        detection_metrics(*scores).auroc if out else None,
        len(known) + len(unknown) - len(pairs) - len(out),
    )


def _rejected(verdicts: Iterable[Verdict]) -> Rate:
    flags = [verdict.verdict == UNKNOWN for verdict in verdicts]
    return Rate(sum(flags), len(flags))
