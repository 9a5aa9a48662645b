"""Methods side by side: what each detects and how it errs, as mean and deviation over seeds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from rich.console import RenderableType

from attractor_ae._errors import AttractorError, unknown_name
from attractor_ae._files import write_text
from attractor_ae.experiment.result import EvaluationResult
from attractor_ae.metrics import Grid, accuracy, check_grid, detection_metrics
from attractor_ae.misclassification import misclassification_metrics
from attractor_ae.reporting import comparison_latex as latex
from attractor_ae.reporting import comparison_text as text
from attractor_ae.reporting.comparable import (
    Key,
    check_recursion,
    check_same_images,
    compared_method,
    key_of,
    sets_of,
)
from attractor_ae.reporting.comparison_table import (
    Column,
    ComparedMethod,
    ComparisonTable,
    Metric,
    comparison_table,
)

Orientation = Literal["in", "out"]

RATES = (("auroc", "AUROC", True), ("aupr", "AUPR", True), ("fpr95", "FPR95", False))

DETECTION_METRICS = tuple(Metric(key, title, "", larger) for key, title, larger in RATES)
"""What is shown of every D_out."""

ACCURACY_METRICS = (
    Metric("accuracy", "accuracy"),
    *(
        Metric(f"misclassification_{key}", title, "misclassification", larger)
        for key, title, larger in RATES
    ),
    *(
        Metric(f"area_{key}", title, "area over the thresholds", larger)
        for key, title, larger in (
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
    ),
)
"""What is shown of every accuracy split: D_in's own test split and the shifted sets."""


@dataclass(frozen=True)
class Comparison:
    """Methods side by side on one D_in.

    Attributes
    ----------
    in_dataset, in_split
        D_in.
    grid
        Thresholds that the curves were computed on.
    orientation
        The positive class: ``"in"``, or ``"out"``.
    detection
        AUROC, AUPR and FPR95 of every D_out (``DETECTION_METRICS``).
    accuracy
        Accuracy, and how well wrong predictions are told, on every accuracy split
        (``ACCURACY_METRICS``).
    """

    in_dataset: str
    in_split: str
    grid: Grid
    orientation: Orientation
    detection: ComparisonTable
    accuracy: ComparisonTable

    def latex(self) -> str:
        """Return the detection as a LaTeX ``table*``, for a document that loads booktabs."""
        return latex.latex_by_method(self.detection, f"tab:{self.in_dataset}-detection")

    def accuracy_latex(self) -> str:
        """Return the accuracy as a LaTeX ``table*``, for a document that loads booktabs."""
        return latex.latex_by_dataset(self.accuracy, f"tab:{self.in_dataset}-accuracy")

    def markdown(self) -> str:
        """Return the detection as Markdown."""
        return text.markdown(self.detection)

    def accuracy_markdown(self) -> str:
        """Return the accuracy as Markdown."""
        return text.markdown(self.accuracy)

    def csv(self) -> str:
        """Return the detection as CSV: a line a cell, in full precision, with every seed's value.

        Rates lie in [0, 1]; what is not defined is empty.
        """
        return text.csv_lines(self.detection)

    def accuracy_csv(self) -> str:
        """Return the accuracy as CSV, like `csv`."""
        return text.csv_lines(self.accuracy)

    def terminal(self) -> RenderableType:
        """Return the detection for a terminal of 100 columns."""
        return text.terminal(self.detection)

    def accuracy_terminal(self) -> RenderableType:
        """Return the accuracy for a terminal of 100 columns."""
        return text.terminal(self.accuracy)

    def save(self, folder: str | Path) -> list[Path]:
        """Write ``table.tex``, ``.md`` and ``.csv``, and ``accuracy_table`` likewise, atomically.

        Returns
        -------
        list of Path
            The six files.

        Raises
        ------
        AttractorError
            If the folder cannot be written to.
        """
        files = {
            "table.tex": self.latex(),
            "table.md": self.markdown(),
            "table.csv": self.csv(),
            "accuracy_table.tex": self.accuracy_latex(),
            "accuracy_table.md": self.accuracy_markdown(),
            "accuracy_table.csv": self.accuracy_csv(),
        }
        for name, content in files.items():
            write_text(Path(folder) / name, content)
        return [Path(folder) / name for name in files]


