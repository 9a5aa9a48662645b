"""Comparison of methods: detection and accuracy, as mean and deviation over seeds."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Group, RenderableType

from attractor_ae import metrics
from attractor_ae._errors import AttractorError, unknown_name
from attractor_ae._files import write_text
from attractor_ae.experiment.result import DatasetScores, EvaluationResult
from attractor_ae.reporting import renderers
from attractor_ae.reporting.grid import Column, ComparedMethod, Grid, Metric, make_grid

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
    ("error_over_accuracy", "err./acc.", False),
)
ACCURACY_METRICS = (
    Metric("accuracy", "accuracy", marked=False),
    *(Metric(f"misclassification_{k}", t, "misclassification", larger) for k, t, larger in RATES),
    # Not marked, because a method that rejects at random can have the best u-sen.
    *(Metric(f"area_{k}", t, "area over the thresholds", s, marked=False) for k, t, s in _AREAS),
)
"""Metrics of D_in's test split and of the sets under covariate shift."""

Key = tuple[str, str]
"""Name and split of a data set."""
Rates = dict[tuple[Key, str], float]
"""Mapping (data set, metric key) -> value."""


@dataclass(frozen=True)
class Comparison:
    """Comparison of methods on one D_in: ``DETECTION_METRICS`` and ``ACCURACY_METRICS``.

    ``wasserstein`` has the sums of `EvaluationResult.wasserstein`.
    """

    in_dataset: str
    detection: Grid
    accuracy: Grid
    wasserstein: Grid

    def terminal(self) -> RenderableType:
        """Return the tables for a terminal of 80 columns."""
        return Group(*map(renderers.terminal, (self.detection, self.accuracy, self.wasserstein)))

    def save(self, folder: str | Path) -> list[Path]:
        """Write ``table.tex``, ``.md``, ``.csv``, ``accuracy_table.*`` and ``wasserstein_table.*``.

        Returns the nine files.
        """
        paths = []
        for kind, stem, grid in (
            ("detection", "table", self.detection),
            ("accuracy", "accuracy_table", self.accuracy),
            ("wasserstein", "wasserstein_table", self.wasserstein),
        ):
            label = f"tab:{self.in_dataset}-{kind}"
            texts = {
                "tex": renderers.latex(grid, label, by_dataset=kind == "accuracy"),
                "md": renderers.markdown(grid),
                "csv": renderers.csv_text(grid),
            }
            for ending, text in texts.items():
                paths.append(Path(folder) / f"{stem}.{ending}")
                write_text(paths[-1], text)
        return paths


def compare(
    results: Mapping[str, Sequence[EvaluationResult]],
    *,
    grid: metrics.Thresholds = "exact",
    orientation: metrics.Orientation = "in",
    recursion: int | None = None,
    score: str | None = None,
    significance: bool = False,
    reference: str | None = None,
) -> Comparison:
    """Compare methods by mean and population standard deviation over their seeds.

    Methods may differ in their number of seeds and their D_outs; cells of data sets that a method
    was not evaluated on are empty. In columns of AUROC, AUPR and FPR95 the best mean is marked, and
    methods whose interval mean ± deviation overlaps that of the best. PROTOCOL section 8 defines
    the rates.

    Args:
        results: Method name -> results of its seeds, in the order of the rows.
        grid: ``"exact"``, or ``"paper"``: the thresholds of the released code.
        orientation: The positive class of AUPR and FPR95: D_in and correct predictions, or D_out
            and wrong ones.
        recursion, score: By default the reported ones. A method without this recursion has its
            reported one.
        significance: Whether to test the best method of each column against each other method
            (Wilcoxon, "Individual comparisons by ranking methods", 1945), paired by seed, or by
            position if seeds are unknown.
        reference: The D_out whose Wasserstein distances to the others are summed; by default
            cifar10, photos, or the first.

    Raises:
        AttractorError: If a method has no results or the same seed twice, its results report
            different recursions or scores, methods were not evaluated on the same images, no method
            has the recursion, a method lacks the score, or the score does not fit the grid.
    """
    metrics.checked_names(grid, orientation)
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
        sets = (result.in_scores, *result.covariate_shift_scores)
        known = [scores.labelled for scores in sets]
        judged = result.error_score if method.score == result.score else method.score
        values = [scores.score(method.recursion, judged) for scores in known]
        bounded = metrics.are_bounded(*values)
        if not (bounded and result.in_scores.probabilities.shape[-1]):
            bounded, unbounded[method.name] = False, None
        rates: Rates = {}
        for scores in known:
            found = dict.fromkeys((metric.key for metric in ACCURACY_METRICS), math.nan)
            found["accuracy"] = result.accuracy(scores.name, method.recursion)
            if bounded and len(scores.labels):
                at = (scores.name, judged, method.recursion, grid)
                errors = result.misclassification(*at)
                oriented = _oriented(errors.detection, orientation)
                found |= {f"misclassification_{key}": rate for key, rate in oriented.items()}
                found |= {f"area_{key}": area for key, area in errors.areas.items()}
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

    failed = {name: sum(map(_failed, found)) for name, found in results.items()}
    untrained = [
        f"Warning: {name}: {count} of {len(results[name])} failed the self-check of training."
        for name, count in failed.items()
        if count
    ]
    every = (result for found in results.values() for result in found)
    outs = list(dict.fromkeys(scores.name for result in every for scores in result.out_scores))
    compared_with = metrics.wasserstein_reference(outs, reference) if outs else ""
    # Not marked, since the sums depend on the number of D_outs.
    sums_of_distances = (
        Metric("in_to_out", "D_in to D_outs", "", True, False, 1, 3),
        Metric("reference_to_out", f"{compared_with} to others", "", False, False, 1, 3),
    )[: len(outs)]

    def distances(result: EvaluationResult, method: ComparedMethod) -> Rates:
        if not result.out_scores:
            return {}
        sums = result.wasserstein(compared_with, method.score, method.recursion)
        return {(_key(result.in_scores), key): value for key, value in asdict(sums).items()}

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
        how = "mean ± population standard deviation over seeds"
        if positive:
            how = f"Percent, {how}; {grid} grid; {positive} positive."
        else:
            how = f"{how.capitalize()}; unit: the score's."
        rows = (
            f"{m.name}: n = {len(m.seeds)}, recursion {m.recursion}, {m.score}" for m in methods
        )
        every = [how, *notes, f"{'; '.join(rows)}.", *untrained]
        if measure is accuracy_rates:
            every.append(
                "Wrong predictions are detected by the score, or by the entropy in place of "
                "ood_score. Columns are explained in docs/glossary.md."
            )
            every += [
                f"{name} has no class probabilities, or a score outside [0, 1]: no "
                "misclassification columns."
                for name in unbounded
            ]
        return make_grid(title, methods, columns, values, notes=every, significance=significance)

    inside, n, labelled = orientation == "in", len(first.labels), len(first.labelled.labels)
    partly = [f"{labelled} of {n} images of {first.name} have a label; only these count."]
    return Comparison(
        first.name,
        table(
            f"Detection of unknown images; D_in is {first.name} ({first.split}, {n} images)",
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
            "rem. acc. are the remaining error and accuracy rate, err./acc. is the area of the "
            "first over the second.",
            *(partly if labelled < n else ()),
        ),
        table(
            f"Sums of Wasserstein distances between scores; D_in is {first.name}",
            _columns(results, ("in",), sums_of_distances),
            distances,
            "",
        ),
    )


