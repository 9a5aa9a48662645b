"""Numbers of several methods side by side: what was measured, what is best, and by how much."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import wilcoxon

from attractor_ae._errors import unknown_name

FEWEST_PAIRS = 6
"""Of five pairs the smallest two-sided p-value is 2 / 2^5 = 0.0625, whatever they are."""


@dataclass(frozen=True)
class Metric:
    """What a column shows.

    Attributes
    ----------
    key
        Its name in CSV files.
    title
        Its name at the head of a column.
    group
        The title of several columns that belong together, or nothing.
    larger_is_better
        Whether the best value is the largest, or the smallest.
    """

    key: str
    title: str
    group: str = ""
    larger_is_better: bool = True


@dataclass(frozen=True)
class Column:
    """One metric on one data set.

    Attributes
    ----------
    dataset, split
        The data set.
    label
        What it is called in the table: its name, with the split where the name alone is not unique;
        of several splits of D_in the split alone.
    metric
        The metric.
    """

    dataset: str
    split: str
    label: str
    metric: Metric


@dataclass(frozen=True)
class ComparedMethod:
    """One row, or one row of each data set.

    Attributes
    ----------
    name
        What the method is called.
    seeds
        The seed of each result, in the order of the values; None where it is not known.
    recursion, score
        What is reported of it.
    """

    name: str
    seeds: tuple[int | None, ...]
    recursion: int
    score: str


@dataclass(frozen=True)
class Cell:
    """One metric of one method on one data set.

    Attributes
    ----------
    values
        One a seed, in [0, 1]; NaN where it is not defined. Empty if nothing was measured.
    mean
        The mean of the values that are defined; NaN if there is none.
    deviation
        Their population standard deviation; NaN if there are fewer than two.
    n
        How many are defined.
    best
        Whether no other method of the column has a better mean. Of one method alone nothing is
        said.
    tied
        Whether it is not the best, but its interval mean ± deviation overlaps that of the best.
    """

    values: tuple[float, ...]
    mean: float
    deviation: float
    n: int
    best: bool = False
    tied: bool = False


@dataclass(frozen=True)
class PairedTest:
    """A two-sided Wilcoxon signed-rank test, over seeds, of the best method against another.

    Attributes
    ----------
    column
        The column.
    best, other
        Names of the methods.
    pairs
        Number of seeds that both have a value of.
    p_value
        Not corrected for the number of tests; NaN for fewer than ``FEWEST_PAIRS`` pairs, which
        cannot reach 5 %.
    """

    column: Column
    best: str
    other: str
    pairs: int
    p_value: float


@dataclass(frozen=True)
class ComparisonTable:
    """Methods against columns.

    Attributes
    ----------
    title
        One line.
    methods
        One a row.
    columns
        Those of a data set follow each other.
    cells
        ``cells[i][k]``: method i, column k.
    notes
        What has to be known to read the numbers, a sentence each.
    tests
        Of every column with at least two methods, if they were asked for.
    """

    title: str
    methods: tuple[ComparedMethod, ...]
    columns: tuple[Column, ...]
    cells: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    tests: tuple[PairedTest, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """The data sets, as they are called in the table."""
        return tuple(dict.fromkeys(column.label for column in self.columns))

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics; each data set has all of them."""
        return tuple(dict.fromkeys(column.metric for column in self.columns))

    def cell(self, method: str, label: str, metric: str) -> Cell:
        """Return a cell by the name of its method, the label of its data set and its metric's key.

        Raises
        ------
        AttractorError
            If there is none of that name.
        """
        names = tuple(found.name for found in self.methods)
        keys = tuple(found.key for found in self.metrics)
        for kind, name, known in (
            ("method", method, names),
            ("data set", label, self.labels),
            ("metric", metric, keys),
        ):
            if name not in known:
                raise unknown_name(kind, name, known)
        wanted = [(column.label, column.metric.key) for column in self.columns]
        return self.cells[names.index(method)][wanted.index((label, metric))]