def compare(
    results: Mapping[str, Sequence[EvaluationResult]],
    *,
    grid: Grid = "exact",
    orientation: Orientation = "in",
    recursion: int | None = None,
    score: str | None = None,
    significance: bool = False,
) -> Comparison:
    """Put methods side by side: mean and population standard deviation over their seeds.

    Methods may have other numbers of seeds, and other D_outs; what a method was not measured on is
    empty. Marked are the best mean of each column and those methods whose interval mean ± deviation
    overlaps that of the best.

    Parameters
    ----------
    results
        Name of a method, in the order of rows -> the results of its seeds, in any order.
    grid
        ``"exact"``, or ``"paper"``: the thresholds of the released code.
    orientation
        The positive class of AUPR and FPR95. ``"in"``: D_in, and correct predictions; ``"out"``:
        D_out, and wrong predictions. AUROC is the same.
    recursion
        Which recursion to report; by default the reported one of each result. A method that has
        fewer recursions, as a classifier has, shows its reported one.
    score
        Which score to report; by default the reported one of each result. If it does not lie in
        [0, 1], there are no misclassification scores.
    significance
        Whether to test the best method of each column against each other, by a two-sided Wilcoxon
        signed-rank test over seeds (Wilcoxon, "Individual comparisons by ranking methods", 1945).
        Results are paired by seed, and by position where a method's seeds are not known.

    Raises
    ------
    AttractorError
        If a method has no result or a seed twice, its results differ in what they report, methods
        were not measured on the same images, nobody has the recursion, a method lacks the score,
        or the score does not fit the grid.

    Notes
    -----
    The rates are those of PROTOCOL section 8.
    """
    check_reported(grid, orientation)
    if not results:
        raise AttractorError("there is nothing to compare; give the results of at least one method")
    check_same_images(results)
    check_recursion(results, recursion)
    methods = [compared_method(name, found, recursion, score) for name, found in results.items()]

    first = next(iter(results.values()))[0].in_scores
    columns_out = _columns(results, ("out",), DETECTION_METRICS)
    columns_in = _columns(results, ("in", "shift"), ACCURACY_METRICS)
    detection, errors, unbounded = [], [], []
    for method, found in zip(methods, results.values(), strict=True):
        rates = [_detection_rates(result, method, grid, orientation) for result in found]
        detection.append([_values(rates, column) for column in columns_out])
        bounded = all(_bounded(result, method) for result in found)
        if not bounded:
            unbounded.append(
                f"{method.name} is judged by {method.score}, which does not lie in [0, 1]: no "
                "misclassification."
            )
        rates = [_accuracy_rates(result, method, grid, orientation, bounded) for result in found]
        errors.append([_values(rates, column) for column in columns_in])

    how = f"Percent, mean ± population standard deviation over seeds; {grid} grid;"
    positive = (
        ("D_in is", "correct predictions are")
        if orientation == "in"
        else ("D_out is", "wrong predictions are")
    )
    rows = "; ".join(
        f"{m.name}: n = {len(m.seeds)}, recursion {m.recursion}, {m.score}" for m in methods
    )
    return Comparison(
        in_dataset=first.name,
        in_split=first.split,
        grid=grid,
        orientation=orientation,
        detection=comparison_table(
            f"Detection of unknown images; D_in is {first.name} ({first.split}, "
            f"{len(first.labels)} images)",
            methods,
            columns_out,
            detection,
            notes=(f"{how} {positive[0]} positive.", f"{rows}."),
            significance=significance,
        ),
        accuracy=comparison_table(
            f"Accuracy, and detection of wrong predictions; D_in is {first.name}",
            methods,
            columns_in,
            errors,
            notes=(
                f"{how} {positive[1]} positive.",
                "p(a|c) is p(accurate|certain), p(u|i) is p(uncertain|inaccurate), rem. err. and "
                "rem. acc. are the remaining error and accuracy rate.",
                f"{rows}.",
                *unbounded,
            ),
            significance=significance,
        ),
    )


