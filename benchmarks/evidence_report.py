"""Make tables and a figure of what `evidence.py` has measured.

    python benchmarks/evidence_report.py build/evidence

Tables are printed as Markdown: mean and standard deviation (population) over the seeds, in percent.
The figure, mean and range over the seeds, goes beside the files: `evidence.png` and `.pdf`.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from attractor_ae.reporting import save_figure
from attractor_ae.reporting.style import COLUMN_WIDTH, IN_COLOUR, OUT_COLOURS, OUT_DASHES, styled

OUTS = ("faces", "textures", "photos", "other")
SHOWN = ("fused", "entropy", "structural_displacement", "step", "neighbours", "feature_norm")

Group = tuple[str, str, int]
"""Recipe, D_in, epochs."""


def cell(values: list[float]) -> str:
    """Return mean and deviation in percent."""
    if len(values) == 1:
        return f"{100 * values[0]:.1f}"
    return f"{100 * np.mean(values):.1f} ± {100 * np.std(values):.1f}"


def picked(run: dict, key: str, score: str, recursion: int) -> dict[str, float]:
    """Return AUROC or FPR95 of each D_out."""
    return {
        row["out"]: row[key]
        for row in run["rows"]
        if row["score"] == score and row["recursion"] == recursion
    }


def mean_of(run: dict, key: str, score: str, recursion: int) -> float:
    """Return the mean over the D_outs."""
    return float(np.mean(list(picked(run, key, score, recursion).values())))


def recipe_table(groups: dict[Group, list[dict]]) -> None:
    """Print what each recipe reaches with the score and recursion that it reports."""
    heads = [
        "recipe",
        "D_in",
        "seeds",
        "epochs",
        "training, s",
        "accuracy",
        "at its worst recursion",
    ]
    heads += [f"AUROC {out}" for out in OUTS] + ["mean AUROC", "mean FPR95", "known flagged at 5 %"]
    print("|", " | ".join(heads), "|")
    print("|" + "---|" * len(heads))
    for (recipe, name, epochs), runs in groups.items():
        score, r = runs[0]["reported"], runs[0]["recursion"]
        seconds = np.mean([run["training_seconds_one_thread"] for run in runs])
        cells = [f"`{recipe}` ({score})", name, f"{len(runs)}", f"{epochs}", f"{seconds:.0f}"]
        cells.append(cell([run["accuracy"][r] for run in runs]))
        cells.append(cell([min(run["accuracy"]) for run in runs]))
        found = [picked(run, "auroc", score, r) for run in runs]
        cells += [cell([of[out] for of in found]) for out in OUTS]
        cells += [cell([mean_of(run, key, score, r) for run in runs]) for key in ("auroc", "fpr95")]
        flagged = [run["known_flagged"]["0.05"] for run in runs if run["known_flagged"]]
        cells.append(cell(flagged) if flagged else "")
        print("|", " | ".join(cells), "|")


def score_table(groups: dict[Group, list[dict]]) -> None:
    """Print mean AUROC and FPR95 of every score at every recursion."""
    for (recipe, name, epochs), runs in groups.items():
        names = list(dict.fromkeys(row["score"] for row in runs[0]["rows"]))
        recursions = range(len(runs[0]["accuracy"]))
        print(f"\n`{recipe}`, D_in {name}, {epochs} epochs: mean AUROC / FPR95 over the D_outs\n")
        print("| score |", " | ".join(f"recursion {r}" for r in recursions), "|")
        print("|---|" + "---|" * len(recursions))
        for score in names:
            cells = []
            for r in recursions:
                auroc, fpr95 = (
                    100 * np.mean([mean_of(run, key, score, r) for run in runs])
                    for key in ("auroc", "fpr95")
                )
                cells.append(f"{auroc:.1f} / {fpr95:.1f}")
            print(f"| {score} |", " | ".join(cells), "|")
        accuracies = [cell([run["accuracy"][r] for run in runs]) for r in recursions]
        print("| *accuracy* |", " | ".join(accuracies), "|")


def draw(axes: Axes, of_each: list[list[float]], **look: Any) -> None:  # noqa: ANN401
    """Draw the mean of several curves over the recursions, and their range."""
    recursions = range(len(of_each[0]))
    axes.plot(recursions, np.mean(of_each, 0), marker="o", markersize=3, **look)
    low, high = np.min(of_each, 0), np.max(of_each, 0)
    axes.fill_between(recursions, low, high, color=look["color"], alpha=0.15, linewidth=0)


def figure_of(groups: dict[Group, list[dict]]) -> Figure:
    """Draw mean AUROC of the scores, and the accuracy, over the recursions."""
    with styled():
        figure = Figure(
            figsize=(2 * COLUMN_WIDTH, 2.5 * -(-len(groups) // 2)), layout="constrained"
        )
        panels = figure.subplots(-(-len(groups) // 2), 2, sharey=True, squeeze=False).flatten()
        for axes, ((recipe, name, epochs), runs) in zip(panels, groups.items(), strict=False):
            recursions = range(len(runs[0]["accuracy"]))

            known = {row["score"] for row in runs[0]["rows"]}
            for i, score in enumerate(s for s in SHOWN if s in known):
                draw(
                    axes,
                    [[mean_of(run, "auroc", score, r) for r in recursions] for run in runs],
                    color=OUT_COLOURS[i % len(OUT_COLOURS)],
                    linestyle=OUT_DASHES[i % len(OUT_DASHES)],
                    label=f"AUROC, {score}",
                )
            accuracies = [run["accuracy"] for run in runs]
            draw(axes, accuracies, color=IN_COLOUR, linewidth=2, label="accuracy")
            axes.set(title=f"{recipe}, {name}, {epochs} epochs", xlabel="recursion", ylim=(0.5, 1))
            axes.grid(alpha=0.3)
        panels[0].set_ylabel("mean AUROC, or accuracy")
        for axes in panels[len(groups) :]:
            axes.remove()
        handles = {}
        for axes in panels[: len(groups)]:
            handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)
    return figure


def main() -> None:
    """Print the tables and write the figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    groups: dict[Group, list[dict]] = defaultdict(list)
    for path in sorted(folder.glob("*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        groups[run["recipe"], run["in_dataset"], run["epochs"]].append(run)
    recipe_table(groups)
    score_table(groups)
    save_figure(figure_of(groups), folder / "evidence")


if __name__ == "__main__":
    main()
