"""Scores of D_in and D_outs, and the metrics computed from them."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from numpy.typing import ArrayLike

from attractor_ae._detector import Detector
from attractor_ae._errors import AttractorError, check_known, unknown_name
from attractor_ae._files import finite, read_tensors, write_json, write_tensors
from attractor_ae._reporter import SILENT, Reporter
from attractor_ae.core.scores import OOD_SCORE, normalised_entropy
from attractor_ae.data import ImageSet
from attractor_ae.metrics import (
    DetectionMetrics,
    MisclassificationMetrics,
    Thresholds,
    WassersteinSums,
    are_bounded,
    detection_metrics,
    misclassification_metrics,
    wasserstein_reference,
    wasserstein_sums,
)

Role = Literal["in", "covariate_shift", "out"]

SCORES_FILE = "scores.safetensors"
METRICS_FILE = "metrics.json"


@dataclass(frozen=True, eq=False)
class DatasetScores:
    """The output of a detector for one data set.

    Attributes:
        role: ``"in"``: D_in, ``"out"``: a D_out, or ``"covariate_shift"``: the known classes under
            other conditions.
        labels: Index of the true class; -1 without a label, -2 for a class that is not known.
        probabilities: p_r of every recursion (PROTOCOL section 1); if unknown, with 0 classes.
        scores: Values at every recursion, float64, shape (recursions, n), by name. The entropy
            is computed from the probabilities.

    Raises:
        AttractorError: If shapes differ, probabilities are not distributions, or a score is not
            finite.
    """

    name: str
    split: str
    role: Role
    labels: Int64[np.ndarray, " n"]
    probabilities: Float32[np.ndarray, "recursions n classes"]
    scores: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        where = f"data set {self.name!r} ({self.split})"
        check_known(f"role of {where}:", self.role, get_args(Role))
        p = self.probabilities
        if self.labels.shape != p.shape[1:2]:
            raise AttractorError(
                f"{where}: labels of shape {self.labels.shape} do not fit probabilities of shape "
                f"{p.shape}; give (n,) and (recursions, n, classes)"
            )
        if p.shape[-1] and not ((p >= 0).all() and (np.abs(p.sum(-1) - 1) <= 1e-4).all()):
            raise AttractorError(f"{where}: probabilities must be at least 0 and sum to 1")
        for name, values in self.scores.items():
            if values.shape != p.shape[:2] or not np.isfinite(values).all():
                raise AttractorError(
                    f"{where}: score {name!r} must be finite, of shape {p.shape[:2]}, "
                    f"got {values.shape}"
                )

    def score(self, recursion: int, name: str = "entropy") -> Float64[np.ndarray, " n"]:
        """Return a score of each image; larger = more out of distribution.

        "entropy" is the uncertainty u_r, the normalised entropy of p_r, in [0, 1].

        Raises:
            AttractorError: If the set does not have this score.
        """
        if name == "entropy" and self.probabilities.shape[-1]:
            return normalised_entropy(torch.from_numpy(self.probabilities[recursion])).numpy()
        if name not in self.scores:
            raise unknown_name("score", name, self.score_names)
        return self.scores[name][recursion]

    @property
    def score_names(self) -> tuple[str, ...]:
        """Names of the scores; the entropy first, if there are probabilities."""
        first = ("entropy",) if self.probabilities.shape[-1] else ()
        return tuple(dict.fromkeys((*first, *self.scores)))

    @property
    def labelled(self) -> "DatasetScores":
        """The scores of the images that have a label."""
        rows = self.labels != -1
        if rows.all():
            return self
        scores = {name: values[:, rows] for name, values in self.scores.items()}
        return replace(
            self, labels=self.labels[rows], probabilities=self.probabilities[:, rows], scores=scores
        )

    def predicted(self, recursion: int) -> Int64[np.ndarray, " n"]:
        """Return the index of the most probable class of each image; -1 without classes."""
        p = self.probabilities[recursion]
        return p.argmax(-1) if p.shape[-1] else np.full(len(p), -1, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class EvaluationResult:
    """The scores of one detector on D_in, D_outs and sets under covariate shift.

    ``classes`` are the names of the known classes, ``recursion`` and ``score`` the reported ones;
    ``provenance`` contains versions, settings, ... as JSON values.
    """

    method: str
    classes: tuple[str, ...]
    recursion: int
    in_scores: DatasetScores
    covariate_shift_scores: tuple[DatasetScores, ...] = ()
    out_scores: tuple[DatasetScores, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)
    score: str = "entropy"
    _computed: dict[tuple[object, ...], Any] = field(default_factory=dict, repr=False)

    @classmethod
    def from_scores(
        cls,
        method: str,
        in_dataset: ImageSet,
        in_scores: ArrayLike,
        out_scores: Sequence[tuple[ImageSet, ArrayLike]],
        *,
        probabilities: ArrayLike | None = None,
        score: str = "ood_score",
    ) -> "EvaluationResult":
        """Return the result of any detector, for saving and for tables (`compare_runs`).

        Args:
            method, score: Names of the detector and of its score.
            in_dataset, in_scores: Test images of the known classes, and their scores, shape (n,);
                larger = more out of distribution.
            out_scores: Images and scores of each D_out.
            probabilities: Class probabilities on D_in, shape (n, classes), for the accuracy.

        Raises:
            AttractorError: As for `DatasetScores`.
        """

        def scored(images: ImageSet, role: Role, values: ArrayLike, p: ArrayLike) -> DatasetScores:
            labels = images.labels if role == "in" else np.full(len(images), -1, dtype=np.int64)
            found = np.asarray(values, dtype=np.float64)[None]
            p = np.asarray(p, dtype=np.float32)[None]
            return DatasetScores(images.name, images.split, role, labels, p, {score: found})

        p = np.empty((len(in_dataset), 0)) if probabilities is None else probabilities
        return cls(
            method=method,
            classes=in_dataset.classes,
            recursion=0,
            in_scores=scored(in_dataset, "in", in_scores, p),
            out_scores=tuple(
                scored(images, "out", values, np.empty((len(images), 0)))
                for images, values in out_scores
            ),
            score=score,
        )

    @property
    def recursions(self) -> int:
        """Number of recursions that were evaluated."""
        return len(self.in_scores.probabilities)

    @property
    def sets(self) -> tuple[DatasetScores, ...]:
        """The scores of all data sets."""
        return (self.in_scores, *self.covariate_shift_scores, *self.out_scores)

    @property
    def score_names(self) -> tuple[str, ...]:
        """The scores that every set has."""
        names = self.in_scores.score_names
        return tuple(n for n in names if all(n in scores.score_names for scores in self.sets))

    def rates(
        self,
        dataset: str,
        score: str | None = None,
        recursion: int | None = None,
        grid: Thresholds = "exact",
    ) -> DetectionMetrics:
        """Return the detection metrics of D_in against another set (PROTOCOL section 8).

        The defaults are the reported score and recursion. The result is cached.

        Raises:
            AttractorError: If the set, the score or the grid is unknown, or the score does not fit
                the grid.
        """
        name, r = self._reported(score, recursion)
        others = {s.name: s for s in (*self.covariate_shift_scores, *self.out_scores)}
        check_known("data set", dataset, others)
        key = (dataset, name, r, grid)
        if key not in self._computed:
            known, other = (s.score(r, name) for s in (self.in_scores, others[dataset]))
            try:
                self._computed[key] = detection_metrics(known, other, grid=grid)
            except AttractorError as error:
                raise AttractorError(f"{name} of {dataset}: {error}") from None
        return self._computed[key]

    def misclassification(
        self,
        dataset: str | None = None,
        score: str | None = None,
        recursion: int | None = None,
        grid: Thresholds = "exact",
    ) -> MisclassificationMetrics:
        """Return the metrics of a score in [0, 1] as a predictor of wrong predictions on a set.

        The set is D_in by default, or one under covariate shift; images without a label do not
        count. The default score is `error_score`. The result is cached.
        """
        name, r = self._reported(score or self.error_score, recursion)
        scores = self.known_scores(dataset)
        key = ("misclassification", scores.name, name, r, grid)
        if key not in self._computed:
            correct = scores.predicted(r) == scores.labels
            self._computed[key] = misclassification_metrics(
                scores.score(r, name), correct, grid=grid
            )
        return self._computed[key]

    @property
    def error_score(self) -> str:
        """The score that predicts errors: the reported one, but the entropy for the OOD score.

        The OOD score tells whether an image is unknown, which is another question.
        """
        entropy = self.score == OOD_SCORE and self.in_scores.probabilities.shape[-1]
        return "entropy" if entropy else self.score

    def wasserstein(
        self, reference: str, score: str | None = None, recursion: int | None = None
    ) -> WassersteinSums:
        """Return the sums of Wasserstein distances between the scores of D_in and the D_outs.

        ``reference`` and errors as for `wasserstein_sums`.
        """
        name, r = self._reported(score, recursion)
        outs = {scores.name: scores.score(r, name) for scores in self.out_scores}
        return wasserstein_sums(self.in_scores.score(r, name), outs, reference=reference)

    def accuracy(self, dataset: str | None = None, recursion: int | None = None) -> float:
        """Return the accuracy on the labelled images of D_in, or of a set under covariate shift.

        It is NaN without classes, or if no image has a label.
        """
        scores = self.known_scores(dataset)
        if not scores.probabilities.shape[-1] or not len(scores.labels):
            return math.nan
        predicted = scores.predicted(self._reported(None, recursion)[1])
        return float(np.mean(predicted == scores.labels))

    def known_scores(self, dataset: str | None = None) -> DatasetScores:
        """Return the scores of the labelled images of D_in, or of a set under covariate shift.

        Raises:
            AttractorError: If there is no such set.
        """
        sets = {s.name: s for s in (self.in_scores, *self.covariate_shift_scores)}
        if dataset is not None and dataset not in sets:
            raise unknown_name("data set of known classes", dataset, sets)
        return (self.in_scores if dataset is None else sets[dataset]).labelled

    def _reported(self, score: str | None, recursion: int | None) -> tuple[str, int]:
        return (
            self.score if score is None else score,
            self.recursion if recursion is None else recursion,
        )

    def metrics(self, recursion: int | None = None, grid: Thresholds = "exact") -> dict[str, Any]:
        """Return every rate of PROTOCOL section 8 at one recursion, as nested dictionaries.

        Keys: ``labelled``, the number of labelled images of D_in; ``accuracy`` and
        ``misclassification`` (for scores in [0, 1]) on these;
        ``covariate_shift`` and ``out``, by data set; ``wasserstein``, the sums of distances. Rates
        are in [0, 1].
        """
        name, r = self._reported(None, recursion)
        errors, judged = {}, self.error_score
        known = self.known_scores()
        u = known.score(r, judged)
        if known.probabilities.shape[-1] and len(u) and are_bounded(u):
            found = self.misclassification(None, judged, r, grid)
            errors = {"score": judged, **asdict(found.detection), **asdict(found.selective)}
            errors["areas"] = found.areas

        def table(scores: DatasetScores) -> dict[str, Any]:
            rates = asdict(self.rates(scores.name, name, r, grid))
            return {"mean_score": float(scores.score(r, name).mean()), **rates}

        wasserstein = {}
        if self.out_scores:
            reference = wasserstein_reference([scores.name for scores in self.out_scores])
            sums = self.wasserstein(reference, name, r)
            wasserstein = {"reference": reference, **asdict(sums)}
        return {
            "recursion": r,
            "score": name,
            "accuracy": self.accuracy(None, r),
            "labelled": len(known.labels),
            "mean_score": float(self.in_scores.score(r, name).mean()),
            "misclassification": errors,
            "covariate_shift": {
                scores.name: {"accuracy": self.accuracy(scores.name, r), **table(scores)}
                for scores in self.covariate_shift_scores
            },
            "out": {scores.name: table(scores) for scores in self.out_scores},
            "wasserstein": wasserstein,
        }

    def save(self, folder: str | Path) -> Path:
        """Write scores as arrays and metrics of every recursion as JSON; return the folder.

        Raises:
            AttractorError: If the folder cannot be written to.
        """
        folder = Path(folder)
        tensors = {}
        for i, scores in enumerate(self.sets):
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
            "datasets": json.dumps([[s.name, s.split, s.role] for s in self.sets]),
            "provenance": json.dumps(self.provenance),
        }
        write_tensors(folder / SCORES_FILE, tensors, metadata)
        every = range(self.recursions)
        bounded = are_bounded(*(s.score(r, self.score) for s in self.sets for r in every))
        metrics = {
            "method": self.method,
            "in_dataset": self.in_scores.name,
            "reported_recursion": self.recursion,
            "reported_score": self.score,
            "grid": "exact",
            "recursions": [finite(self.metrics(r)) for r in every],
            "paper_grid": [finite(self.metrics(r, "paper")) for r in every if bounded],
            "scores": {
                name: [
                    {s.name: asdict(self.rates(s.name, name, r)) for s in self.out_scores}
                    for r in every
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

        Raises:
            AttractorError: If the file is missing or damaged.
        """
        path = Path(folder) / SCORES_FILE
        tensors, metadata = read_tensors(path)
        try:
            names = json.loads(metadata["score_names"])
            sets = [
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
                in_scores=sets[0],
                covariate_shift_scores=tuple(s for s in sets if s.role == "covariate_shift"),
                out_scores=tuple(s for s in sets if s.role == "out"),
                provenance=json.loads(metadata["provenance"]),
                score=metadata["score"],
            )
        except (KeyError, ValueError, IndexError, TypeError):
            raise AttractorError(f"{path}: is not an evaluation; evaluate the run again") from None


