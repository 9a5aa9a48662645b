"""How the scores of an detector grow with its trials: one pass of sampling, every number."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64

from attractor_ae._detector import Detector
from attractor_ae._errors import AttractorError
from attractor_ae._files import read_tensors, write_tensors
from attractor_ae.data import ImageSet
from attractor_ae.metrics import accuracy, detection_metrics, entropy


@dataclass(frozen=True, eq=False)
class TrialCurve:
    """What the first 1, 2, 3, ... trials (members) of an detector would have scored.

    Attributes
    ----------
    method
        Name of the detector's method.
    in_dataset
        Name of D_in.
    out_datasets
        Names of the D_outs.
    recursion
        The recursion that was reported.
    auroc
        Of the entropy of the mean distribution of the first t trials, at index t - 1, for each
        D_out, in [0, 1].
    accuracy
        Of the same distribution on D_in, in [0, 1].
    """

    method: str
    in_dataset: str
    out_datasets: tuple[str, ...]
    recursion: int
    auroc: Float64[np.ndarray, "outs trials"]
    accuracy: Float64[np.ndarray, " trials"]

    def save(self, path: str | Path) -> Path:
        """Write the curve to one safetensors file, atomically, and return its path.

        Raises
        ------
        AttractorError
            If the file cannot be written.
        """
        metadata = {
            "method": self.method,
            "in_dataset": self.in_dataset,
            "out_datasets": json.dumps(self.out_datasets),
            "recursion": str(self.recursion),
        }
        tensors = {
            "auroc": torch.from_numpy(self.auroc),
            "accuracy": torch.from_numpy(self.accuracy),
        }
        write_tensors(Path(path), tensors, metadata)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> "TrialCurve":
        """Read a curve that `save` wrote.

        Raises
        ------
        AttractorError
            If the file is missing, damaged or holds something else.
        """
        tensors, metadata = read_tensors(Path(path))
        try:
            return cls(
                metadata["method"],
                metadata["in_dataset"],
                tuple(json.loads(metadata["out_datasets"])),
                int(metadata["recursion"]),
                tensors["auroc"].numpy(),
                tensors["accuracy"].numpy(),
            )
        except (KeyError, ValueError, TypeError):
            raise AttractorError(f"{path}: holds no trial curve; make it again") from None


def trial_curve(
    detector: Detector, in_dataset: ImageSet, out_datasets: Sequence[ImageSet]
) -> TrialCurve:
    """Score the first 1, 2, 3, ... trials of an detector, at its reported recursion.

    Each set is sampled once. The score is the paper's, the entropy of the mean (PROTOCOL section
    1), whatever score the detector reports.

    Parameters
    ----------
    detector
        A fitted detector.
    in_dataset
        Held-out images of the known classes; an image of another class is never predicted right.
    out_datasets
        Images of unknown kinds; their labels are not used.

    Raises
    ------
    AttractorError
        If a set is empty, a name comes twice, there is no D_out, or nothing was fitted.
    """
    names = [images.name for images in (in_dataset, *out_datasets)]
    if not out_datasets:
        raise AttractorError("out_datasets holds no set; give at least one D_out")
    for images, name in zip((in_dataset, *out_datasets), names, strict=True):
        if not len(images):
            raise AttractorError(f"data set {name!r} ({images.split}) has no images")
        if names.count(name) > 1:
            raise AttractorError(f"data set {name!r} is named twice; name each set once")
    known = _means(detector, in_dataset)
    u = entropy(known)
    labels = detector.classes_.numpy()[known.argmax(-1)]  # (trials, n)
    auroc = [
        [
            detection_metrics(inside, outside).auroc
            for inside, outside in zip(u, entropy(_means(detector, images)), strict=True)
        ]
        for images in out_datasets
    ]
    return TrialCurve(
        detector.method,
        in_dataset.name,
        tuple(names[1:]),
        detector.recursion,
        np.array(auroc),
        np.array([accuracy(row, in_dataset.labels) for row in labels]),
    )


def _means(detector: Detector, images: ImageSet) -> np.ndarray:
    """Return the mean distribution of the first 1, 2, ... trials: (trials, n, classes)."""
    p = detector.sample_proba(images.images).double().numpy()
    return p.cumsum(0) / np.arange(1, len(p) + 1)[:, None, None]
