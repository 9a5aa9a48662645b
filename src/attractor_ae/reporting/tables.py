"""Tables for the terminal."""

from typing import Any

from rich.table import Table

from attractor_ae.experiment.result import EvaluationResult
from attractor_ae.metrics import Grid
from attractor_ae.reporting.comparison import Orientation


def detection_table(
    result: EvaluationResult, *, grid: Grid = "exact", orientation: Orientation = "in"
) -> Table:
    """Return AUROC, AUPR and FPR95 of each D_out at the reported recursion, in percent.

    Parameters
    ----------
    result
        What to show.
    grid
        Thresholds that the curves are computed on.
    orientation
        Positive class of AUPR and FPR95: ``"in"``, D_in, or ``"out"``, D_out.
    """
    metrics = result.metrics(grid=grid)
    rates = ("auroc", f"aupr_{orientation}", f"fpr95_{orientation}")
    positive = {"in": "D_in", "out": "D_out"}[orientation]
    known = result.in_scores
    table = _table(
        title=f"{result.method} on {known.name}, recursion {result.recursion}, "
        f"score {result.score} (percent; {positive} is the positive class)",
        caption=f"accuracy on {known.name} ({known.split}, {len(known.labels)} images): "
        f"{100 * metrics['accuracy']:.1f}",
        caption_justify="left",
    )
    table.add_column("data set", overflow="fold")
    table.add_column("role")
    for heading in ("images", "AUROC", "AUPR", "FPR95", "mean score", "accuracy"):
        table.add_column(heading, justify="right")
    table.add_row(
        known.name,
        "known",
        f"{len(known.labels)}",
        *("", "", ""),
        f"{100 * metrics['mean_uncertainty']:.1f}",
        f"{100 * metrics['accuracy']:.1f}",
    )
    for role in ("shift", "out"):
        for name, row in metrics[role].items():
            table.add_row(
                name,
                {"shift": "shift of the known", "out": "unknown"}[role],
                f"{row['n_out']}",
                *(f"{100 * row[key]:.1f}" for key in rates),
                f"{100 * row['mean_uncertainty']:.1f}",
                f"{100 * row['accuracy']:.1f}" if "accuracy" in row else "",
            )
    return table


def recursion_table(result: EvaluationResult, *, grid: Grid = "exact") -> Table:
    """Return accuracy on D_in and AUROC of each D_out at every recursion, in percent."""
    table = _table(title="every recursion (AUROC; percent)")
    table.add_column("recursion", justify="right")
    table.add_column(f"accuracy on {result.in_scores.name}", justify="right")
    for scores in result.out_scores:
        table.add_column(scores.name, justify="right")
    for r in range(result.recursions):
        metrics = result.metrics(r, grid=grid)
        table.add_row(
            f"{r}",
            f"{100 * metrics['accuracy']:.1f}",
            *(f"{100 * row['auroc']:.1f}" for row in metrics["out"].values()),
            style="bold" if r == result.recursion else None,
        )
    return table


def score_table(result: EvaluationResult) -> Table:
    """Return AUROC / FPR95 of each D_out for every score, at the reported recursion, in percent.

    FPR95 is the share of D_out that is accepted where 95 % of D_in is.
    """
    table = _table(title=f"every score, recursion {result.recursion} (AUROC/FPR95, percent)")
    table.add_column("score", overflow="fold")
    for scores in result.out_scores:
        table.add_column(scores.name, justify="right")
    table.add_column("mean", justify="right")
    for name in result.score_names:
        found = list(result.detection(name).values())
        rows = [(100 * rates.auroc, 100 * rates.fpr95_in) for rates in found]
        rows.append((sum(a for a, _ in rows) / len(rows), sum(f for _, f in rows) / len(rows)))
        table.add_row(
            name,
            *(f"{auroc:.1f}/{fpr95:.1f}" for auroc, fpr95 in rows),
            style="bold" if name == result.score else None,
        )
    return table


def _table(**options: Any) -> Table:  # noqa: ANN401
    # Without a frame three D_outs beside each other fit into the 80 columns of a terminal.
    return Table(title_justify="left", show_edge=False, pad_edge=False, **options)