def comparison_table(
    title: str,
    methods: Sequence[ComparedMethod],
    columns: Sequence[Column],
    values: Sequence[Sequence[Sequence[float]]],
    *,
    notes: Sequence[str] = (),
    significance: bool = False,
) -> ComparisonTable:
    """Return the table of values: with means and deviations, the best marked, and tests.

    Parameters
    ----------
    title, notes
        As they are kept.
    methods, columns
        What there is.
    values
        ``values[i][k]``: one number a seed of method i in column k, NaN where it is not defined;
        empty if the method was not measured there.
    significance
        Whether to test the best method of each column against each other.
    """
    by_column = [_marked([_cell(row[k]) for row in values], c) for k, c in enumerate(columns)]
    tests = [
        test
        for column, cells in zip(columns, by_column, strict=True)
        for test in (_tests(column, methods, cells) if significance else ())
    ]
    return ComparisonTable(
        title,
        tuple(methods),
        tuple(columns),
        tuple(tuple(cells[i] for cells in by_column) for i in range(len(methods))),
        tuple(notes),
        tuple(tests),
    )


def _cell(values: Sequence[float]) -> Cell:
    defined = [value for value in values if not math.isnan(value)]
    return Cell(
        tuple(float(value) for value in values),
        float(np.mean(defined)) if defined else math.nan,
        # Of one value the population's deviation is 0, which would pass for certainty.
        float(np.std(defined)) if len(defined) > 1 else math.nan,
        len(defined),
    )


def _marked(cells: list[Cell], column: Column) -> list[Cell]:
    """Return the cells of one column with the best and its ties marked."""
    means = [cell.mean for cell in cells if cell.n]
    if len(means) < 2:
        return cells
    top = max(means) if column.metric.larger_is_better else min(means)
    # Equal means of other numbers of seeds may differ by rounding.
    rounding = 1e-12
    best = [cell.n > 0 and abs(cell.mean - top) <= rounding for cell in cells]
    # Of several best ones the widest.
    reach = max(_width(cell) for cell, first in zip(cells, best, strict=True) if first)
    return [
        Cell(
            cell.values,
            cell.mean,
            cell.deviation,
            cell.n,
            best=first,
            tied=not first
            and cell.n > 0
            and abs(cell.mean - top) <= reach + _width(cell) + rounding,
        )
        for cell, first in zip(cells, best, strict=True)
    ]


def _width(cell: Cell) -> float:
    return 0.0 if math.isnan(cell.deviation) else cell.deviation


def _tests(
    column: Column, methods: Sequence[ComparedMethod], cells: Sequence[Cell]
) -> list[PairedTest]:
    """Test the first of the best methods against each other method that has values."""
    if not any(cell.best for cell in cells):
        return []
    best = next(i for i, cell in enumerate(cells) if cell.best)
    tests = []
    for i, cell in enumerate(cells):
        if i != best and cell.n:
            pairs = _pairs(methods[best].seeds, cells[best].values, methods[i].seeds, cell.values)
            names = methods[best].name, methods[i].name
            tests.append(PairedTest(column, *names, len(pairs), _p_value(pairs)))
    return tests


def _pairs(
    one_seeds: Sequence[int | None],
    one: Sequence[float],
    other_seeds: Sequence[int | None],
    other: Sequence[float],
) -> list[tuple[float, float]]:
    """Return the values of two methods with equal seeds, or of equal position where one has none.

    Pairs of which a value is not defined are left out.
    """
    if None in one_seeds or None in other_seeds:
        pairs = list(zip(one, other, strict=False))
    else:
        matching = dict(zip(other_seeds, other, strict=True))
        pairs = [
            (value, matching[seed])
            for seed, value in zip(one_seeds, one, strict=True)
            if seed in matching
        ]
    return [pair for pair in pairs if not any(math.isnan(value) for value in pair)]


def _p_value(pairs: Sequence[tuple[float, float]]) -> float:
    if len(pairs) < FEWEST_PAIRS:
        return math.nan
    one, other = zip(*pairs, strict=True)
    # Without any difference the statistic is 0 / 0; nothing speaks against equality.
    if one == other:
        return 1.0
    _, p_value = wilcoxon(one, other)
    return float(p_value)  # type: ignore[arg-type]
