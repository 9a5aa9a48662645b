"""Make tables and figures of what `evidence.py` has measured.

    python benchmarks/evidence_report.py build/evidence --recipes default paper --epochs 30 300

Tables are printed as Markdown: mean and standard deviation (population) over the seeds, in percent.
The figures, mean and range over the seeds, go beside the files: `time.png`, what each recipe
reaches against its training time; `recursions.png`, each score at each recursion; and
`scores-RECIPE.png`, each score against the training time; all as `.pdf` too. Score by score are
shown the recipes and numbers of epochs that are named, by default all.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from attractor_ae._files import file_name
from attractor_ae.reporting import save_figure
from attractor_ae.reporting.style import COLUMN_WIDTH, IN_COLOUR, look, styled

SHOWN = ("ood_score", "entropy", "ssim_distance", "step", "knn_distance", "feature_norm")

Group = tuple[str, str, int]
"""Recipe, D_in, epochs; groups of runs are kept in this order."""


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


def short(recipe: str) -> str:
    """Return a recipe without the sections of its settings, for a figure."""
    name, *settings = recipe.split(":")
    return ", ".join([name, *(setting.partition(".")[2] for setting in settings)])


def seconds_of_trainings(groups: dict[Group, list[dict]]) -> dict[Group, float]:
    """Return the seconds of one core that a training takes undisturbed.

    Other work on the machine slows trainings down by up to the double, so the time of an epoch is
    that of the recipe's fastest run.
    """
    epoch: dict[str, float] = {}
    for (recipe, _, epochs), runs in groups.items():
        fastest = min(run["training_seconds_one_thread"] for run in runs) / epochs
        epoch[recipe] = min(epoch.get(recipe, fastest), fastest)
    return {group: group[2] * epoch[group[0]] for group in groups}


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
    heads += ["mean AUROC", "worst AUROC", "mean FPR95", "known flagged at 5 %", "R²"]
    print("|", " | ".join(heads), "|")
    print("|" + "---|" * len(heads))
    seconds = seconds_of_trainings(groups)
    for group, runs in groups.items():
        recipe, name, epochs = group
        score, r = runs[0]["reported"], runs[0]["recursion"]
        cells = [f"`{recipe}` ({score})", name, f"{len(runs)}", f"{epochs}"]
        cells.append(f"{seconds[group]:.0f}")
        cells.append(cell([run["accuracy"][r] for run in runs]))
        cells.append(cell([min(run["accuracy"]) for run in runs]))
        aurocs = [list(picked(run, "auroc", score, r).values()) for run in runs]
        cells += [cell([float(np.mean(of)) for of in aurocs]), cell([min(of) for of in aurocs])]
        cells.append(cell([mean_of(run, "fpr95", score, r) for run in runs]))
        flagged = [run["known_flagged"]["0.05"] for run in runs if run["known_flagged"]]
        cells.append(cell(flagged) if flagged else "")
        cells.append(cell([run["self_check"]["r2"] for run in runs]))
        print("|", " | ".join(cells), "|")


def score_table(groups: dict[Group, list[dict]]) -> None:
    """Print mean and worst AUROC of every score at the reported recursion, a column per D_in."""
    for recipe in dict.fromkeys(recipe for recipe, _, _ in groups):
        columns = {g: runs for g, runs in groups.items() if g[0] == recipe}
        names = list(
            dict.fromkeys(row["score"] for runs in columns.values() for row in runs[0]["rows"])
        )
        print(f"\n`{recipe}`: mean / worst AUROC over the D_outs, by D_in and epochs\n")
        print("| score |", " | ".join(f"{name}, {epochs}" for _, name, epochs in columns), "|")
        print("|---|" + "---|" * len(columns))
        for score in names:
            cells = []
            for runs in columns.values():
                found = [
                    list(picked(run, "auroc", score, run["recursion"]).values()) for run in runs
                ]
                mean, worst = (np.mean([of(a) for a in found]) for of in (np.mean, np.min))
                cells.append(f"{100 * mean:.1f} / {100 * worst:.1f}")
            print(f"| {score} |", " | ".join(cells), "|")


def draw(axes: Axes, x: Sequence[float], values: Sequence[Sequence[float]], **style: Any) -> None:  # noqa: ANN401
    """Draw the mean of the seeds' values at each x, and their range."""
    axes.plot(x, [np.mean(at) for at in values], **{"marker": "o", "markersize": 3, **style})
    low, high = [min(at) for at in values], [max(at) for at in values]
    axes.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)


