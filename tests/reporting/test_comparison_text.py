"""What the formats say, read back by a LaTeX compiler, a Markdown parser, and the csv module."""

import csv
import io
import math
import re
import shutil
import subprocess
from functools import partial

import numpy as np
import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from attractor_ae._errors import AttractorError
from attractor_ae.reporting.comparison import ACCURACY_METRICS, DETECTION_METRICS, Comparison
from attractor_ae.reporting.grid import Column, ComparedMethod, make_grid
from attractor_ae.reporting.renderers import csv_text, latex, latex_escaped, markdown, terminal

latex_by_method, latex_by_dataset = latex, partial(latex, by_dataset=True)

NASTY = r"[a_b] & 5% #1 $x$ {y} ~^\end <z>|'\"` -- *s* D_in"


def table_of(methods, labels, metrics, *, seeds=10, significance=True, title="Detection"):
    """Random numbers; the last method is a single result that was not measured everywhere."""
    rng = np.random.default_rng(0)
    columns = [Column(name, "test", name, metric) for name in labels for metric in metrics]
    values = []
    for i in range(len(methods)):
        count = seeds if i < len(methods) - 1 else 1
        measured = [i < len(methods) - 1 or k % 2 == 0 for k in range(len(labels))]
        values.append(
            [
                rng.uniform(0.5, 1, count).tolist() if there else []
                for there in measured
                for _ in metrics
            ]
        )
    compared = [
        ComparedMethod(name, tuple(range(seeds if i < len(methods) - 1 else 1)), 2, "entropy")
        for i, name in enumerate(methods)
    ]
    return make_grid(
        title, compared, columns, values, notes=("Percent.",), significance=significance
    )


METHODS = ("MC-AE", "MC dropout", "deep ensemble")
OUTS = ("svhn", "places365", "cifar10", "lsun", "gtsrb", "sviro_tesla")


@pytest.fixture(scope="module")
def detection():
    return table_of(METHODS, OUTS, DETECTION_METRICS)


@pytest.fixture(scope="module")
def accuracy():
    return table_of(METHODS, ("test-adults", "test-seats"), ACCURACY_METRICS, title="Accuracy")


@pytest.fixture(scope="module")
def nasty():
    return table_of((NASTY, "* b", "c"), (NASTY, "[d]", "*"), DETECTION_METRICS, title=NASTY)


@pytest.fixture(scope="module")
def small():
    """Numbers for which every mark is known: m0 is a tie of m1, m2 is neither."""
    return make_grid(
        "Small",
        [ComparedMethod(f"m{i}", (0, 1), 0, "entropy") for i in range(3)],
        [Column("svhn", "test", "svhn", metric) for metric in DETECTION_METRICS[:1]],
        [[[0.981, 0.987]], [[0.9846, 0.9866]], [[0.5]]],
    )


# ---- LaTeX -------------------------------------------------------------------------------------


def tabular_rows(text):
    """The rows of the tabular, as numbers of columns, after a check that braces are balanced."""
    depth = 0
    for character in re.sub(r"\\[{}\\]", "", text):
        depth += (character == "{") - (character == "}")
        assert depth >= 0
    assert depth == 0
    body = re.search(
        r"\\begin\{tabular\}\{@\{\}l\*\{(\d+)\}\{c\}@\{\}\}(.*)\\end\{tabular\}", text, re.DOTALL
    )
    assert body
    widths = []
    for line in body[2].strip().splitlines():
        if not line.strip().startswith((r"\toprule", r"\midrule", r"\cmidrule", r"\bottomrule")):
            assert line.endswith(r"\\")
            cells = re.split(r"(?<!\\)&", line)
            spans = [re.match(r"\s*\\multicolumn\{(\d+)\}", cell) for cell in cells]
            widths.append(sum(int(span[1]) if span else 1 for span in spans))
    return int(body[1]), widths


