"""AUROC and accuracy of a detector by number of trials, from one pass of sampling."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64

from attractor_ae._detector import Detector
from attractor_ae._errors import AttractorError
from attractor_ae._files import finite, write_json
from attractor_ae.core.scores import normalised_entropy, prediction
from attractor_ae.data import ImageSet
from attractor_ae.experiment.result import check_sets
from attractor_ae.metrics import detection_metrics

TRIALS_FILE = "trials.json"
"""Name of the file with the curve of an evaluated run."""


@dataclass(frozen=True, eq=False)
class TrialCurve:
    """AUROC and accuracy of the first 1, 2, 3, ... trials (members), at the reported recursion.

    At index t - 1, for the mean distribution of the first t trials: the AUROC of its entropy
    against each D_out, in [0, 1], and its accuracy on the labelled images of D_in; NaN if there
    are none.
    """

    method: str
    in_dataset: str
    out_datasets: tuple[str, ...]
    recursion: int
    auroc: Float64[np.ndarray, "outs trials"]
    accuracy: Float64[np.ndarray, " trials"]

    def save(self, path: Path) -> None:
        """Write the curve to a JSON file, atomically."""
        arrays = {"auroc": self.auroc.tolist(), "accuracy": self.accuracy.tolist()}
        write_json(path, finite({**vars(self), **arrays}))

    @classmethod
    def load(cls, path: Path) -> "TrialCurve":
        """Read a curve that `save` wrote."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            values |= {name: np.array(values[name], float) for name in ("auroc", "accuracy")}
            return cls(**{**values, "out_datasets": tuple(values["out_datasets"])})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise AttractorError(f"{path}: is not a trial curve ({error}); remove it") from None


def trial_curve(
    detector: Detector, in_dataset: ImageSet, out_datasets: Sequence[ImageSet]
) -> TrialCurve:
    """Score the first 1, 2, 3, ... trials of a detector; each set is sampled once.

    The score is the entropy of the mean (PROTOCOL section 1), whatever score the detector reports.

    Raises:
        AttractorError: If a set is empty, a name occurs twice, there is no D_out, or the detector
            is not fitted.
    """
    if not out_datasets:
        raise AttractorError("out_datasets is empty; give at least one D_out")
    check_sets((in_dataset, *out_datasets))
    known = _means(detector, in_dataset)
    u = normalised_entropy(known).numpy()
    labels = detector.classes_.numpy()[prediction(known).numpy()]  # (trials, n)
    some = in_dataset.labels >= 0
    auroc = [
        [detection_metrics(*pair).auroc for pair in zip(u, of_out, strict=True)]
        for of_out in (normalised_entropy(_means(detector, s)).numpy() for s in out_datasets)
    ]
    return TrialCurve(
        detector.method,
        in_dataset.name,
        tuple(images.name for images in out_datasets),
        detector.recursion,
        np.array(auroc),
        (labels == in_dataset.labels)[:, some].mean(-1) if some.any() else np.full(len(u), np.nan),
    )


def _means(detector: Detector, images: ImageSet) -> torch.Tensor:
    """Return the mean distribution of the first 1, 2, ... trials: (trials, n, classes)."""
    p = detector.sample_proba(images.inputs).double()
    return p.cumsum(0) / torch.arange(1, len(p) + 1)[:, None, None]
