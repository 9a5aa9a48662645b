"""The history of a training as CSV, one row per epoch."""

import csv
import io
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from attractor_ae._errors import AttractorError
from attractor_ae._reporter import percent


@dataclass(frozen=True)
class Epoch:
    """One row of the history: means over the epoch's images, NaN for parts that do not exist.

    The accuracy is that of a classifier on augmented images with dropout; the learning rate is that
    of the last step.
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

    @classmethod
    def of(
        cls, epoch: int, sums: dict[str, float], count: int, rate: float, seconds: float
    ) -> "Epoch":
        """Return the row of an epoch from sums over ``count`` images."""
        parts = ("loss", "reconstruction", "metric", "cross_entropy", "accuracy")
        means = {name: sums.get(name, math.nan) / count for name in parts}
        return cls(
            epoch, **means, learning_rate=rate, seconds=seconds, images_per_second=count / seconds
        )

    def summary(self) -> str:
        """Return the loss, the accuracy of a classifier, and the speed in one line."""
        accuracy = "" if math.isnan(self.accuracy) else f"accuracy {percent(self.accuracy)}, "
        return f"loss {self.loss:.6g}, {accuracy}{self.images_per_second:.0f} images per second"


def history_text(history: list[Epoch]) -> str:
    """Return the history as CSV with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Epoch)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in history)
    return text.getvalue()


def read_history(path: Path, epochs: int) -> list[Epoch]:
    """Read the rows of the first ``epochs`` epochs, up to the checkpoint."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [
                Epoch(int(row.pop("epoch")), **{k: float(v) for k, v in row.items()})
                for row in csv.DictReader(file)
            ][:epochs]
        if [row.epoch for row in rows] != list(range(1, epochs + 1)):
            raise ValueError(f"it must have a row per epoch, 1 to {epochs}")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise AttractorError(
            f"{path}: is damaged ({error}); remove the run folder and train again"
        ) from None
    return rows
