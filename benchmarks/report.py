"""What a run of the benchmark says: tables in Markdown, and a figure."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, NullFormatter

from attractor_ae.reporting.style import COLUMN_WIDTH, IN_COLOUR, OUT_COLOURS, save_figure, styled

AT_LEAST = {"training": 3.0, "scoring": 4.0, "evaluation": 8.0, "heads": 20.0, "predicting": 2.5}
"""How many times as fast as the plain way it must be."""
AT_MOST = {"training": 1.4, "scoring": 1.3}
"""How many times the seconds of the floor it may take."""
START_UP = 0.4
"""Seconds."""
SAME_PEAK = 1.1
"""Four times the images may have so many times the peak: what differs by chance."""

COLOURS = {"plain": OUT_COLOURS[0], "ours": IN_COLOUR, "floor": OUT_COLOURS[5]}


def ratios(seconds: dict[str, list[float]], above: str, below: str) -> np.ndarray:
    """Return the ratio of two ways in each repeat."""
    return np.array(seconds[above]) / np.array(seconds[below])


def markdown(results: dict[str, Any]) -> str:
    """Return all tables."""
    found = results["measurements"]
    parts = [_environment(results["environment"])]
    timed = {k: m for k, m in found.items() if "plain" in m.get("seconds", ())}
    if timed:
        parts += [_ratios(timed), _seconds(timed)]
    notes = [f"* {name}: {m['note']}." for name, m in found.items() if "note" in m]
    parts += ["\n".join(notes)] if notes else []
    parts += [_quality(name, m["quality"]) for name, m in found.items() if "quality" in m]
    if "start_up" in found:
        parts.append(_start_up(found["start_up"]["seconds"]))
    if "memory" in found:
        parts.append(_memory(found["memory"]["megabytes"]))
    if "growth" in found:
        parts.append(_growth(found["growth"]))
    return "\n\n".join(parts)


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _spread(values: Any, digits: int = 2) -> str:  # noqa: ANN401
    low, middle, high = np.min(values), np.median(values), np.max(values)
    return f"{low:.{digits}f} / **{middle:.{digits}f}** / {high:.{digits}f}"


def _verdict(good: bool) -> str:
    return "yes" if good else "**no**"


def _environment(environment: dict[str, Any]) -> str:
    versions = environment["packages"]
    return (
        f"Python {environment['python']}, torch {versions['torch']}, scikit-learn "
        f"{versions['scikit-learn']}, {environment['threads']} threads, "
        f"{environment['precision']}, {environment['device_name']}, "
        f"revision {environment['git_revision']}, {environment['created']}. "
        "Cells are min / **median** / max over the repeats."
    )


def _ratios(timed: dict[str, Any]) -> str:
    rows = []
    for name, measured in timed.items():
        seconds, verdicts = measured["seconds"], []
        faster = ratios(seconds, "plain", "ours")
        cells = [name, measured["work"], _spread(faster)]
        if wanted := AT_LEAST.get(name):
            verdicts.append((f"at least {wanted:g}", np.median(faster) >= wanted))
        if "floor" in seconds:
            over = ratios(seconds, "ours", "floor")
            cells.append(_spread(over))
            if wanted := AT_MOST.get(name):
                verdicts.append((f"at most {wanted:g}", np.median(over) <= wanted))
        else:
            cells.append("")
        cells.append(", ".join(f"{text}: {_verdict(bool(good))}" for text, good in verdicts))
        rows.append(cells)
    header = ["", "work", "times as fast as the plain way", "times the floor's seconds", "wanted"]
    return _table(header, rows)


def _seconds(timed: dict[str, Any]) -> str:
    rows = []
    for name, measured in timed.items():
        seconds = measured["seconds"]
        cells = [_spread(seconds[way]) if way in seconds else "" for way in COLOURS]
        speed = ""
        if "images" in measured:
            speed = f"{measured['images'] / np.median(seconds['ours']):.0f}"
        rows.append([name, *cells, speed])
    return _table(["", "plain, s", "ours, s", "floor, s", "ours, images/s"], rows)


def _quality(name: str, quality: dict[str, dict[str, float]]) -> str:
    scores = list(quality["ours"])
    rows = [[way, *(f"{100 * row[score]:.1f}" for score in scores)] for way, row in quality.items()]
    return _table([f"{name}, %", *scores], rows)


def _start_up(seconds: dict[str, list[float]]) -> str:
    names = {"ours": "attractor-ae --help", "import torch": "python -c 'import torch'"}
    names |= {"config error": "a typo in a config", "python": "python -c pass"}
    rows = []
    for way, values in seconds.items():
        verdict = _verdict(bool(np.median(values) < START_UP))
        judged = way in ("ours", "config error")
        rows.append([names[way], _spread(values), verdict if judged else ""])
    return _table(["start-up", "s", f"under {START_UP} s"], rows)


def _memory(megabytes: dict[str, dict[str, float]]) -> str:
    kinds = dict.fromkeys(kind.rpartition(", ")[0] for kind in megabytes)

    def cell(kind: str, way: str) -> str:
        found = megabytes[f"{kind}, {way}"]
        return f"{found['peak'] - found['images']:.0f}"

    rows = [[kind, cell(kind, "plain"), cell(kind, "ours")] for kind in kinds]
    once, four = (megabytes[f"evaluation{of}, ours"] for of in ("", " of 4 times the images"))
    one, many = (found["peak"] - found["images"] for found in (once, four))
    return (
        _table(["peak of memory above imports and images, MB", "plain", "ours"], rows)
        + f"\n\nEvaluation of 4 times the images has {many / one:.2f} times the peak; wanted is "
        f"one that does not grow (up to {SAME_PEAK:g}): {_verdict(many <= SAME_PEAK * one)}."
    )


def _growth(growth: dict[str, Any]) -> str:
    base = ", ".join(f"{axis} {value}" for axis, value in growth["base"].items())
    tables = [f"How scoring grows from {base}: median seconds."]
    for axis, points in growth["seconds"].items():
        rows = [
            [value, *(f"{np.median(seconds[way]):.3f}" for way in COLOURS)]
            for value, seconds in points.items()
        ]
        tables.append(_table([axis, *COLOURS], rows))
    return "\n\n".join(tables)


def draw(results: dict[str, Any], path: Path) -> list[Path]:
    """Draw ratios as bars, and how scoring grows; write the figure as PNG and PDF."""
    found = results["measurements"]
    with styled():
        figure = Figure(figsize=(2 * COLUMN_WIDTH, 4.6))
        above, below = figure.subfigures(2, 1, height_ratios=(1, 1.1))
        left, right = above.subplots(1, 2)
        _bars(left, found, "plain", "ours", AT_LEAST, "times as fast as the plain way")
        _bars(right, found, "ours", "floor", AT_MOST, "times the floor's seconds")
        left.set_xscale("log")  # the right one's ratios are near one
        left.xaxis.set_major_formatter(FormatStrFormatter("%g"))
        growth = found.get("growth", {"seconds": {}})["seconds"]
        for i, (axis, points) in enumerate(growth.items()):
            axes = below.add_subplot(1, len(growth), i + 1)
            for way, colour in COLOURS.items():
                medians = [np.median(seconds[way]) for seconds in points.values()]
                axes.loglog([int(v) for v in points], medians, "o-", ms=3, color=colour, label=way)
            axes.set_xticks([int(v) for v in points], labels=list(points), minor=False)
            axes.set_xticks([], minor=True)
            axes.set_xlabel(axis)
            axes.yaxis.set_minor_formatter(NullFormatter())
            if i == 0:
                axes.set_ylabel("seconds of scoring")
                axes.legend()
    return save_figure(figure, path)


def _bars(
    axes: Any,  # noqa: ANN401
    found: dict[str, Any],
    above: str,
    below: str,
    wanted: dict[str, float],
    title: str,
) -> None:
    """Draw the median ratio of each measurement, from min to max, and what is wanted as a mark."""
    timed = {
        name: ratios(m["seconds"], above, below)
        for name, m in reversed(found.items())
        if {above, below} <= m.get("seconds", {}).keys()
    }
    axes.set_title(title)
    for row, (name, values) in enumerate(timed.items()):
        middle = np.median(values)
        reach = [[middle - values.min()], [values.max() - middle]]
        axes.barh(row, middle, xerr=reach, height=0.6, color=COLOURS["ours"], capsize=2)
        if name in wanted:
            axes.plot([wanted[name]] * 2, [row - 0.4, row + 0.4], color=COLOURS["plain"])
    axes.axvline(1, color="black", linewidth=0.6)
    axes.set_yticks(range(len(timed)), labels=list(timed))
