"""The history of a training: a row an epoch, as CSV."""

import csv
import io
import math
from dataclasses import dataclass, fields
from pathlib import Path

from attractor_ae._errors import AttractorError


@dataclass(frozen=True)
class EpochReport:
    """One row of the history.

    Attributes
    ----------
    epoch
        Number of the epoch, from 1 on.
    loss, reconstruction, metric, cross_entropy
        Mean over the epoch's images of the loss and its parts; NaN where the network has no such
        part.
    accuracy
        Share of the epoch's images that a classifier got right as it met them, that is augmented
        and under dropout, in [0, 1]; NaN for an autoencoder.
    learning_rate
        Learning rate of the last step.
    seconds
        Time that the epoch took.
    images_per_second
        Images trained on a second.
    """

    epoch: int
    loss: float
    reconstruction: float
    metric: float
    cross_entropy: float
    accuracy: float
    learning_rate: float
    seconds: float
    images_per_second: float


def epoch_report(
    epoch: int, sums: dict[str, float], count: int, rate: float, seconds: float
) -> EpochReport:
    """Return the row of an epoch from the sums of losses and accuracy over ``count`` images."""
    means = {name: total / count for name, total in sums.items()}
    parts = ("reconstruction", "metric", "cross_entropy", "accuracy")
    return EpochReport(
        epoch=epoch,
        loss=means["loss"],
        **{name: means.get(name, math.nan) for name in parts},
        learning_rate=rate,
        seconds=seconds,
        images_per_second=count / seconds,
    )


def history_text(history: list[EpochReport]) -> str:
    """Return the history as CSV, with a heading."""
    names = [field.name for field in fields(EpochReport)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([[getattr(report, name) for name in names] for report in history])
    return text.getvalue()


def read_history(path: Path, epochs: int) -> list[EpochReport]:
    """Read the first rows, one for each epoch that the checkpoint has behind it."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [
                EpochReport(int(row.pop("epoch")), **{k: float(v) for k, v in row.items()})
                for row in csv.DictReader(file)
            ]
        if [row.epoch for row in rows[:epochs]] != list(range(1, epochs + 1)):
            raise ValueError(f"it must have a row for each of the epochs 1 to {epochs}")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise AttractorError(
            f"{path}: is damaged ({error}); remove the run folder and train again"
        ) from None
    return rows[:epochs]
