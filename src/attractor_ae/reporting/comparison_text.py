"""A comparison as Markdown, CSV, and tables for the terminal, and what all formats say."""

import csv
import io
import math
import re
from collections.abc import Sequence
from itertools import groupby

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from attractor_ae.reporting.comparison_table import (
    FEWEST_PAIRS,
    Cell,
    ComparisonTable,
    Metric,
)

METRICS_ON_A_PAGE = 9
"""Metrics that fit beside each other on a page."""

METRICS_IN_A_TERMINAL = 4
"""Metrics that fit beside each other in 100 columns."""

CSV_HEADS = (
    *("method", "recursion", "score", "dataset", "split", "metric", "better"),
    *("mean", "standard_deviation", "n", "mark", "seeds"),
)

NOTHING = "Nothing was measured."


# ---- what all formats say ----------------------------------------------------------------------


def percent(cell: Cell, plus_minus: str = "±") -> str:
    """Return mean and deviation in percent, with one decimal; nothing if there is no mean.

    The deviation of a single value is left out.
    """
    if not cell.n:
        return ""
    mean = f"{100 * cell.mean:.1f}"
    return mean if cell.n == 1 else f"{mean} {plus_minus} {100 * cell.deviation:.1f}"


def notes(table: ComparisonTable, marks: str) -> list[str]:
    """Return what has to be known to read a table, with what its marks mean if it has any."""
    cells = [cell for row in table.cells for cell in row]
    found = [*table.notes]
    if any(cell.best for cell in cells):
        found.append(marks)
    if not all(cell.n for cell in cells):
        found.append("Empty: not measured, or not defined, as where no prediction is wrong.")
    return found


def arrow(metric: Metric) -> str:
    """Return whether larger values are better, or smaller ones, as an arrow."""
    return "↑" if metric.larger_is_better else "↓"


def group_of(metric: Metric) -> str:
    """Return the group of a metric."""
    return metric.group


def chunks(metrics: Sequence[Metric], most: int) -> list[list[Metric]]:
    """Divide metrics into rows of at most ``most``; only a longer group is divided itself."""
    pieces = []
    for _, members in groupby(metrics, group_of):
        group = list(members)
        # Equally long parts: three, three, three rather than four, four, one.
        size = math.ceil(len(group) / math.ceil(len(group) / most))
        pieces += [group[i : i + size] for i in range(0, len(group), size)]
    rows: list[list[Metric]] = []
    for piece in pieces:
        if not rows or len(rows[-1]) + len(piece) > most:
            rows.append([])
        rows[-1] += piece
    return rows


def _common_group(metrics: Sequence[Metric]) -> str:
    """Return the group of all metrics, or nothing if they are of several."""
    groups = {metric.group for metric in metrics}
    return groups.pop() if len(groups) == 1 else ""


def significance_lines(table: ComparisonTable) -> list[str]:
    """Return what the tests found: for each data set and two methods a line of p-values.

    Returns
    -------
    list of str
        Empty if no test was asked for.
    """
    if not table.tests:
        return []
    found: dict[tuple[str, str, str, int], list[str]] = {}
    for test in table.tests:
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
    few = dict.fromkeys(
        (*sorted((test.best, test.other)), test.pairs)
        for test in table.tests
        if math.isnan(test.p_value)
    )
    if few:
        which = ", ".join(f"{one} and {other} ({pairs})" for one, other, pairs in few)
        lines.append(
            f"Not tested, since fewer than {FEWEST_PAIRS} pairs of seeds cannot reach p < 0.05: "
            f"{which}."
        )
    return lines


# ---- Markdown ----------------------------------------------------------------------------------


def markdown_escaped(name: str) -> str:
    r"""Return text as Markdown shows it, inside a table or not.

    Examples
    --------
    >>> print(markdown_escaped("sviro_uncertainty|1"))
    sviro\_uncertainty\|1
    """
    return re.sub(r"([\\`*_{}\[\]<>#|~&$])", r"\\\1", " ".join(name.split()))


