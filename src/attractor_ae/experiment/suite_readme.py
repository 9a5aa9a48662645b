"""The README of a reproduced suite: data, versions, seeds and results."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from attractor_ae._errors import quoted_command
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
    overrides: Sequence[str],
    notes: Sequence[str],
) -> str:
    """Return the README as Markdown; ``notes`` are the lines about what was left out."""
    first = next(iter(results.values()))[0]
    known, made = first.in_scores, first.provenance
    versions = made.get("packages", {})
    outs = ", ".join(f"`{s.name}` ({s.split}, {len(s.labels)})" for s in first.out_scores)
    methods = "\n".join(_method_line(label, found) for label, found in results.items())
    known_classes = {", ".join(r.classes): i for i, r in enumerate(next(iter(results.values())))}
    splits = ""
    if len(known_classes) > 1:
        named = "".join(f"* run {i + 1}: {names}\n" for names, i in known_classes.items())
        splits = f"\nEach run is an open-set split. Its known classes:\n\n{named}"
    left_out = "".join(f"* {note}\n" for note in notes)
    packages = ", ".join(f"{name} {versions[name]}" for name in _PACKAGES if name in versions)
    words = ["reproduce", source, *(["--quick"] if quick else [])]
    words += ["--seeds", ",".join(map(str, seeds))]
    words += [word for text in overrides for word in ("--set", text)]
    revision = f"; revision {made['git_revision']}" if made.get("git_revision") else ""
    return f"""\
# {Path(source).stem}{" (quick)" if quick else ""}

    {quoted_command(*words)}

D_in is `{known.name}` ({known.split}, {len(known.labels)} images). The D_outs and the number of
their images: {outs}.
{splits}
{methods}

{markdown(table.detection)}
## Known images

{markdown(table.accuracy)}
## Files

* `table.*`, `accuracy_table.*` and `wasserstein_table.*` (`.tex`, `.md`, `.csv`): the tables;
* `figures/`: each figure as PNG and PDF;
* `runs/`: a folder per method with a run folder per seed: config, weights, history, log, fitted
  detector, and `evaluation/` with every score.

{f"## Left out{chr(10)}{chr(10)}{left_out}{chr(10)}" if left_out else ""}## Environment

That of the first evaluation; `environment.json` in each run folder describes its training.

Python {made.get("python", "?")}, {packages}; {made.get("platform", "?")},
{made.get("device_name", "?")}, {made.get("threads", "?")} threads, {made.get("precision", "?")}\
{revision}; {made.get("created", "?")}.
"""


def _method_line(label: str, found: Sequence[EvaluationResult]) -> str:
    """Return the description of a method, from the experiment of its first result."""
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