def evaluate(
    detector: Detector,
    in_dataset: ImageSet,
    out_datasets: Sequence[ImageSet],
    covariate_shift_datasets: Sequence[ImageSet] = (),
    *,
    scores: Sequence[str] = (),
    provenance: dict[str, Any] | None = None,
    reporter: Reporter = SILENT,
) -> EvaluationResult:
    """Return the scores of a detector on each data set.

    D_outs show unknown classes, and their labels are not used; the classes of sets under covariate
    shift must be those of ``in_dataset``. ``scores`` are computed in addition to the detector's
    score; ``provenance`` (versions, settings, ...) is stored with the result.

    Raises:
        AttractorError: If a set is empty, a name occurs twice, a set under covariate shift has an
            unknown class, D_in has fewer classes than were fitted, or a score is unknown.
    """
    largest = int(detector.classes_.max())
    if largest >= len(in_dataset.classes):
        raise AttractorError(
            f"data set {in_dataset.name!r} has {len(in_dataset.classes)} classes, but the "
            f"detector knows the label {largest}; evaluate on the classes that it was fitted on"
        )
    check_sets((in_dataset, *covariate_shift_datasets, *out_datasets))
    classes = tuple(in_dataset.classes[label] for label in detector.classes_.tolist())
    names = list(dict.fromkeys((detector.score, *scores)))

    def score(images: ImageSet, role: Role) -> DatasetScores:
        scored = detector.predict_scores(
            images.inputs, names, reporter=reporter, task=f"scoring {images.name}"
        )
        return DatasetScores(
            images.name,
            images.split,
            role,
            _known_labels(images, role, classes, in_dataset.name),
            scored.probabilities.numpy(),
            {name: values.numpy() for name, values in scored.scores.items()},
        )

    return EvaluationResult(
        method=detector.method,
        classes=classes,
        recursion=detector.recursion,
        in_scores=score(in_dataset, "in"),
        covariate_shift_scores=tuple(score(s, "covariate_shift") for s in covariate_shift_datasets),
        out_scores=tuple(score(images, "out") for images in out_datasets),
        provenance=provenance or {},
        score=detector.score,
    )


def check_sets(sets: Sequence[ImageSet]) -> None:
    """Raise an AttractorError if a set is empty, or a name occurs twice."""
    names = [images.name for images in sets]
    for images in sets:
        if not len(images):
            raise AttractorError(f"data set {images.name!r} ({images.split}) has no images")
        if names.count(images.name) > 1:
            raise AttractorError(f"data set {images.name!r} is named twice; name each set once")


def _known_labels(
    images: ImageSet, role: Role, known: Sequence[str], in_dataset: str
) -> np.ndarray:
    """Return each image's class as an index into the known classes; see `DatasetScores`."""
    if role == "out":
        return np.full(len(images), -1, dtype=np.int64)
    strange = [name for name in images.classes if name not in known]
    if role == "covariate_shift" and strange:
        raise AttractorError(
            f"data set {images.name!r} has the class {strange[0]!r}, which {in_dataset!r} "
            "does not have; list this data set under out_datasets instead"
        )
    index = np.array([*(known.index(c) if c in known else -2 for c in images.classes), -1])
    return index[images.labels].astype(np.int64)