# ---- what each result says ---------------------------------------------------------------------

Rates = dict[tuple[Key, str], float]
"""(Data set, key of a metric) -> its value."""


def check_reported(grid: str, orientation: str) -> None:
    """Raise an AttractorError unless both are names that `compare` knows."""
    check_grid(grid)
    if orientation not in get_args(Orientation):
        raise unknown_name("orientation", orientation, get_args(Orientation))


def _detection_rates(
    result: EvaluationResult, method: ComparedMethod, grid: Grid, side: Orientation
) -> Rates:
    known = result.in_scores.uncertainty(method.recursion, method.score)
    rates = {}
    for scores in result.out_scores:
        unknown = scores.uncertainty(method.recursion, method.score)
        try:
            found = detection_metrics(known, unknown, grid=grid)
        except AttractorError as error:
            raise AttractorError(
                f"{method.name}, {method.score} of {scores.name}: {error}"
            ) from None
        for metric in DETECTION_METRICS:
            rates[key_of(scores), metric.key] = _oriented(asdict(found), metric.key, side)
    return rates


def _accuracy_rates(
    result: EvaluationResult, method: ComparedMethod, grid: Grid, side: Orientation, bounded: bool
) -> Rates:
    """Return the accuracy, and all else if the score lies in [0, 1]; NaN if it does not."""
    rates = {}
    for scores in (result.in_scores, *result.shift_scores):
        predicted = scores.predicted(method.recursion)
        found = dict.fromkeys((metric.key for metric in ACCURACY_METRICS), math.nan)
        found["accuracy"] = accuracy(predicted, scores.labels)
        if bounded:
            errors = misclassification_metrics(
                scores.uncertainty(method.recursion, method.score),
                predicted == scores.labels,
                grid=grid,
            )
            for key, _, _ in RATES:
                value = _oriented(asdict(errors.detection), key, side)
                found[f"misclassification_{key}"] = value
            found |= {f"area_{key}": area for key, area in asdict(errors.areas).items()}
        rates |= {(key_of(scores), name): value for name, value in found.items()}
    return rates


def _oriented(rates: Mapping[str, float], key: str, side: Orientation) -> float:
    return rates[key if key == "auroc" else f"{key}_{side}"]


def _bounded(result: EvaluationResult, method: ComparedMethod) -> bool:
    """Return whether the score lies in [0, 1] on every accuracy split."""
    return all(
        u.min() >= 0 and u.max() <= 1
        for u in (
            scores.uncertainty(method.recursion, method.score)
            for scores in (result.in_scores, *result.shift_scores)
        )
    )


def _values(rates: Sequence[Rates], column: Column) -> list[float]:
    """Return one value a seed, NaN for a seed that was not measured; nothing if none was."""
    at = (column.dataset, column.split), column.metric.key
    return [found.get(at, math.nan) for found in rates] if any(at in r for r in rates) else []


def _columns(
    results: Mapping[str, Sequence[EvaluationResult]],
    roles: Sequence[str],
    metrics: Sequence[Metric],
) -> list[Column]:
    """Return every metric of every data set of the given roles, in the order they are met."""
    every = [scores for found in results.values() for result in found for scores in sets_of(result)]
    keys = list(dict.fromkeys(key_of(scores) for scores in every if scores.role in roles))
    names = [name for name, _ in keys]
    known = next(iter(results.values()))[0].in_scores.name

    def label(name: str, split: str) -> str:
        if names.count(name) == 1:
            return name
        # D_in is named in the title.
        return split if name == known and "in" in roles else f"{name} {split}"

    return [Column(*key, label(*key), metric) for key in keys for metric in metrics]