def markdown(table: ComparisonTable) -> str:
    """Return tables of GitHub's Markdown, with a row a method of each data set."""
    marks = "Bold: best; italic: mean ± deviation overlaps that of the best."
    blocks = [f"**{markdown_escaped(table.title)}**"]
    if not table.columns:
        blocks.append(NOTHING)
    for shown in chunks(table.metrics, METRICS_ON_A_PAGE):
        if group := _common_group(shown):
            blocks.append(f"{group}:")
        lines = [
            _markdown_row(["data set", "method", *map(_markdown_head, shown)]),
            _markdown_row(["---", "---", *["---:"] * len(shown)]),
        ]
        for name in table.labels:
            for method in table.methods:
                cells = [table.cell(method.name, name, metric.key) for metric in shown]
                names = [markdown_escaped(name), markdown_escaped(method.name)]
                lines.append(_markdown_row([*names, *map(_markdown_cell, cells)]))
        blocks.append("\n".join(lines))
    blocks.append("\n".join(map(markdown_escaped, notes(table, marks))))
    if lines := significance_lines(table):
        first, *others = map(markdown_escaped, lines)
        blocks += [first, *(["\n".join(f"* {line}" for line in others)] if others else [])]
    return "\n\n".join(blocks) + "\n"


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_cell(cell: Cell) -> str:
    stars = "**" if cell.best else "*" if cell.tied else ""
    return f"{stars}{percent(cell)}{stars}"


def _markdown_head(metric: Metric) -> str:
    return f"{markdown_escaped(metric.title)} {arrow(metric)}"


# ---- CSV ---------------------------------------------------------------------------------------


def csv_lines(table: ComparisonTable) -> str:
    """Return a line a cell, in full precision; empty where nothing is defined.

    The values come in the order of ``seeds``, which are separated by blanks ("?": not known).
    """
    most = max((len(cell.values) for row in table.cells for cell in row), default=0)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*CSV_HEADS, *(f"value_{k + 1}" for k in range(most))])
    for method, row in zip(table.methods, table.cells, strict=True):
        seeds = " ".join("?" if seed is None else f"{seed}" for seed in method.seeds)
        for column, cell in zip(table.columns, row, strict=True):
            values = [_plain(value) for value in cell.values]
            writer.writerow(
                [method.name, method.recursion, method.score, column.dataset, column.split]
                + [column.metric.key, "larger" if column.metric.larger_is_better else "smaller"]
                + [_plain(cell.mean), _plain(cell.deviation), cell.n]
                + ["best" if cell.best else "tie" if cell.tied else "", seeds]
                + values
                + [""] * (most - len(values))
            )
    return text.getvalue()


def _plain(value: float) -> str:
    return "" if math.isnan(value) else repr(value)


# ---- terminal ----------------------------------------------------------------------------------


def terminal(table: ComparisonTable) -> RenderableType:
    """Return tables for a terminal of 100 columns, with a row a method of each data set.

    Marks are seen where neither bold nor italic is: ``*`` and ``=``.
    """
    marks = "*: best; =: mean ± deviation overlaps that of the best."
    blocks: list[RenderableType] = [Text(table.title, style="italic")]
    if not table.columns:
        blocks.append(Text(NOTHING))
    blocks += [
        _terminal_table(table, shown) for shown in chunks(table.metrics, METRICS_IN_A_TERMINAL)
    ]
    blocks += [Text(line) for line in (*notes(table, marks), *significance_lines(table))]
    return Group(*blocks)


def _terminal_table(table: ComparisonTable, shown: Sequence[Metric]) -> Table:
    found = Table(title=_common_group(shown) or None, title_justify="left")
    found.add_column("data set", overflow="fold")
    found.add_column("method", overflow="fold")
    for metric in shown:
        found.add_column(Text(f"{metric.title} {arrow(metric)}"), justify="right", no_wrap=True)
    for name in table.labels:
        for i, method in enumerate(table.methods):
            found.add_row(
                Text(name if i == 0 else ""),
                Text(method.name),
                *(_terminal_cell(table.cell(method.name, name, m.key)) for m in shown),
                end_section=i == len(table.methods) - 1,
            )
    return found


def _terminal_cell(cell: Cell) -> Text:
    # In front, since trailing blanks of the others would be cut, and numbers not stand in line.
    if cell.best:
        return Text(f"* {percent(cell)}", style="bold")
    return Text(f"= {percent(cell)}", style="italic") if cell.tied else Text(percent(cell))