@pytest.mark.parametrize("layout", [latex_by_method, latex_by_dataset])
@pytest.mark.parametrize("name", ["detection", "accuracy", "nasty", "small"])
def test_every_row_of_latex_has_all_columns(layout, name, request):
    columns, widths = tabular_rows(layout(request.getfixturevalue(name), "tab:a"))
    assert widths
    assert set(widths) == {columns + 1}


def compiled(tables, folder):
    """What the compiler says of a document that loads booktabs, with one table a page."""
    # The width of two columns of the IEEE's class: that of the paper.
    (folder / "main.tex").write_text(
        r"\documentclass[twocolumn]{article}\usepackage{booktabs}\setlength{\textwidth}{516pt}"
        r"\begin{document}" + "\n\\clearpage\n".join(tables) + r"\end{document}",
        encoding="utf-8",
    )
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "main.tex"],
        cwd=folder,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert f"({len(tables)} page" in done.stdout
    return done.stdout


needs_latex = pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs pdflatex")


@needs_latex
def test_latex_compiles_as_it_is_and_fits_the_page(detection, accuracy, tmp_path):
    tables = [latex_by_method(detection, "tab:a"), latex_by_dataset(accuracy, "tab:b")]
    said = compiled(tables, tmp_path)
    assert "Overfull" not in said
    assert "undefined" not in said


@needs_latex
def test_latex_compiles_whatever_the_names_are(nasty, small, tmp_path):
    nothing = table_of(METHODS, (), DETECTION_METRICS)
    tables = [
        layout(table, f"tab:{i}_{k}")
        for i, table in enumerate((nasty, small, nothing))
        for k, layout in enumerate((latex_by_method, latex_by_dataset))
    ]
    assert "undefined" not in compiled(tables, tmp_path)


def test_a_latex_row_by_hand(small):
    # 0.981, 0.987: 98.4 and 0.3; 0.9846, 0.9866: 98.56 and 0.1; a single value has no deviation
    assert latex_by_method(small, "tab:mnist-x_y z").splitlines() == [
        r"% With \usepackage{booktabs} in the preamble: \input this file.",
        r"\begin{table*}[t]",
        r"  \centering",
        r"  \caption{Small. Bold: best; underlined: mean $\pm$ deviation overlaps "
        r"that of the best.}",
        r"  \label{tab:mnist-x-y-z}",
        r"  \smallskip",
        r"  \footnotesize",
        r"  \setlength{\tabcolsep}{2.5pt}",
        r"  \renewcommand{\arraystretch}{1.15}",
        r"  \begin{tabular}{@{}l*{1}{c}@{}}",
        r"    \toprule",
        r"     & svhn \\",
        r"    \cmidrule(lr){2-2}",
        r"     & AUROC $\uparrow$ \\",
        r"    \midrule",
        r"    m0 & \underline{$98.4 \pm 0.3$} \\",
        r"    m1 & $\mathbf{98.6 \pm 0.1}$ \\",
        r"    m2 & $50.0$ \\",
        r"    \bottomrule",
        r"  \end{tabular}",
        r"  \par",
        r"\end{table*}",
    ]


def test_data_sets_stand_beside_each_other_under_spanning_heads(detection):
    text = latex_by_method(detection, "tab:a")
    heads = re.findall(r"\\multicolumn\{3\}\{c\}\{([^}]*)\}", text)
    assert heads == ["svhn", "places365", "cifar10", "lsun", "gtsrb", r"sviro\_tesla"]
    assert text.count(r"\cmidrule(lr){2-4} \cmidrule(lr){5-7} \cmidrule(lr){8-10}") == 2
    lines = [line.strip() for line in text.splitlines()]
    last = [line for line in lines if line.startswith("deep ensemble")]
    # Measured on every other set; what is missing is empty.
    assert [len(re.findall(r"\$[^$]+\$", line)) for line in last] == [6, 3]


