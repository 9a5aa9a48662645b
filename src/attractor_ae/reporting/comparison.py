"""Methods side by side: detection and accuracy, as mean and deviation over seeds."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from rich.console import Group, RenderableType

from attractor_ae._errors import AttractorError, unknown_name
from attractor_ae._files import write_text
from attractor_ae.experiment.result import DatasetScores, EvaluationResult
from attractor_ae.metrics import DetectionMetrics, Thresholds, check_grid
from attractor_ae.reporting import renderers
from attractor_ae.reporting.grid import Column, ComparedMethod, Grid, Metric, make_grid

Orientation = Literal["in", "out"]

RATES = (("auroc", "AUROC", True), ("aupr", "AUPR", True), ("fpr95", "FPR95", False))

DETECTION_METRICS = tuple(Metric(key, title, "", larger) for key, title, larger in RATES)
"""Metrics of every D_out."""

_AREAS = (
    ("u_sen", "u-sen", True),
    ("u_spec", "u-spec", True),
    ("u_pre", "u-pre", True),
    ("u_acc", "u-acc", True),
    ("p_accurate_certain", "p(a|c)", True),
    ("p_uncertain_inaccurate", "p(u|i)", True),
    ("pavpu", "PAvPU", True),
    ("remaining_error_rate", "rem. err.", False),
    ("remaining_accuracy_rate", "rem. acc.", True),
)
ACCURACY_METRICS = (
    Metric("accuracy", "accuracy", marked=False),
    *(Metric(f"misclassification_{k}", t, "misclassification", larger) for k, t, larger in RATES),
    # Not marked: a method at chance has the best u-sen.
    *(Metric(f"area_{k}", t, "area over the thresholds", s, marked=False) for k, t, s in _AREAS),
)
"""Metrics of D_in's test split and of the sets under covariate shift."""

Key = tuple[str, str]
"""Name and split of a data set."""
Rates = dict[tuple[Key, str], float]
"""(Data set, key of a metric) -> value."""


@dataclass(frozen=True)
class Comparison:
    """Methods side by side on one D_in: ``DETECTION_METRICS`` and ``ACCURACY_METRICS``."""

    in_dataset: str
    detection: Grid
    accuracy: Grid

    def terminal(self) -> RenderableType:
        """Return both tables for a terminal of 100 columns."""
        return Group(renderers.terminal(self.detection), renderers.terminal(self.accuracy))

    def save(self, folder: str | Path) -> list[Path]:
        """Write ``table.tex``, ``.md``, ``.csv`` and ``accuracy_table.*``; return the six files.

        Raises:
            AttractorError: If the folder cannot be written to.
        """
        label = f"tab:{self.in_dataset}"
        paths = []
        for stem, grid, latex in (
            ("table", self.detection, renderers.latex(self.detection, f"{label}-detection")),
            (
                "accuracy_table",
                self.accuracy,
                renderers.latex(self.accuracy, f"{label}-accuracy", by_dataset=True),
            ),
        ):
            texts = {"tex": latex, "md": renderers.markdown(grid), "csv": renderers.csv_text(grid)}
            for ending, text in texts.items():
                paths.append(Path(folder) / f"{stem}.{ending}")
                write_text(paths[-1], text)
        return paths


