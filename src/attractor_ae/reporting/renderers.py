"""Renderers of a grid for the terminal, Markdown, LaTeX and CSV."""

import csv
import io
import math
import re
from collections.abc import Sequence
from itertools import groupby

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from attractor_ae.reporting.grid import Cell, Grid, Metric

METRICS_ON_A_PAGE = 9
METRICS_IN_A_TERMINAL = 3  # in 80 columns
SETS_ON_A_PAGE = 3

CSV_HEADS = (
    *("method", "recursion", "score", "dataset", "split", "metric", "better"),
    *("mean", "standard_deviation", "n", "mark", "seeds"),
)

_NOTHING = "Nothing was measured."


def _notes(grid: Grid, marks: str) -> list[str]:
    """Return the notes of a grid, and the explanation of its marks if there are any."""
    cells = [cell for row in grid.cells for cell in row]
    found = [*grid.notes]
    if any(cell.best for cell in cells):
        found.append(marks)
    if not all(cell.n for cell in cells):
        found.append("Empty: not measured, or undefined, e.g. because no prediction is wrong.")
    return found


def _chunks(metrics: Sequence[Metric], most: int) -> list[list[Metric]]:
    """Divide metrics into rows of at most ``most``; split only groups longer than that."""
    rows: list[list[Metric]] = []
    for _, members in groupby(metrics, lambda metric: metric.group):
        group = list(members)
        # Parts of about equal length: 3 + 3 + 3 rather than 4 + 4 + 1.
        size = math.ceil(len(group) / math.ceil(len(group) / most))
        for piece in (group[i : i + size] for i in range(0, len(group), size)):
            if not rows or len(rows[-1]) + len(piece) > most:
                rows.append([])
            rows[-1] += piece
    return rows


def _common_group(metrics: Sequence[Metric]) -> str:
    groups = {metric.group for metric in metrics}
    return groups.pop() if len(groups) == 1 else ""


def terminal(grid: Grid) -> RenderableType:
    """Render tables for a terminal of 80 columns, with one row per data set and method.

    The marks ``*`` and ``=`` are visible without bold and italic as well.
    """
    blocks: list[RenderableType] = [Text(grid.title, style="italic")]
    if not grid.columns:
        blocks.append(Text(_NOTHING))
    for shown in _chunks(grid.metrics, METRICS_IN_A_TERMINAL):
        title = _common_group(shown) or None
        table = Table(title=title, title_justify="left", show_edge=False)
        table.add_column("data set", overflow="fold")
        longest = max((len(method.name) for method in grid.methods), default=0)
        table.add_column("method", overflow="fold", min_width=min(longest, 13))
        for metric in shown:
            table.add_column(Text(metric.head), justify="right", no_wrap=True)
        for name in grid.labels:
            for i, method in enumerate(grid.methods):
                cells = [grid.cell(method.name, name, metric.key) for metric in shown]
                heads = Text(name if i == 0 else ""), Text(method.name)
                table.add_row(*heads, *map(_terminal_cell, cells, shown))
            table.add_section()
        blocks.append(table)
    marks = "*: best; =: mean ± deviation overlaps that of the best."
    blocks += [Text(line) for line in (*_notes(grid, marks), *grid.significance_lines())]
    return Group(*blocks)


def _terminal_cell(cell: Cell, metric: Metric) -> Text:
    # In front, since trailing blanks would be removed and numbers not aligned.
    mark, style = ("* ", "bold") if cell.best else ("= ", "italic") if cell.tied else ("", "")
    return Text(f"{mark}{cell.text(metric)}", style=style)


def markdown_escaped(name: str) -> str:
    r"""Escape text for Markdown, inside and outside tables.

    Examples:
        >>> print(markdown_escaped("sviro_uncertainty|1"))
        sviro\_uncertainty\|1
    """
    return re.sub(r"([\\`*_{}\[\]<>#|~&$])", r"\\\1", " ".join(name.split()))


