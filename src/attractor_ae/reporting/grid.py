"""Table of methods against data sets and metrics, with deviations, marks and tests."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress

import numpy as np
from scipy.stats import wilcoxon

FEWEST_PAIRS = 6
"""Smallest number of pairs that are tested: with 5, p is at least 2 / 2^5 = 0.0625."""


@dataclass(frozen=True)
class Metric:
    """A metric: its name in CSV files, its title, and the title of its group of columns.

    ``marked``: whether the best methods are marked in tables. Tables show values times ``factor``
    with ``digits`` decimals.
    """

    key: str
    title: str
    group: str = ""
    larger_is_better: bool = True
    marked: bool = True
    factor: int = 100
    digits: int = 1

    @property
    def head(self) -> str:
        """The title with the direction of better values."""
        return f"{self.title} {'↑' if self.larger_is_better else '↓'}"


@dataclass(frozen=True)
class Column:
    """A metric on a data set, and the label of the data set in the table."""

    dataset: str
    split: str
    label: str
    metric: Metric


@dataclass(frozen=True)
class ComparedMethod:
    """A row: the seed of each result (None: unknown), and the reported recursion and score."""

    name: str
    seeds: tuple[int | None, ...]
    recursion: int
    score: str


@dataclass(frozen=True)
class Cell:
    """A metric of a method on a data set.

    ``values``, one per seed, are finite, or NaN if undefined; empty if nothing was measured.
    ``mean`` and population standard ``deviation`` are over the ``n`` defined values; the mean is
    NaN if n = 0, the deviation if n < 2. ``best``: the mean is the best of the column; ``tied``:
    the interval mean ± deviation overlaps that of the best. A single method is not marked.
    """

    values: tuple[float, ...]
    mean: float
    deviation: float
    n: int
    best: bool = False
    tied: bool = False

    @classmethod
    def of(cls, values: Sequence[float]) -> "Cell":
        """Return the cell for these values, one per seed."""
        defined = [value for value in values if not math.isnan(value)]
        mean = float(np.mean(defined)) if defined else math.nan
        # With one value the deviation would be 0, which is misleading.
        deviation = float(np.std(defined)) if len(defined) > 1 else math.nan
        return cls(tuple(map(float, values)), mean, deviation, len(defined))

    def text(self, metric: Metric, plus_minus: str = "±") -> str:
        """Return mean and deviation as tables show them; empty if there is no mean."""
        # Multiplied before the mean, as in the released code, which decides some roundings.
        defined = [metric.factor * value for value in self.values if not math.isnan(value)]
        numbers = [f(defined) for f in (np.mean, np.std)[: self.n]]
        return f" {plus_minus} ".join(f"{number:.{metric.digits}f}" for number in numbers)


@dataclass(frozen=True)
class PairedTest:
    """A two-sided Wilcoxon signed-rank test over seeds between the best method and another.

    ``p_value`` is not corrected for the number of tests; NaN for fewer than ``FEWEST_PAIRS`` pairs.
    """

    column: Column
    best: str
    other: str
    pairs: int
    p_value: float


@dataclass(frozen=True)
class Grid:
    """Table of methods and columns; ``cells[i][k]`` is method i, column k.

    The columns of a data set are adjacent. ``notes`` are sentences that explain the numbers;
    ``tests`` are the tests of all marked columns with at least two methods, if requested.
    """

    title: str
    methods: tuple[ComparedMethod, ...]
    columns: tuple[Column, ...]
    cells: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    tests: tuple[PairedTest, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of the data sets."""
        return tuple(dict.fromkeys(column.label for column in self.columns))

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics; each data set has all of them."""
        return tuple(dict.fromkeys(column.metric for column in self.columns))

    def cell(self, method: str, label: str, metric: str) -> Cell:
        """Return a cell by method, label of the data set and key of the metric."""
        row = [found.name for found in self.methods].index(method)
        columns = [(column.label, column.metric.key) for column in self.columns]
        return self.cells[row][columns.index((label, metric))]

    def significance_lines(self) -> list[str]:
        """Return a line of p-values per data set and pair of methods."""
        found: dict[tuple[str, str, str, int], list[str]] = {}
        for test in self.tests:
            if not math.isnan(test.p_value):
                key = test.column.label, test.best, test.other, test.pairs
                found.setdefault(key, []).append(f"{test.column.metric.title} {test.p_value:.2g}")
        lines = [
            f"{label}, {best} against {other} ({pairs} pairs): {', '.join(p_values)}."
            for (label, best, other, pairs), p_values in found.items()
        ]
        if lines:
            lines.insert(
                0,
                "p-values of two-sided Wilcoxon signed-rank tests over seeds, of the best method "
                "against each other, not corrected for their number:",
            )
        untested = [test for test in self.tests if math.isnan(test.p_value)]
        few = dict.fromkeys((*sorted((t.best, t.other)), t.pairs) for t in untested)
        if few:
            which = ", ".join(f"{one} and {other} ({pairs})" for one, other, pairs in few)
            lines.append(
                f"Not tested, since fewer than {FEWEST_PAIRS} pairs of seeds cannot reach "
                f"p < 0.05: {which}."
            )
        return lines


def make_grid(
    title: str,
    methods: Sequence[ComparedMethod],
    columns: Sequence[Column],
    values: Sequence[Sequence[Sequence[float]]],
    *,
    notes: Sequence[str] = (),
    significance: bool = False,
) -> Grid:
    """Return the grid of ``values[i][k]``, numbers of method i in column k, one per seed.

    Undefined numbers are NaN; the sequence is empty if nothing was measured.
    """
    by_column = [_marked([Cell.of(row[k]) for row in values], c) for k, c in enumerate(columns)]
    pairs = list(zip(columns, by_column, strict=True))
    tests = [t for c, cells in pairs for t in (_tests(c, methods, cells) if significance else ())]
    cells = tuple(tuple(column[i] for column in by_column) for i in range(len(methods)))
    return Grid(title, tuple(methods), tuple(columns), cells, tuple(notes), tuple(tests))


def _marked(cells: list[Cell], column: Column) -> list[Cell]:
    """Return the cells of one column, with the best and ties with it marked."""
    means = [cell.mean for cell in cells if cell.n]
    if len(means) < 2 or not column.metric.marked:
        return cells
    top = max(means) if column.metric.larger_is_better else min(means)
    rounding = 1e-12  # equal means over different numbers of seeds may differ by rounding
    best = [cell.n > 0 and abs(cell.mean - top) <= rounding for cell in cells]
    widths = np.nan_to_num([cell.deviation for cell in cells]).tolist()
    reach = max(compress(widths, best)) + rounding  # if several are best, the widest counts
    tied = [c.n > 0 and abs(c.mean - top) <= reach + w for c, w in zip(cells, widths, strict=True)]
    return [
        replace(cell, best=first, tied=near and not first)
        for cell, first, near in zip(cells, best, tied, strict=True)
    ]


def _tests(
    column: Column, methods: Sequence[ComparedMethod], cells: Sequence[Cell]
) -> list[PairedTest]:
    """Test the first of the best methods against every other method with values."""
    rows = [row for row in zip(methods, cells, strict=True) if row[1].n]
    first = next((row for row in rows if row[1].best), None)
    tests = []
    for other in rows if first else ():
        if first and other is not first:
            pairs = _pairs(*first, *other)
            p_value = math.nan
            if len(pairs) >= FEWEST_PAIRS:
                ours, theirs = zip(*pairs, strict=True)
                # If all differences are 0, the statistic is 0 / 0: nothing contradicts equality.
                p_value = 1.0 if ours == theirs else float(wilcoxon(ours, theirs)[1])  # type: ignore[arg-type]
            tests.append(PairedTest(column, first[0].name, other[0].name, len(pairs), p_value))
    return tests


def _pairs(
    one: ComparedMethod, of_one: Cell, other: ComparedMethod, of_other: Cell
) -> list[tuple[float, float]]:
    """Pair defined values by seed, or by position if a seed is unknown."""
    if None in (*one.seeds, *other.seeds):
        pairs = list(zip(of_one.values, of_other.values, strict=False))
    else:
        by_seed = dict(zip(other.seeds, of_other.values, strict=True))
        seeded = zip(one.seeds, of_one.values, strict=True)
        pairs = [(value, by_seed[seed]) for seed, value in seeded if seed in by_seed]
    return [pair for pair in pairs if not any(map(math.isnan, pair))]