def common_legend(figure: Figure, panels: list[Axes]) -> None:
    """Show each label of all the panels once, below them."""
    handles = {}
    for axes in panels:
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2)


def recursions_figure(groups: dict[Group, list[dict]]) -> Figure:
    """Draw mean AUROC of the scores, and the accuracy, over the recursions."""
    with styled():
        rows = -(-len(groups) // 2)
        figure = Figure(figsize=(2 * COLUMN_WIDTH, 2.5 * rows), layout="constrained")
        panels = figure.subplots(rows, 2, sharey=True, squeeze=False).flatten()
        for axes, ((recipe, name, epochs), runs) in zip(panels, groups.items(), strict=False):
            recursions = range(len(runs[0]["accuracy"]))
            known = {row["score"] for row in runs[0]["rows"]}
            for i, score in enumerate(SHOWN):
                if score in known:
                    values = [[mean_of(run, "auroc", score, r) for run in runs] for r in recursions]
                    draw(axes, recursions, values, label=f"AUROC, {score}", **look(i))
            accuracies = [[run["accuracy"][r] for run in runs] for r in recursions]
            draw(axes, recursions, accuracies, color=IN_COLOUR, linewidth=2, label="accuracy")
            axes.set(
                title=f"{short(recipe)}, {name}, {epochs} epochs", xlabel="recursion", ylim=(0.5, 1)
            )
            axes.grid(alpha=0.3)
        for axes in panels[::2]:
            axes.set_ylabel("mean AUROC, or accuracy")
        for axes in panels[len(groups) :]:
            axes.remove()
        common_legend(figure, list(panels[: len(groups)]))
    return figure


def minutes_axis(axes: Axes) -> None:
    """Show minutes as such on a logarithmic axis."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.3)


TIMED: dict[str, Callable[[dict, str], float]] = {
    "mean AUROC": lambda run, score: mean_of(run, "auroc", score, run["recursion"]),
    "mean FPR95": lambda run, score: mean_of(run, "fpr95", score, run["recursion"]),
    "accuracy": lambda run, _: run["accuracy"][run["recursion"]],
}
"""What is drawn against the time, of a run and a score."""


def time_panel(axes: Axes, trainings: dict[str, dict[float, list[dict]]], metric: str) -> None:
    """Draw one metric of the recipes, each given as its runs by their seconds."""
    for i, (recipe, score) in enumerate(product(trainings, ("ood_score", "entropy"))):
        runs_by_length = list(trainings[recipe].values())
        reported = runs_by_length[0][0]["reported"]
        # Accuracy is the same for every score.
        if score != reported and (reported != "ood_score" or metric == "accuracy"):
            continue
        minutes = [seconds / 60 for seconds in trainings[recipe]]
        values = [[TIMED[metric](run, score) for run in runs] for runs in runs_by_length]
        draw(axes, minutes, values, label=f"{short(recipe)}, {score}", **look(i))
    minutes_axis(axes)


def time_figure(groups: dict[Group, list[dict]]) -> Figure:
    """Draw what each recipe reaches, at the recursion that it reports, over its training time."""
    names = list(dict.fromkeys(name for _, name, _ in groups))
    seconds = seconds_of_trainings(groups)
    with styled():
        figure = Figure(figsize=(2 * COLUMN_WIDTH, 2.1 * len(TIMED)), layout="constrained")
        panels = figure.subplots(len(TIMED), len(names), squeeze=False, sharex=True, sharey="row")
        for column, name in zip(panels.T, names, strict=True):
            trainings: dict[str, dict[float, list[dict]]] = defaultdict(dict)
            for group, runs in groups.items():
                if group[1] == name:
                    trainings[group[0]][seconds[group]] = runs
            for axes, metric in zip(column, TIMED, strict=True):
                time_panel(axes, trainings, metric)
            column[0].set_title(f"D_in {name}")
            column[-1].set_xlabel("training, minutes of one core")
        for row, metric in zip(panels, TIMED, strict=True):
            row[0].set_ylabel(metric)
        common_legend(figure, list(panels[0]))
    return figure


def reached(run: dict, key: str, score: str, recursion: int) -> float:
    """Return the accuracy, or the mean AUROC or FPR95 of a score."""
    if score == "accuracy":
        return run["accuracy"][recursion]
    return mean_of(run, key, score, recursion)


def scores_figure(groups: dict[Group, list[dict]], recipe: str) -> Figure:
    """Draw what every score of a recipe reaches at several recursions over its training time."""
    of_recipe = {group: runs for group, runs in groups.items() if group[0] == recipe}
    names = list(dict.fromkeys(name for _, name, _ in of_recipe))
    seconds = seconds_of_trainings(groups)
    first = next(iter(of_recipe.values()))[0]
    scores = [*dict.fromkeys(row["score"] for row in first["rows"]), "accuracy"]
    columns = list(product(names, ("auroc", "fpr95")))
    with styled():
        figure = Figure(figsize=(2 * COLUMN_WIDTH, 1.15 * len(scores)), layout="constrained")
        panels = figure.subplots(len(scores), len(columns), squeeze=False, sharex=True)
        for (row, score), (column, (name, key)) in product(enumerate(scores), enumerate(columns)):
            axes = panels[row, column]
            if score == "accuracy" and key == "fpr95":
                axes.remove()
                continue
            here = {group: runs for group, runs in of_recipe.items() if group[1] == name}
            minutes = [seconds[group] / 60 for group in here]
            for i, r in enumerate(r for r in (0, 1, 2, 5) if r < len(first["accuracy"])):
                values = [[reached(run, key, score, r) for run in runs] for runs in here.values()]
                draw(axes, minutes, values, label=f"recursion {r}", **look(i))
            axes.set_ylim((0, 1) if key == "fpr95" else (0.5, 1))
            minutes_axis(axes)
            if row == 0:
                axes.set_title(f"{name}, mean {key.upper()}")
            if column == 0:
                axes.set_ylabel(score.replace("_", "\n"))
        for column, (_, key) in enumerate(columns):
            # There is no accuracy below FPR95.
            last = panels[-1 if key == "auroc" else -2, column]
            last.set_xlabel("training, min")
            last.tick_params(labelbottom=True)
        common_legend(figure, [panels[0, 0]])
    return figure


def main() -> None:
    """Print the tables and write the figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--recipes", nargs="+", help="shown score by score; default: all")
    parser.add_argument("--epochs", nargs="+", type=int, help="as --recipes")
    a = parser.parse_args()
    found: dict[Group, list[dict]] = defaultdict(list)
    for path in sorted(a.folder.glob("*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        found[run["recipe"], run["in_dataset"], run["epochs"]].append(run)
    groups = {group: found[group] for group in sorted(found)}
    recipe_table(groups)
    detailed = {
        group: runs
        for group, runs in groups.items()
        if (not a.recipes or group[0] in a.recipes) and (not a.epochs or group[2] in a.epochs)
    }
    score_table(detailed)
    save_figure(recursions_figure(detailed), a.folder / "recursions")
    save_figure(time_figure(groups), a.folder / "time")
    for recipe in dict.fromkeys(recipe for recipe, _, _ in detailed):
        save_figure(scores_figure(groups, recipe), a.folder / f"scores-{file_name(recipe)}")


if __name__ == "__main__":
    main()