def markdown(grid: Grid) -> str:
    """Render tables in GitHub's Markdown, with one row per data set and method."""
    blocks = [f"**{markdown_escaped(grid.title)}**"]
    if not grid.columns:
        blocks.append(_NOTHING)
    for shown in _chunks(grid.metrics, METRICS_ON_A_PAGE):
        if group := _common_group(shown):
            blocks.append(f"{group}:")
        heads = [markdown_escaped(metric.head) for metric in shown]
        rows = [["data set", "method", *heads], ["---", "---", *["---:"] * len(shown)]]
        for name in grid.labels:
            for method in grid.methods:
                cells = [grid.cell(method.name, name, metric.key) for metric in shown]
                stars = ["**" if cell.best else "*" if cell.tied else "" for cell in cells]
                shows = zip(stars, cells, shown, strict=True)
                texts = [f"{star}{cell.text(metric)}{star}" for star, cell, metric in shows]
                rows.append([markdown_escaped(name), markdown_escaped(method.name), *texts])
        blocks.append("\n".join(f"| {' | '.join(row)} |" for row in rows))
    marks = "Bold: best; italic: mean ± deviation overlaps that of the best."
    blocks.append("\n".join(map(markdown_escaped, _notes(grid, marks))))
    if lines := grid.significance_lines():
        first, *others = map(markdown_escaped, lines)
        blocks += [first, *(["\n".join(f"* {line}" for line in others)] if others else [])]
    return "\n\n".join(blocks) + "\n"


def csv_text(grid: Grid) -> str:
    """Render one line per cell in full precision; undefined numbers are empty.

    Values are in the order of the column ``seeds``, which is separated by blanks ("?": unknown).
    """
    most = max((len(cell.values) for row in grid.cells for cell in row), default=0)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*CSV_HEADS, *(f"value_{k + 1}" for k in range(most))])
    for method, row in zip(grid.methods, grid.cells, strict=True):
        seeds = " ".join("?" if seed is None else f"{seed}" for seed in method.seeds)
        for column, cell in zip(grid.columns, row, strict=True):
            numbers = ["" if math.isnan(v) else repr(v) for v in (cell.mean, cell.deviation)]
            values = ["" if math.isnan(v) else repr(v) for v in cell.values]
            writer.writerow(
                [method.name, method.recursion, method.score, column.dataset, column.split]
                + [column.metric.key, "larger" if column.metric.larger_is_better else "smaller"]
                + [*numbers, cell.n, "best" if cell.best else "tie" if cell.tied else "", seeds]
                + values
                + [""] * (most - len(values))
            )
    return text.getvalue()


# Quotation marks are not escaped: straight ones would need another font encoding.
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    # At the start of a row they would be parsed as arguments of the preceding row end.
    "[": "{[}",
    "*": "{*}",
    "±": r"$\pm$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
}


def latex_escaped(name: str) -> str:
    r"""Escape text for LaTeX.

    Examples:
        >>> print(latex_escaped("sviro_uncertainty & 5 %"))
        sviro\_uncertainty \& 5 \%
    """
    escaped = "".join(_LATEX.get(character, character) for character in " ".join(name.split()))
    for name, symbol in ((r"D\_in", r"$D_{\mathrm{in}}$"), (r"D\_out", r"$D_{\mathrm{out}}$")):
        escaped = re.sub(rf"\b{re.escape(name)}\b", lambda _, symbol=symbol: symbol, escaped)
    return escaped.replace("--", "-{}-")  # two hyphens would become a dash


