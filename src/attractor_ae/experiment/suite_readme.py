"""The page that says what a suite has been run on, with what, and what came out."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from attractor_ae.experiment.result import EvaluationResult
from attractor_ae.reporting import Comparison
from attractor_ae.reporting.renderers import markdown

_PACKAGES = ("attractor-ae", "torch", "torchvision", "numpy", "scikit-learn")


def suite_readme(
    source: str,
    results: Mapping[str, Sequence[EvaluationResult]],
    table: Comparison,
    *,
    seeds: Sequence[int],
    quick: bool,
    notes: Sequence[str],
) -> str:
    """Return the page as Markdown.

    Args:
        source: The suite's name, or the path of its file.
        results: Label of a method -> its results.
        table: The table of them.
        seeds: Seeds of the runs.
        quick: Whether it is the short form.
        notes: What was left out, a line each.
    """
    first = next(iter(results.values()))[0]
    made = first.provenance
    command = " ".join(
        [
            f"attractor-ae reproduce {source}",
            *(["--quick"] if quick else []),
            f"--seeds {','.join(map(str, seeds))}",
        ]
    )
    lines = [
        f"# {Path(source).stem}{', in short' if quick else ''}",
        "",
        f"    {command}",
        "",
        f"D_in is `{first.in_scores.name}` ({first.in_scores.split}, "
        f"{len(first.in_scores.labels)} images). The D_outs and the number of their images: "
        + ", ".join(f"`{s.name}` ({s.split}, {len(s.labels)})" for s in first.out_scores)
        + ".",
        "",
        *(_method_line(label, found) for label, found in results.items()),
        "",
        markdown(table.detection),
        "",
        "## Of the known",
        "",
        markdown(table.accuracy),
        "",
        "## Files",
        "",
        "* `table.tex`, `table.md`, `table.csv`, and `accuracy_table` likewise: the tables above;",
        "* `figures/`: PNG and PDF of each;",
        "* `runs/`: a folder a method with a run folder a seed: config, weights, history, log, "
        "fitted detector, and `evaluation/` with every score.",
        "",
    ]
    if notes:
        lines += ["## Left out", "", *(f"* {note}" for note in notes), ""]
    versions = made.get("packages", {})
    lines += [
        "## Made with",
        "",
        "The first evaluation; `environment.json` in each run folder tells of its training.",
        "",
        f"Python {made.get('python', '?')}, "
        + ", ".join(f"{name} {versions[name]}" for name in _PACKAGES if name in versions)
        + f"; {made.get('platform', '?')}, {made.get('device_name', '?')}, "
        f"{made.get('threads', '?')} threads, {made.get('precision', '?')}"
        + (f"; revision {made['git_revision']}" if made.get("git_revision") else "")
        + f"; {made.get('created', '?')}.",
        "",
    ]
    return "\n".join(lines)


def _method_line(label: str, found: Sequence[EvaluationResult]) -> str:
    """Return what a method is, from the experiment that its first result was made of."""
    result = found[0]
    experiment = result.provenance.get("experiment", {})
    training, model = experiment.get("training", {}), experiment.get("model", {})
    members = len(result.provenance.get("weights", ()))
    what = [
        f"{members} networks as one ensemble" if members > 1 else f"{len(found)} runs",
        f"{training.get('epochs')} epochs",
        f"learning rate {training.get('learning_rate'):g}" if training else "",
        f"dropout {model.get('dropout')}",
        f"score {result.score}",
        f"recursion {result.recursion} of {result.recursions}" if result.recursions > 1 else "",
    ]
    return f"* **{label}**: {', '.join(part for part in what if part)}."
