"""D_in against D_outs: each data set is scored once, and the rest follows from the scores."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64

from attractor_ae._detector import Detector
from attractor_ae._errors import AttractorError, unknown_name
from attractor_ae._files import read_tensors, write_json, write_tensors
from attractor_ae._reporter import Reporter
from attractor_ae.data import ImageSet
from attractor_ae.metrics import (
    DetectionMetrics,
    Grid,
    accuracy,
    detection_metrics,
    entropy,
    wasserstein_sums,
)
from attractor_ae.misclassification import misclassification_metrics

Role = Literal["in", "shift", "out"]

SCORES_FILE = "scores.safetensors"
METRICS_FILE = "metrics.json"


@dataclass(frozen=True, eq=False)
class DatasetScores:
    """What an detector says of one data set.

    Attributes
    ----------
    name, split
        The data set.
    role
        ``"in"``: D_in, known classes; ``"shift"``: the known classes in another guise; ``"out"``: a
        D_out, unknown.
    labels
        Index of the true class; -1 where the class is none of the known.
    probabilities
        p_r of every recursion (PROTOCOL section 1).
    scores
        Name of a score (`attractor_ae.core.scores`) -> its values at every recursion, float64, of shape
        (recursions, n). The entropy need not be among them: it follows from the probabilities.
    """

    name: str
    split: str
    role: Role
    labels: Int64[np.ndarray, " n"]
    probabilities: Float32[np.ndarray, "recursions n classes"]
    scores: dict[str, np.ndarray] = field(default_factory=dict)

    def uncertainty(self, recursion: int, score: str = "entropy") -> Float64[np.ndarray, " n"]:
        """Return a score of each image; larger is more unknown.

        Parameters
        ----------
        recursion
            At which recursion.
        score
            By default u_r: the normalised entropy of each image's distribution, in [0, 1].

        Raises
        ------
        AttractorError
            If the set was not scored so.
        """
        if score == "entropy":
            return entropy(self.probabilities[recursion])
        if score not in self.scores:
            raise unknown_name("score", score, tuple(dict.fromkeys(("entropy", *self.scores))))
        return self.scores[score][recursion]

    def predicted(self, recursion: int) -> Int64[np.ndarray, " n"]:
        """Return the index of each image's most probable class."""
        return self.probabilities[recursion].argmax(-1)