def _oriented(rates: metrics.DetectionMetrics, side: metrics.Orientation) -> dict[str, float]:
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
    results: Mapping[str, Sequence[EvaluationResult]], roles: Sequence[str], shown: Sequence[Metric]
) -> list[Column]:
    """Return the columns of all data sets with these roles, in order of appearance."""
    every = [scores for found in results.values() for result in found for scores in result.sets]
    keys = list(dict.fromkeys(_key(scores) for scores in every if scores.role in roles))
    names = [name for name, _ in keys]
    known = next(iter(results.values()))[0].in_scores.name

    def label(name: str, split: str) -> str:
        if names.count(name) == 1:
            return name
        # The title names D_in.
        return split if name == known and "in" in roles else f"{name} {split}"

    return [Column(*key, label(*key), metric) for key in keys for metric in shown]


def _compared(
    name: str, results: Sequence[EvaluationResult], recursion: int | None, score: str | None
) -> ComparedMethod:
    """Return the row of a method after checking that its results are consistent."""
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
    seeds = tuple(_setting(result, "training", "seed") for result in results)
    for seed in seeds:
        if seed is not None and seeds.count(seed) > 1:
            raise AttractorError(
                f"results of {name!r} contain seed {seed} twice; give each run once, and each "
                "method a different name"
            )
    ((r, shown),) = reported
    for result in results:
        if shown not in result.score_names:
            raise AttractorError(f"{name}: {unknown_name('score', shown, result.score_names)}")
    return ComparedMethod(name, seeds, r, shown)


def _setting(result: EvaluationResult, section: str, key: str) -> int | None:
    """Return a number of the experiment, if the provenance contains it."""
    value = result.provenance
    for name in ("experiment", section, key):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value if isinstance(value, int) else None


def _failed(result: EvaluationResult) -> bool:
    """Return whether a network of a result failed its self-check."""
    checks = result.provenance.get("self_checks", ())
    return any(check.get("self_check") == "failed" for check in checks)


def _check_same_images(results: Mapping[str, Sequence[EvaluationResult]]) -> None:
    """Check that D_in is the same for all, and that data sets of one name have equal images.

    Results of different open-set splits have different classes and images.
    """
    firsts: dict[int | None, tuple[str, EvaluationResult]] = {}
    seen: dict[tuple[int | None, str, Key], tuple[str, DatasetScores]] = {}
    for name, found in results.items():
        if not found:
            raise AttractorError(f"method {name!r} has no results; evaluate it, or leave it out")
        for result in found:
            split = _setting(result, "dataset", "open_set_split")
            first = firsts.setdefault(split, (name, result))
            ours, theirs = result.in_scores, next(iter(firsts.values()))[1].in_scores
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
                key = (split, scores.role, _key(scores))
                where, other = seen.setdefault(key, (name, scores))
                if not np.array_equal(scores.labels, other.labels):
                    raise AttractorError(
                        f"{name!r} and {where!r} were measured on other images of {scores.name} "
                        f"({len(scores.labels)} and {len(other.labels)}); use the same images"
                    )