def test_names_are_escaped():
    assert latex_escaped("sviro_uncertainty") == r"sviro\_uncertainty"
    assert latex_escaped("50%\n& #1") == r"50\% \& \#1"
    assert latex_escaped(r"\input{x}") == r"\textbackslash{}input\{x\}"
    assert latex_escaped("a--b") == "a-{}-b"
    # At the head of a row a bracket or a star would belong to the line break before it.
    assert latex_escaped("[a] *") == "{[}a] {*}"
    assert latex_escaped("D_in, D_outs") == r"$D_{\mathrm{in}}$, D\_outs"


# ---- Markdown ----------------------------------------------------------------------------------


def markdown_tables(text):
    """The tables as an independent parser reads them: rows of cells of (text, mark)."""
    tables, cell = [], None
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type == "table_open":
            tables.append([])
        elif token.type == "tr_open":
            tables[-1].append([])
        elif token.type in ("td_open", "th_open"):
            cell = True
        elif token.type == "inline" and cell:
            children = token.children or []
            words = "".join(child.content for child in children)
            kinds = {child.type for child in children}
            mark = "best" if "strong_open" in kinds else "tie" if "em_open" in kinds else ""
            tables[-1][-1].append((words, mark))
            cell = None
    return tables


@pytest.mark.parametrize("name", ["detection", "accuracy", "nasty", "small"])
def test_markdown_is_read_back_by_a_parser(name, request):
    table = request.getfixturevalue(name)
    found = markdown_tables(markdown(table))
    heads = [head for rows in found for head, _ in rows[0] if head not in ("data set", "method")]
    arrows = {True: "↑", False: "↓"}
    assert heads == [f"{m.title} {arrows[m.larger_is_better]}" for m in table.metrics]
    keys = iter(table.metrics)
    for rows in found:
        shown = [next(keys) for _ in rows[0][2:]]
        names = [(name, method.name) for name in table.labels for method in table.methods]
        for (label, method), row in zip(names, rows[1:], strict=True):
            assert [text for text, _ in row[:2]] == [label, method]
            cells = [table.cell(method, label, metric.key) for metric in shown]
            texts = [cell.text(metric) for cell, metric in zip(cells, shown, strict=True)]
            assert [text for text, _ in row[2:]] == texts
            marks = ["best" if c.best else "tie" if c.tied else "" for c in cells]
            assert [mark for _, mark in row[2:]] == marks


def test_markdown_by_hand(small):
    assert markdown(small) == (
        "**Small**\n\n"
        "| data set | method | AUROC ↑ |\n"
        "| --- | --- | ---: |\n"
        "| svhn | m0 | *98.4 ± 0.3* |\n"
        "| svhn | m1 | **98.6 ± 0.1** |\n"
        "| svhn | m2 | 50.0 |\n\n"
        "Bold: best; italic: mean ± deviation overlaps that of the best.\n"
    )


# ---- CSV ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["detection", "accuracy", "nasty"])
def test_csv_has_every_value_in_full(name, request):
    table = request.getfixturevalue(name)
    rows = list(csv.DictReader(io.StringIO(csv_text(table))))
    assert len(rows) == len(table.methods) * len(table.columns)
    for row in rows:
        cell = table.cell(row["method"], row["dataset"], row["metric"])
        values = [float(row[f"value_{k + 1}"] or "nan") for k in range(10)]
        assert tuple(v for v in values if not math.isnan(v)) == cell.values
        numbers = [float(row[key] or "nan") for key in ("mean", "standard_deviation")]
        assert numbers == pytest.approx([cell.mean, cell.deviation], rel=0, abs=0, nan_ok=True)
        assert int(row["n"]) == cell.n
        assert row["mark"] == ("best" if cell.best else "tie" if cell.tied else "")
        seeds = next(m.seeds for m in table.methods if m.name == row["method"])
        assert row["seeds"].split() == [str(seed) for seed in seeds]
        assert (row["better"] == "smaller") == ("fpr" in row["metric"] or "error" in row["metric"])


# ---- terminal ----------------------------------------------------------------------------------