def latex(grid: Grid, label: str, *, by_dataset: bool = False) -> str:
    """Render a ``table*`` for a document that loads booktabs.

    By default there is one row per method, with data sets side by side; with ``by_dataset`` there
    is one row per data set and method. ``label`` is the LaTeX label.
    """
    parts: list[tuple[list[tuple[str, int]], list[tuple[str, Metric]]]] = []
    if by_dataset:
        for shown in _chunks(grid.metrics, METRICS_ON_A_PAGE):
            groups = [(g, len(list(m))) for g, m in groupby(shown, lambda metric: metric.group)]
            heads = groups if any(group for group, _ in groups) else []
            parts.append((heads, [("", metric) for metric in shown]))
    else:
        for i in range(0, len(grid.labels), SETS_ON_A_PAGE):
            names = grid.labels[i : i + SETS_ON_A_PAGE]
            columns = [(name, metric) for name in names for metric in grid.metrics]
            parts.append(([(name, len(grid.metrics)) for name in names], columns))
    width = max((len(columns) for _, columns in parts), default=0)
    body: list[str] = []
    for groups, columns in parts:
        body.append(r"\midrule[\heavyrulewidth]" if body else r"\toprule")
        if groups:
            names = [(latex_escaped(group), n) for group, n in groups]
            spans = [rf"\multicolumn{{{n}}}{{c}}{{{s}}}" if n > 1 else s for s, n in names]
            body.append(_latex_row(["", *spans], width - len(columns)))
            ends = [2 + sum(n for _, n in groups[:k]) for k in range(len(groups) + 1)]
            rules = [
                rf"\cmidrule(lr){{{ends[k]}-{ends[k + 1] - 1}}}"
                for k, (group, _) in enumerate(groups)
                if group
            ]
            body.append(" ".join(rules))
        heads = ["", *(latex_escaped(metric.head) for _, metric in columns)]
        body.append(_latex_row(heads, width - len(columns)))
        for name in grid.labels if by_dataset else ("",):
            body.append(r"\midrule")
            if by_dataset:
                spanned = rf"\emph{{{latex_escaped(name)}}}"
                body.append(rf"\multicolumn{{{width + 1}}}{{l}}{{{spanned}}} \\")
            for method in grid.methods:
                cells = [grid.cell(method.name, of or name, metric.key) for of, metric in columns]
                shown = map(_latex_cell, cells, (metric for _, metric in columns))
                head = (r"\quad " if by_dataset else "") + latex_escaped(method.name)
                body.append(_latex_row([head, *shown], width - len(columns)))
    marks = "Bold: best; underlined: mean ± deviation overlaps that of the best."
    caption = " ".join([f"{grid.title}.", *_notes(grid, marks)])
    lines = [
        r"% With \usepackage{booktabs} in the preamble: \input this file.",
        r"\begin{table*}[t]",
        r"  \centering",
        rf"  \caption{{{latex_escaped(caption)}}}",
        rf"  \label{{{re.sub(r'[^A-Za-z0-9:.-]+', '-', label)}}}",
        r"  \smallskip",
        r"  \footnotesize",
        r"  \setlength{\tabcolsep}{2.5pt}",
        # So that an underline does not touch the number below it.
        r"  \renewcommand{\arraystretch}{1.15}",
    ]
    if body:
        lines += [
            rf"  \begin{{tabular}}{{@{{}}l*{{{width}}}{{c}}@{{}}}}",
            *(f"    {line}" for line in body),
            r"    \bottomrule",
            r"  \end{tabular}",
        ]
    else:
        lines.append(f"  {_NOTHING}")
    lines.append(r"  \par")
    for line in grid.significance_lines():
        lines.append(rf"  {{\raggedright\vspace{{3pt}}\noindent {latex_escaped(line)}\par}}")
    return "\n".join([*lines, r"\end{table*}", ""])


def _latex_row(cells: Sequence[str], spare: int) -> str:
    """Return one line of a tabular, with ``spare`` empty cells at the end."""
    return " & ".join([*cells, *[""] * spare]).rstrip() + r" \\"


def _latex_cell(cell: Cell, metric: Metric) -> str:
    shown = cell.text(metric, r"\pm")
    if not shown:
        return ""
    if cell.best:
        return rf"$\mathbf{{{shown}}}$"
    return rf"\underline{{${shown}$}}" if cell.tied else f"${shown}$"