def compare(
    results: Mapping[str, Sequence[EvaluationResult]],
    *,
    grid: Thresholds = "exact",
    orientation: Orientation = "in",
    recursion: int | None = None,
    score: str | None = None,
    significance: bool = False,
) -> Comparison:
    """Put methods side by side: mean and population standard deviation over their seeds.

    Methods may differ in their number of seeds and their D_outs; what a method was not measured on
    is empty. AUROC, AUPR and FPR95 are marked: the best mean of each column, and methods whose
    interval mean ± deviation overlaps that of the best. The rates are those of PROTOCOL section 8.

    Args:
        results: Name of a method, in the order of rows -> the results of its seeds.
        grid: ``"exact"``, or ``"paper"``: the thresholds of the released code.
        orientation: The positive class of AUPR and FPR95: D_in and correct predictions, or D_out
            and wrong ones.
        recursion, score: The reported ones by default, and of a method with fewer recursions.
        significance: Whether to test the best method of each column against each other (Wilcoxon,
            "Individual comparisons by ranking methods", 1945), paired by seed, or by position.

    Raises:
        AttractorError: If a method has no result or a seed twice, its results differ in what they
            report, methods were not measured on the same images, no method has the recursion, a
            method lacks the score, or the score does not fit the grid.
    """
    check_reported(grid, orientation)
    if not results:
        raise AttractorError("there is nothing to compare; give the results of at least one method")
    _check_same_images(results)
    most = max(result.recursions for found in results.values() for result in found)
    if recursion is not None and not 0 <= recursion < most:
        raise AttractorError(f"no method has recursion {recursion}; choose one of 0..{most - 1}")
    methods = [_compared(name, found, recursion, score) for name, found in results.items()]
    first = next(iter(results.values()))[0].in_scores
    unbounded: dict[str, None] = {}

    def accuracy_rates(result: EvaluationResult, method: ComparedMethod) -> Rates:
        known = (result.in_scores, *result.covariate_shift_scores)
        values = [scores.score(method.recursion, method.score) for scores in known]
        bounded = all(0 <= u.min() <= u.max() <= 1 for u in values)
        if not (bounded and result.in_scores.probabilities.shape[-1]):
            bounded, unbounded[method.name] = False, None
        rates: Rates = {}
        for scores in known:
            found = dict.fromkeys((metric.key for metric in ACCURACY_METRICS), math.nan)
            found["accuracy"] = result.accuracy(scores.name, method.recursion)
            if bounded:
                at = (scores.name, method.score, method.recursion, grid)
                errors = result.misclassification(*at)
                oriented = _oriented(errors.detection, orientation)
                found |= {f"misclassification_{key}": rate for key, rate in oriented.items()}
                found |= {f"area_{key}": area for key, area in asdict(errors.areas).items()}
            rates |= {(_key(scores), name): value for name, value in found.items()}
        return rates

    def detection_rates(result: EvaluationResult, method: ComparedMethod) -> Rates:
        rates: Rates = {}
        for scores in result.out_scores:
            try:
                found = result.rates(scores.name, method.score, method.recursion, grid)
            except AttractorError as error:
                raise AttractorError(f"{method.name}: {error}") from None
            oriented = _oriented(found, orientation)
            rates |= {(_key(scores), key): rate for key, rate in oriented.items()}
        return rates

    def table(
        title: str,
        columns: Sequence[Column],
        measure: Callable[[EvaluationResult, ComparedMethod], Rates],
        positive: str,
        *notes: str,
    ) -> Grid:
        values = []
        for method, found in zip(methods, results.values(), strict=True):
            rates = [measure(result, method) for result in found]
            values.append([_values(rates, column) for column in columns])
        how = (
            f"Percent, mean ± population standard deviation over seeds; {grid} grid; "
            f"{positive} positive."
        )
        rows = (
            f"{m.name}: n = {len(m.seeds)}, recursion {m.recursion}, {m.score}" for m in methods
        )
        every = [how, *notes, f"{'; '.join(rows)}."]
        if measure is accuracy_rates:
            every.append("Columns are explained in docs/glossary.md.")
            every += [
                f"{name} has no class probabilities, or a score outside [0, 1]: no "
                "misclassification."
                for name in unbounded
            ]
        return make_grid(title, methods, columns, values, notes=every, significance=significance)

    inside = orientation == "in"
    return Comparison(
        first.name,
        table(
            f"Detection of unknown images; D_in is {first.name} ({first.split}, "
            f"{len(first.labels)} images)",
            _columns(results, ("out",), DETECTION_METRICS),
            detection_rates,
            "D_in is" if inside else "D_out is",
        ),
        table(
            f"Accuracy, and detection of wrong predictions; D_in is {first.name}",
            _columns(results, ("in", "covariate_shift"), ACCURACY_METRICS),
            accuracy_rates,
            f"{'correct' if inside else 'wrong'} predictions are",
            "p(a|c) is p(accurate|certain), p(u|i) is p(uncertain|inaccurate), rem. err. and "
            "rem. acc. are the remaining error and accuracy rate.",
        ),
    )