def printed(renderable, width=80):
    console = Console(width=width, file=io.StringIO())
    console.print(renderable)
    return console.file.getvalue()


@pytest.mark.parametrize("name", ["detection", "accuracy", "nasty"])
def test_eighty_columns_show_every_number(name, request):
    table = request.getfixturevalue(name)
    text = printed(terminal(table))
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    shown = re.findall(r"(?<=[ *=])\d+\.\d(?: ± \d+\.\d)?(?= │| *$)", text, re.M)
    expected = [
        table.cell(method.name, label, metric.key).text(metric)
        for label in table.labels
        for method in table.methods
        for metric in table.metrics
    ]
    assert sorted(shown) == sorted(filter(None, expected))


def test_terminal_marks_need_no_colour(small):
    rows = [
        line for line in printed(terminal(small)).splitlines() if "│ m" in line or "│  " in line
    ]
    assert [re.sub(r"[│ ]+", " ", row).strip() for row in rows] == [
        "svhn m0 = 98.4 ± 0.3",
        "m1 * 98.6 ± 0.1",
        "m2 50.0",
    ]


# ---- what is said below ------------------------------------------------------------------------


def test_tests_and_pairs_too_few_are_told_in_every_format(detection):
    texts = [latex_by_method(detection, "a"), markdown(detection), printed(terminal(detection))]
    (test,) = (
        t
        for t in detection.tests
        if (t.column.label, t.column.metric.key, t.pairs) == ("places365", "auroc", 10)
    )
    for text in texts:
        flat = " ".join(text.split())
        assert "Wilcoxon" in flat
        assert f"{test.best} against {test.other} (10 pairs): AUROC {test.p_value:.2g}" in flat
        assert "fewer than 6 pairs" in flat
        assert re.search(r"deep ensemble (and MC dropout )?\(1\)", flat)


def test_too_few_seeds_everywhere_are_told_once():
    table = table_of(("a", "b"), ("svhn", "lsun", "faces"), DETECTION_METRICS, seeds=3)
    text = printed(terminal(table))
    assert "p-values" not in text
    assert text.count("fewer than 6 pairs") == 1


def test_nothing_measured_is_said():
    nothing = table_of(METHODS, (), DETECTION_METRICS)
    for text in (
        latex_by_method(nothing, "a"),
        latex_by_dataset(nothing, "a"),
        markdown(nothing),
        printed(terminal(nothing)),
    ):
        assert "Nothing was measured." in text
    assert len(csv_text(nothing).splitlines()) == 1


# ---- files -------------------------------------------------------------------------------------


def test_files_hold_what_the_methods_return(detection, accuracy, small, tmp_path):
    comparison = Comparison("sviro_uncertainty", detection, accuracy, small)
    paths = comparison.save(tmp_path / "new")
    label = "tab:sviro_uncertainty"
    assert {path.name: path.read_text(encoding="utf-8") for path in paths} == {
        "table.tex": latex(detection, f"{label}-detection"),
        "table.md": markdown(detection),
        "table.csv": csv_text(detection),
        "accuracy_table.tex": latex(accuracy, f"{label}-accuracy", by_dataset=True),
        "accuracy_table.md": markdown(accuracy),
        "accuracy_table.csv": csv_text(accuracy),
        "wasserstein_table.tex": latex(small, f"{label}-wasserstein"),
        "wasserstein_table.md": markdown(small),
        "wasserstein_table.csv": csv_text(small),
    }
    assert {path.name for path in (tmp_path / "new").iterdir()} == {path.name for path in paths}
    assert r"\label{tab:sviro-uncertainty-accuracy}" in paths[3].read_text(encoding="utf-8")
    text = printed(comparison.terminal())
    assert "Detection" in text
    assert "Accuracy" in text
    assert "Small" in text
    (tmp_path / "file").write_text("")
    with pytest.raises(AttractorError, match="cannot be written"):
        comparison.save(tmp_path / "file")