@dataclass(frozen=True, eq=False)
class EvaluationResult:
    """The scores of one detector on D_in, shifted sets and D_outs.

    Attributes
    ----------
    method
        Name of the detector's method.
    classes
        Names of the known classes.
    recursion
        The recursion that is reported.
    in_scores
        Scores of D_in.
    shift_scores, out_scores
        Scores of the others.
    provenance
        What the result was made with, e.g. versions and settings; values that JSON can hold.
    score
        The score that is reported.
    """

    method: str
    classes: tuple[str, ...]
    recursion: int
    in_scores: DatasetScores
    shift_scores: tuple[DatasetScores, ...] = ()
    out_scores: tuple[DatasetScores, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)
    score: str = "entropy"

    @property
    def recursions(self) -> int:
        """Number of recursions that were evaluated."""
        return len(self.in_scores.probabilities)

    @property
    def score_names(self) -> tuple[str, ...]:
        """The scores that the sets were given; the entropy is always among them."""
        return tuple(dict.fromkeys(("entropy", *self.in_scores.scores)))

    def metrics(
        self,
        recursion: int | None = None,
        *,
        score: str | None = None,
        grid: Grid = "exact",
    ) -> dict[str, Any]:
        """Return every score of PROTOCOL section 8 at one recursion.

        Parameters
        ----------
        recursion
            The reported one by default.
        score
            The reported one by default; it must lie in [0, 1]. `detection` takes every score.
        grid
            ``"exact"``, or ``"paper"``: the thresholds of the released code.

        Returns
        -------
        dict
            ``accuracy`` and ``misclassification`` on D_in; ``shift`` and ``out``, a table a data
            set; ``wasserstein``, the sums of distances. Rates lie in [0, 1].
        """
        r = self.recursion if recursion is None else recursion
        name = self.score if score is None else score
        known = self.in_scores
        u = known.uncertainty(r, name)
        correct = known.predicted(r) == known.labels
        errors = misclassification_metrics(u, correct, grid=grid)
        outs = {scores.name: scores.uncertainty(r, name) for scores in self.out_scores}
        return {
            "recursion": r,
            "score": name,
            "accuracy": accuracy(known.predicted(r), known.labels),
            "mean_uncertainty": float(u.mean()),
            "misclassification": {**asdict(errors.detection), "areas": asdict(errors.areas)},
            "shift": {
                scores.name: {
                    "accuracy": accuracy(scores.predicted(r), scores.labels),
                    "mean_uncertainty": float(scores.uncertainty(r, name).mean()),
                    **asdict(detection_metrics(u, scores.uncertainty(r, name), grid=grid)),
                }
                for scores in self.shift_scores
            },
            "out": {
                out_name: {
                    "mean_uncertainty": float(out.mean()),
                    **asdict(detection_metrics(u, out, grid=grid)),
                }
                for out_name, out in outs.items()
            },
            "wasserstein": asdict(wasserstein_sums(u, outs)) if outs else {},
        }

    def detection(self, score: str, recursion: int | None = None) -> dict[str, DetectionMetrics]:
        """Return how well one score tells D_in from each D_out, on the exact grid.

        Parameters
        ----------
        score
            One of ``score_names``.
        recursion
            The reported one by default.
        """
        r = self.recursion if recursion is None else recursion
        u = self.in_scores.uncertainty(r, score)
        return {
            scores.name: detection_metrics(u, scores.uncertainty(r, score))
            for scores in self.out_scores
        }

    def save(self, folder: str | Path, *, grid: Grid = "exact") -> Path:
        """Write the scores as arrays and the metrics of every recursion as JSON, atomically.

        Returns
        -------
        Path
            The folder.

        Raises
        ------
        AttractorError
            If the folder cannot be written to.
        """
        folder = Path(folder)
        every = [self.in_scores, *self.shift_scores, *self.out_scores]
        tensors = {}
        for i, scores in enumerate(every):
            tensors[f"{i}.labels"] = torch.from_numpy(scores.labels)
            tensors[f"{i}.probabilities"] = torch.from_numpy(scores.probabilities)
            for name, values in scores.scores.items():
                tensors[f"{i}.scores.{name}"] = torch.from_numpy(values)
        metadata = {
            "method": self.method,
            "classes": json.dumps(self.classes),
            "recursion": str(self.recursion),
            "score": self.score,
            "score_names": json.dumps(list(self.in_scores.scores)),
            "datasets": json.dumps([[s.name, s.split, s.role] for s in every]),
            "provenance": json.dumps(self.provenance),
        }
        write_tensors(folder / SCORES_FILE, tensors, metadata)
        metrics = {
            "method": self.method,
            "in_dataset": self.in_scores.name,
            "reported_recursion": self.recursion,
            "reported_score": self.score,
            "grid": grid,
            "recursions": [
                _without_nan(self.metrics(r, grid=grid)) for r in range(self.recursions)
            ],
            "scores": {
                name: [
                    {out: asdict(found) for out, found in self.detection(name, r).items()}
                    for r in range(self.recursions)
                ]
                for name in self.score_names
            },
            "provenance": self.provenance,
        }
        write_json(folder / METRICS_FILE, metrics)
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> "EvaluationResult":
        """Read a result that `save` wrote.

        Raises
        ------
        AttractorError
            If the file is missing or damaged.
        """
        path = Path(folder) / SCORES_FILE
        tensors, metadata = read_tensors(path)
        try:
            names = json.loads(metadata["score_names"])
            every = [
                DatasetScores(
                    name,
                    split,
                    role,
                    tensors[f"{i}.labels"].numpy(),
                    tensors[f"{i}.probabilities"].numpy(),
                    {name: tensors[f"{i}.scores.{name}"].numpy() for name in names},
                )
                for i, (name, split, role) in enumerate(json.loads(metadata["datasets"]))
            ]
            return cls(
                method=metadata["method"],
                classes=tuple(json.loads(metadata["classes"])),
                recursion=int(metadata["recursion"]),
                in_scores=every[0],
                shift_scores=tuple(s for s in every if s.role == "shift"),
                out_scores=tuple(s for s in every if s.role == "out"),
                provenance=json.loads(metadata["provenance"]),
                score=metadata["score"],
            )
        except (KeyError, ValueError, IndexError, TypeError):
            raise AttractorError(f"{path}: holds no evaluation; evaluate the run again") from None


