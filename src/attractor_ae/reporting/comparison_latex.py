"""A comparison as LaTeX, for a document that loads booktabs."""

import re
from collections.abc import Sequence
from itertools import groupby

from attractor_ae.reporting.comparison_table import Cell, ComparisonTable, Metric
from attractor_ae.reporting.comparison_text import (
    METRICS_ON_A_PAGE,
    NOTHING,
    arrow,
    chunks,
    group_of,
    notes,
    percent,
    significance_lines,
)

SETS_ON_A_PAGE = 3
"""D_outs that fit beside each other on a page."""

# A plain quotation mark needs another font encoding to look like one; it is accepted as it is.
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    # At the head of a row they would be read as belonging to the end of the row before.
    "[": "{[}",
    "*": "{*}",
    "±": r"$\pm$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
}


def latex_escaped(name: str) -> str:
    r"""Return text as LaTeX shows it.

    Examples
    --------
    >>> print(latex_escaped("sviro_uncertainty & 5 %"))
    sviro\_uncertainty \& 5 \%
    """
    escaped = "".join(_LATEX.get(character, character) for character in " ".join(name.split()))
    for name, symbol in ((r"D\_in", r"$D_{\mathrm{in}}$"), (r"D\_out", r"$D_{\mathrm{out}}$")):
        escaped = re.sub(rf"\b{re.escape(name)}\b", lambda _, symbol=symbol: symbol, escaped)
    # Two hyphens would become a dash.
    return escaped.replace("--", "-{}-")


def latex_by_method(table: ComparisonTable, label: str) -> str:
    """Return a ``table*`` with a row a method and the data sets beside each other.

    Parameters
    ----------
    table
        What to show.
    label
        What the document refers to it by.
    """
    labels, width = table.labels, len(table.metrics)
    rows = [labels[i : i + SETS_ON_A_PAGE] for i in range(0, len(labels), SETS_ON_A_PAGE)]
    columns = width * min(SETS_ON_A_PAGE, len(labels))
    lines = []
    for shown in rows:
        lines += [
            _opening(lines),
            _latex_row(
                ["", *(_spanning(width, latex_escaped(name)) for name in shown)],
                columns - width * len(shown),
            ),
            " ".join(
                rf"\cmidrule(lr){{{2 + width * k}-{1 + width * (k + 1)}}}"
                for k in range(len(shown))
            ),
            _latex_row(
                ["", *(_latex_head(metric) for _ in shown for metric in table.metrics)],
                columns - width * len(shown),
            ),
            r"\midrule",
        ]
        for method in table.methods:
            cells = [
                table.cell(method.name, name, metric.key)
                for name in shown
                for metric in table.metrics
            ]
            lines.append(
                _latex_row(
                    [latex_escaped(method.name), *map(_latex_cell, cells)], columns - len(cells)
                )
            )
    return _latex_table(table, label, columns, lines)


def latex_by_dataset(table: ComparisonTable, label: str) -> str:
    """Return a ``table*`` with a row a method of each data set, and metrics beside each other.

    Parameters
    ----------
    table
        What to show.
    label
        What the document refers to it by.
    """
    parts = chunks(table.metrics, METRICS_ON_A_PAGE)
    columns = max(map(len, parts), default=0)
    lines = []
    for shown in parts:
        spare = columns - len(shown)
        lines.append(_opening(lines))
        groups = [(group, len(list(members))) for group, members in groupby(shown, group_of)]
        if any(group for group, _ in groups):
            lines.append(
                _latex_row(["", *(_spanning(n, latex_escaped(g)) for g, n in groups)], spare)
            )
            ends = [2 + sum(n for _, n in groups[:k]) for k in range(len(groups) + 1)]
            lines.append(
                " ".join(
                    rf"\cmidrule(lr){{{ends[k]}-{ends[k + 1] - 1}}}"
                    for k, (group, _) in enumerate(groups)
                    if group
                )
            )
        lines.append(_latex_row(["", *map(_latex_head, shown)], spare))
        for name in table.labels:
            lines += [
                r"\midrule",
                rf"\multicolumn{{{columns + 1}}}{{l}}{{\emph{{{latex_escaped(name)}}}}} \\",
            ]
            for method in table.methods:
                cells = [table.cell(method.name, name, metric.key) for metric in shown]
                row = [rf"\quad {latex_escaped(method.name)}", *map(_latex_cell, cells)]
                lines.append(_latex_row(row, spare))
    return _latex_table(table, label, columns, lines)


def _latex_table(table: ComparisonTable, label: str, columns: int, body: Sequence[str]) -> str:
    marks = "Bold: best; underlined: mean ± deviation overlaps that of the best."
    caption = " ".join([f"{table.title}.", *notes(table, marks)])
    lines = [
        r"% With \usepackage{booktabs} in the preamble: \input this file.",
        r"\begin{table*}[t]",
        r"  \centering",
        rf"  \caption{{{latex_escaped(caption)}}}",
        rf"  \label{{{re.sub(r'[^A-Za-z0-9:.-]+', '-', label)}}}",
        r"  \smallskip",
        r"  \footnotesize",
        r"  \setlength{\tabcolsep}{2.5pt}",
        # So that a line below one number does not touch the number below.
        r"  \renewcommand{\arraystretch}{1.15}",
    ]
    if body:
        lines += [
            rf"  \begin{{tabular}}{{@{{}}l*{{{columns}}}{{c}}@{{}}}}",
            *(f"    {line}" for line in body),
            r"    \bottomrule",
            r"  \end{tabular}",
        ]
    else:
        lines.append(f"  {NOTHING}")
    lines.append(r"  \par")
    for line in significance_lines(table):
        lines.append(rf"  {{\raggedright\vspace{{3pt}}\noindent {latex_escaped(line)}\par}}")
    return "\n".join([*lines, r"\end{table*}", ""])


def _opening(lines: Sequence[str]) -> str:
    """Return the rule above a part of the table that has a head of its own."""
    return r"\midrule[\heavyrulewidth]" if lines else r"\toprule"


def _latex_row(cells: Sequence[str], spare: int) -> str:
    """Return one line of a tabular, with ``spare`` empty cells at its end."""
    return " & ".join([*cells, *[""] * spare]).rstrip() + r" \\"


def _spanning(columns: int, content: str) -> str:
    return rf"\multicolumn{{{columns}}}{{c}}{{{content}}}" if columns > 1 else content


def _latex_head(metric: Metric) -> str:
    return f"{latex_escaped(metric.title)} {latex_escaped(arrow(metric))}"


def _latex_cell(cell: Cell) -> str:
    shown = percent(cell, r"\pm")
    if not shown:
        return ""
    if cell.best:
        return rf"$\mathbf{{{shown}}}$"
    return rf"\underline{{${shown}$}}" if cell.tied else f"${shown}$"
