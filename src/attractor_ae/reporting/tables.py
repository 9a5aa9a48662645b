"""Terminal tables of one evaluation."""

import math
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from attractor_ae.experiment.result import DatasetScores, EvaluationResult
from attractor_ae.metrics import Orientation, Thresholds


def detection_table(
    result: EvaluationResult, *, grid: Thresholds = "exact", orientation: Orientation = "in"
) -> Table:
    """Return AUROC, AUPR and FPR95 of each D_out at the reported recursion, in percent.

    ``orientation`` is the positive class of AUPR and FPR95: ``"in"``, D_in, or ``"out"``, D_out.
    """
    r, known = result.recursion, result.in_scores
    positive = {"in": "D_in", "out": "D_out"}[orientation]
    accuracy, images = _percent(result.accuracy()), f"{len(known.labels)}"
    rows = [[known.name, "known", images, "", "", "", _mean(result, known), accuracy]]
    names = ("auroc", f"aupr_{orientation}", f"fpr95_{orientation}")
    for scores in (*result.covariate_shift_scores, *result.out_scores):
        rates = result.rates(scores.name, grid=grid)
        shifted = scores.role == "covariate_shift"
        rows.append(
            [
                scores.name,
                "covariate shift" if shifted else "unknown",
                f"{rates.n_out}",
                *(f"{100 * getattr(rates, name):.1f}" for name in names),
                _mean(result, scores),
                _percent(result.accuracy(scores.name)) if shifted else "",
            ]
        )
    heads = ["data set", "role", "images", "AUROC", "AUPR", "FPR95", "mean score", "accuracy"]
    title = f"{result.method} on {known.name}, recursion {r}, score {result.score} "
    how = "percent; " if grid == "exact" else "percent; paper grid; "
    table = _table(f"{title}({how}{positive} is the positive class)", heads, rows, left=2)
    table.caption_justify = "left"
    labelled = len(known.labelled.labels)
    counted = f"{labelled} of {images} images have a label" if labelled < len(known.labels) else ""
    caption = f"accuracy on {known.name} ({known.split}, {counted or f'{images} images'}): "
    table.caption = Text(caption + (accuracy or "none"))
    return table


def recursion_table(result: EvaluationResult, *, grid: Thresholds = "exact") -> Table:
    """Return accuracy on D_in and AUROC of each D_out at every recursion, in percent."""
    outs = [scores.name for scores in result.out_scores]
    rows = [
        [
            f"{r}",
            _percent(result.accuracy(None, r)),
            *(f"{100 * result.rates(name, None, r, grid).auroc:.1f}" for name in outs),
        ]
        for r in range(result.recursions)
    ]
    heads = ["recursion", f"accuracy on {result.in_scores.name}", *outs]
    title = f"every recursion (AUROC; percent{'' if grid == 'exact' else '; paper grid'})"
    return _table(title, heads, rows, left=0, bold=result.recursion)


def score_table(result: EvaluationResult) -> Table:
    """Return AUROC / FPR95 of each D_out for every score, at the reported recursion, in percent.

    FPR95 is the fraction of D_out that is accepted if 95 % of D_in is accepted.
    """
    outs = [scores.name for scores in result.out_scores]
    rows = []
    for name in result.score_names:
        found = [result.rates(out, name) for out in outs]
        pairs = [(100 * rates.auroc, 100 * rates.fpr95_in) for rates in found]
        pairs.append((sum(a for a, _ in pairs) / len(pairs), sum(f for _, f in pairs) / len(pairs)))
        rows.append([name, *(f"{auroc:.1f}/{fpr95:.1f}" for auroc, fpr95 in pairs)])
    title = f"every score, recursion {result.recursion} (AUROC/FPR95, percent)"
    bold = result.score_names.index(result.score)
    return _table(title, ["score", *outs, "mean"], rows, left=1, bold=bold)


def _percent(rate: float) -> str:
    return "" if math.isnan(rate) else f"{100 * rate:.1f}"


def _mean(result: EvaluationResult, scores: DatasetScores) -> str:
    return f"{100 * scores.score(result.recursion, result.score).mean():.1f}"


def _table(
    title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], *, left: int, bold: int = -1
) -> Table:
    # Without a frame, three D_outs fit into a terminal of 80 columns.
    # Text, so that square brackets in names are not read as markup.
    table = Table(title=Text(title), title_justify="left", show_edge=False, pad_edge=False)
    for i, head in enumerate(heads):
        justify = "left" if i < left else "right"
        table.add_column(Text(head), justify=justify, overflow="ellipsis" if i else "fold")
    for i, row in enumerate(rows):
        table.add_row(*map(Text, row), style="bold" if i == bold else None)
    return table
