"""Reproduction of a suite: train and evaluate missing runs, make the table and figures.

FOLDER/
  README.md    runs, data, versions, seeds
  table.*      every method against every D_out; accuracy_table.*: on known images
  figures/     the figures of the paper, and more
  report.html  the first run of each method
  runs/        a sweep per method, with the results in each run
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from attractor_ae._errors import AttractorError, quoted_command, unknown_name
from attractor_ae._files import file_name, write_text
from attractor_ae._reporter import SILENT, Reporter
from attractor_ae.experiment.compare import MeasuredRun, images_of_runs, suite_figures
from attractor_ae.experiment.config import ExperimentConfig
from attractor_ae.experiment.evaluate import ENSEMBLE, run_ensemble_evaluation, run_evaluation
from attractor_ae.experiment.plan import make_plan, planned_out
from attractor_ae.experiment.report import run_part
from attractor_ae.experiment.result import EvaluationResult
from attractor_ae.experiment.run import Run
from attractor_ae.experiment.suites import Method, Suite, as_overrides, read_suite
from attractor_ae.experiment.sweep import Job, SweepReport, find_runs, seed_jobs, sweep
from attractor_ae.reporting import Comparison, compare
from attractor_ae.reporting.renderers import markdown
from attractor_ae.reporting.report import save_report

PUBLISHED_SEEDS = tuple(range(10))
QUICK_SEEDS = (0, 1, 2)
OPEN_SET_SEEDS = tuple(range(5))


@dataclass(frozen=True, eq=False)
class Reproduction:
    """The outcome of a suite.

    ``results``: by label of the method, one per seed or one for the ensemble; ``missing``: D_outs
    that were left out -> the reason; ``notes``: a line per run or data set that was left out or
    failed.
    """

    suite: Suite
    folder: Path
    results: dict[str, list[EvaluationResult]]
    missing: dict[str, str]
    training: SweepReport
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Row:
    """One method, its experiment and its runs."""

    method: Method
    config: ExperimentConfig
    jobs: tuple[Job, ...]


def run_reproduction(
    source: str | Path,
    folder: str | Path | None = None,
    *,
    quick: bool = False,
    seeds: Sequence[int] | None = None,
    overrides: Sequence[str] = (),
    data_root: str | Path | None = None,
    workers: int | None = None,
    runs: Sequence[str | Path] = (),
    reporter: Reporter = SILENT,
) -> Reproduction:
    """Train, evaluate and report a whole suite (``attractor-ae reproduce``).

    Existing runs and results are reused, so the same call continues after an interruption, and
    takes seconds when everything is finished. A D_out whose files are missing is left out and
    reported, and so is a run that fails.

    Args:
        source: Name of a suite, or path of a TOML file: a suite or a config; see `read_suite`.
        folder: Folder to write to; by default ``reproductions/SUITE[-quick]``.
        quick: Use the short form of every method, for a laptop.
        seeds: Seeds of the runs; by default 0 to 9, as published, 0 to 2 for the quick form, or 0
            to 4 for open-set splits.
        overrides: Any number of ``"section.key=value"``, set in every method.
        workers: Number of runs trained at once; see `attractor_ae.experiment.sweep.sweep`.
        runs: Folders of finished runs, e.g. imported ones, that are evaluated instead of training;
            only for a suite of one method.
        data_root, reporter: As for `run_evaluation`.
    """
    suite = read_suite(source)
    default = Path("reproductions") / f"{suite.name}{'-quick' if quick else ''}"
    home = Path(folder) if folder is not None else default
    usual = OPEN_SET_SEEDS if suite.open_set else QUICK_SEEDS if quick else PUBLISHED_SEEDS
    seeds = tuple(seeds or usual)
    notes: list[str] = []

    def note(line: str) -> None:
        notes.append(line)
        reporter.note(line)

    experiment = partial(suite.experiment, quick=quick, overrides=overrides)
    first = experiment(suite.methods[0])
    missing: dict[str, str] = {}
    for name in suite.out_datasets:
        try:
            planned_out(first, name, data_root).check()
        except AttractorError as error:
            missing[name] = str(error)
            note(f"left out: {name}: {error}")
    outs = [name for name in suite.out_datasets if name not in missing]
    if not outs:
        raise AttractorError(
            f"suite {suite.name!r}: none of its D_outs is present ({', '.join(missing)}); "
            "run: attractor-ae data list"
        )
    rows: list[_Row] = []
    shared: dict[str, tuple[ExperimentConfig, tuple[Job, ...]]] = {}
    for method in suite.methods:
        config = experiment(method, out_datasets=outs)
        # Methods that differ only in the score share their runs.
        basis = config.model_dump_json(exclude={"evaluation": {"score"}})
        if basis not in shared:
            parent = home / "runs" / file_name(method.label)
            shared[basis] = (config, tuple(seed_jobs(config, seeds, parent)))
        rows.append(_Row(method, *shared[basis]))
    if runs:
        if len(rows) > 1:
            raise AttractorError(
                f"suite {suite.name!r} has {len(rows)} methods, but --runs needs a suite of one; "
                "give the TOML file of their config instead"
            )
        jobs = tuple(Job(run.config(), run.path) for run in find_runs(*runs))
        rows = [dataclasses.replace(rows[0], jobs=jobs)]
    for row in rows:  # errors are reported before the training, not after it
        plan = make_plan(row.config, data_root)
        plan.check()
        if plan.training.split in plan.training.dataset.info.splits:
            plan.training.check()
        if row.method.ensemble and (row.config.model.type != "conv" or row.config.model.dropout):
            raise AttractorError(
                f"method {row.method.label!r}: the members of an ensemble are classifiers without "
                "dropout; set model.type=conv and model.dropout=0"
            )
    jobs = list({job.folder: job for row in rows for job in row.jobs}.values())
    report = sweep(jobs, data_root=data_root, workers=workers, reporter=reporter)
    for failure in report.failed:
        note(f"failed: {failure.job.folder}: {failure.error} (log: {failure.log})")

    measured: dict[str, list[MeasuredRun]] = {}
    for row in rows:
        if found := _measured(row, data_root, reporter):
            measured[row.method.label] = found
        else:
            note(f"left out: {row.method.label}: none of its runs is finished")
    if not measured:
        raise AttractorError(f"{home}: no run of the suite {suite.name!r} could be finished")
    results = {label: [run.result for run in found] for label, found in measured.items()}
    table = compare(results)
    table.save(home)
    # Written before the figures, which may fail, and again after them, with their notes.
    page = partial(
        suite_readme, str(source), results, table, seeds=seeds, quick=quick, overrides=overrides
    )
    write_text(home / "README.md", page(notes=notes))
    images = images_of_runs(data_root, reporter)
    suite_figures(home / "figures", measured, images, on_note=note, reporter=reporter)
    parts = [
        run_part(label, runs[0].result, runs[0].run, data_root=data_root, reporter=reporter)
        for label, runs in measured.items()
    ]
    save_report(home / "report.html", parts, f"Suite {suite.name}", reporter=reporter)
    write_text(home / "README.md", page(notes=notes))
    return Reproduction(suite, home, results, missing, report, tuple(notes))


def _measured(row: _Row, data_root: str | Path | None, reporter: Reporter) -> list[MeasuredRun]:
    """Evaluate the runs of a method, or read their results."""
    finished = [job.folder for job in row.jobs if Run(job.folder).finished]
    if not finished:
        return []
    # The stored configs may lack D_outs that were missing when they were written.
    overrides = as_overrides("evaluation", row.config.evaluation.model_dump(mode="json"))
    found, ensemble = [], row.method.ensemble
    for place in [finished[0].parent / ENSEMBLE] if ensemble else finished:
        evaluate = partial(run_ensemble_evaluation, finished) if ensemble else run_evaluation
        named = reporter.prefixed(f"{row.method.label}, {place.name}, ")
        result = evaluate(place, overrides=overrides, data_root=data_root, reporter=named)
        if row.method.score not in result.score_names:
            raise unknown_name(
                f"score of the method {row.method.label!r}:", row.method.score, result.score_names
            )
        shown = dataclasses.replace(result, score=row.method.score)
        found.append(MeasuredRun(place, shown, Run(place)))
    return found


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
    members, runs = len(result.provenance.get("weights", ())), len(found)
    what = [
        f"{members} networks as one ensemble" if members > 1 else f"{runs} run{'s' * (runs > 1)}",
        f"{training.get('epochs')} epoch{'s' * (training.get('epochs') != 1)}",
        f"learning rate {training.get('learning_rate'):g}" if training else "",
        f"dropout {model.get('dropout')}",
        f"score {result.score}",
        f"recursion {result.recursion} of {result.recursions}" if result.recursions > 1 else "",
    ]
    return f"* **{label}**: {', '.join(part for part in what if part)}."