def check_reported(grid: str, orientation: str) -> None:
    """Raise an AttractorError unless both are names that `compare` accepts."""
    check_grid(grid)
    if orientation not in get_args(Orientation):
        raise unknown_name("orientation", orientation, get_args(Orientation))


def _oriented(rates: DetectionMetrics, side: Orientation) -> dict[str, float]:
    """Return AUROC, and AUPR and FPR95 of a positive class."""
    names = {key: key if key == "auroc" else f"{key}_{side}" for key, _, _ in RATES}
    return {key: getattr(rates, name) for key, name in names.items()}


def _values(rates: Sequence[Rates], column: Column) -> list[float]:
    """Return one value per seed, NaN if it was not measured; empty if none was."""
    at = (column.dataset, column.split), column.metric.key
    return [found.get(at, math.nan) for found in rates] if any(at in r for r in rates) else []


def _key(scores: DatasetScores) -> Key:
    return scores.name, scores.split


def _columns(
    results: Mapping[str, Sequence[EvaluationResult]],
    roles: Sequence[str],
    metrics: Sequence[Metric],
) -> list[Column]:
    """Return every metric of every data set of some roles, in order of appearance."""
    every = [scores for found in results.values() for result in found for scores in result.sets]
    keys = list(dict.fromkeys(_key(scores) for scores in every if scores.role in roles))
    names = [name for name, _ in keys]
    known = next(iter(results.values()))[0].in_scores.name

    def label(name: str, split: str) -> str:
        if names.count(name) == 1:
            return name
        # D_in is named in the title.
        return split if name == known and "in" in roles else f"{name} {split}"

    return [Column(*key, label(*key), metric) for key in keys for metric in metrics]


def _compared(
    name: str, results: Sequence[EvaluationResult], recursion: int | None, score: str | None
) -> ComparedMethod:
    """Return the row of a method, after a check that its results agree."""
    reported = set()
    for result in results:
        keep = recursion is None or recursion >= result.recursions
        r = result.recursion if keep else recursion
        reported.add((r, result.score if score is None else score))
    if len(reported) > 1:
        several = " and ".join(f"{s} at recursion {r}" for r, s in sorted(reported))
        raise AttractorError(
            f"results of {name!r} report {several}; choose one recursion and one score"
        )
    seeds = tuple(_seed(result) for result in results)
    for seed in seeds:
        if seed is not None and seeds.count(seed) > 1:
            raise AttractorError(
                f"results of {name!r} have the seed {seed} twice; give each run once, and another "
                "name to another method"
            )
    ((r, shown),) = reported
    for result in results:
        if shown not in result.score_names:
            raise AttractorError(f"{name}: {unknown_name('score', shown, result.score_names)}")
    return ComparedMethod(name, seeds, r, shown)


def _seed(result: EvaluationResult) -> int | None:
    """Return the seed of the training, if the provenance has it."""
    value = result.provenance
    for key in ("experiment", "training", "seed"):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, int) else None


def _check_same_images(results: Mapping[str, Sequence[EvaluationResult]]) -> None:
    """Check that equal names are equal images, and that there is one D_in."""
    seen: dict[tuple[str, Key], tuple[str, DatasetScores]] = {}
    first: tuple[str, EvaluationResult] | None = None
    for name, found in results.items():
        if not found:
            raise AttractorError(f"method {name!r} has no results; evaluate it, or leave it out")
        for result in found:
            first = first or (name, result)
            ours, theirs = result.in_scores, first[1].in_scores
            if _key(ours) != _key(theirs):
                raise AttractorError(
                    f"{name!r} was measured on {ours.name} ({ours.split}), {first[0]!r} on "
                    f"{theirs.name} ({theirs.split}); compare methods on the same D_in"
                )
            if result.classes != first[1].classes:
                raise AttractorError(
                    f"{name!r} and {first[0]!r} have different classes of {ours.name}; compare "
                    "methods that were trained on the same classes"
                )
            for scores in result.sets:
                where, other = seen.setdefault((scores.role, _key(scores)), (name, scores))
                if not np.array_equal(scores.labels, other.labels):
                    raise AttractorError(
                        f"{name!r} and {where!r} were measured on other images of {scores.name} "
                        f"({len(scores.labels)} and {len(other.labels)}); evaluate both on the same"
                    )