class _Counting(Reporter):
    def __init__(self, on_progress: Callable[[str, int, int], None]) -> None:
        self._on_progress = on_progress

    def progress(
        self,
        task: str,
        done: int,
        total: int,
        detail: str = "",
        seconds_left: float | None = None,
    ) -> None:
        """Pass it on."""
        self._on_progress(task, done, total)


def evaluate(
    detector: Detector,
    in_dataset: ImageSet,
    out_datasets: Sequence[ImageSet],
    covariate_shift_datasets: Sequence[ImageSet] = (),
    *,
    scores: Sequence[str] = (),
    provenance: dict[str, Any] | None = None,
    on_progress: Callable[[str, int, int], None] = lambda _name, _done, _all: None,
) -> EvaluationResult:
    """Score each data set once.

    Parameters
    ----------
    detector
        A fitted detector.
    in_dataset
        Held-out images of the known classes.
    out_datasets
        Images of unknown kinds; their labels are not used.
    covariate_shift_datasets
        The known classes in another guise; their classes must be among those of ``in_dataset``.
    scores
        Further scores to give, beside the detector's own.
    provenance
        What the result was made with; kept with it.
    on_progress
        Called with the name of the data set and its images that are done and of all.

    Raises
    ------
    AttractorError
        If a set is empty, a name comes twice, a shifted set has an unknown class, D_in has fewer
        classes than were fitted, or a score is unknown.
    """
    largest = int(detector.classes_.max())
    if largest >= len(in_dataset.classes):
        raise AttractorError(
            f"data set {in_dataset.name!r} has {len(in_dataset.classes)} classes, but the "
            f"detector knows the label {largest}; evaluate on the classes that it was fitted on"
        )
    names = [images.name for images in (in_dataset, *covariate_shift_datasets, *out_datasets)]
    for name in names:
        if names.count(name) > 1:
            raise AttractorError(f"data set {name!r} is named twice; name each set once")

    def score(images: ImageSet, role: Role) -> DatasetScores:
        if not len(images):
            raise AttractorError(f"data set {images.name!r} ({images.split}) has no images")
        scored = detector.predict_scores(
            images.images,
            list(dict.fromkeys((detector.score, *scores))),
            reporter=_Counting(on_progress),
            task=images.name,
        )
        labels = _known_labels(images, role, in_dataset, detector)
        return DatasetScores(
            images.name,
            images.split,
            role,
            labels,
            scored.probabilities.numpy(),
            {name: values.numpy() for name, values in scored.scores.items()},
        )

    return EvaluationResult(
        method=detector.method,
        classes=tuple(in_dataset.classes[label] for label in detector.classes_.tolist()),
        recursion=detector.recursion,
        in_scores=score(in_dataset, "in"),
        shift_scores=tuple(score(images, "shift") for images in covariate_shift_datasets),
        out_scores=tuple(score(images, "out") for images in out_datasets),
        provenance=provenance or {},
        score=detector.score,
    )


def _known_labels(
    images: ImageSet, role: Role, in_dataset: ImageSet, detector: Detector
) -> np.ndarray:
    """Return each image's class as an index into the detector's classes; -1 for an unknown one."""
    if role == "out":
        return np.full(len(images), -1, dtype=np.int64)
    known = [in_dataset.classes[label] for label in detector.classes_.tolist()]
    strange = [name for name in images.classes if name not in known]
    if role == "shift" and strange:
        raise AttractorError(
            f"data set {images.name!r} has the class {strange[0]!r}, which {in_dataset.name!r} "
            "does not have, so it is no shift of it; name it among out_datasets"
        )
    index = np.array([*(known.index(c) if c in known else -1 for c in images.classes), -1])
    return index[images.labels].astype(np.int64)


def _without_nan(values: Any) -> Any:  # noqa: ANN401
    """Return nested values with null for NaN, which JSON does not have."""
    if isinstance(values, dict):
        return {key: _without_nan(value) for key, value in values.items()}
    if isinstance(values, float) and math.isnan(values):
        return None
    return values
