"""Commands that train and evaluate."""

import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attractor_ae._errors import AttractorError, quoted_command
from attractor_ae.cli._terminal import complain, one_line_errors, out, say, terminal_reporter
from attractor_ae.cli.options import (
    DataRootOption,
    GridOption,
    OrientationOption,
    SchedulerOption,
    SetOption,
    WorkersOption,
    out_option,
)

if TYPE_CHECKING:
    from attractor_ae.experiment.result import EvaluationResult
    from attractor_ae.metrics import Orientation, Thresholds

# Modules that import PyTorch are imported inside the commands: --help should not wait for it.


def demo(
    folder: Annotated[Path, out_option("Folder to write to; created if missing.")] = Path("demo"),
    settings: SetOption = None,
) -> None:
    """Train on real handwritten digits, then measure how well unknown images are detected.

    Takes about three minutes on two CPU cores, needs no download, and writes tables and pictures.
    """
    with one_line_errors(continues=True):
        from attractor_ae.experiment.evaluate import run_demo

        began = time.monotonic()
        with terminal_reporter() as reporter:
            result = run_demo(folder, overrides=settings or (), reporter=reporter)
        _show(result, folder)
        say(f"Report: {folder / 'report.html'}")
        say(f"\nDone in {time.monotonic() - began:.0f} seconds.")
        say(f"Next, with your own images: {quoted_command('fit', 'FOLDER', '--out', 'my.model')}")


def train(
    config: Annotated[
        Path,
        typer.Argument(
            help="Folder of images with one sub-folder per class, TOML file of an experiment, or "
            "name of a preset (default, paper, quick, photographs) or config of the paper (mnist)."
        ),
    ] = Path("default"),
    folder: Annotated[
        Path | None, out_option("Run folder to create. Default: runs/DATASET-CONFIG-seedN.")
    ] = None,
    settings: SetOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an interrupted run, to the same weights.")
    ] = False,
    validate: Annotated[
        bool, typer.Option("--validate", help="Also log the accuracy on test images; draw some.")
    ] = False,
    data_root: DataRootOption = None,
) -> None:
    """Train the network of an experiment, and write a run folder."""
    with one_line_errors(continues=True, resume="--resume"):
        from attractor_ae.experiment.suites import is_folder_of_images, read_experiment, run_name

        experiment = read_experiment(config, settings or ())
        name = f"{run_name(config, experiment)}-seed{experiment.training.seed}"
        target = folder or Path("runs") / name

        from attractor_ae.experiment.choose import run_chosen_training, space_is_open
        from attractor_ae.experiment.train import run_training  # late: config errors come first

        with terminal_reporter() as reporter:
            start = partial(run_training, validate=validate)
            if is_folder_of_images(config) and space_is_open(settings or ()):
                start = partial(run_chosen_training, overrides=settings or (), training=start)
            run = start(experiment, target, data_root=data_root, resume=resume, reporter=reporter)
        say(f"Trained: {run.path}")
        say(f"Next: {quoted_command('evaluate', run.path)}")


def sweep(
    config: Annotated[Path, typer.Argument(help="Experiment, as for train.")] = Path("default"),
    seeds: Annotated[str, typer.Option(help="Seeds to train with, e.g. 0-9 or 0,3,5-7.")] = "0-9",
    folder: Annotated[
        Path | None, out_option("Folder for the runs. Default: runs/DATASET-CONFIG.")
    ] = None,
    settings: SetOption = None,
    workers: WorkersOption = None,
    backend: Annotated[
        str, typer.Option(help="Where to train: 'processes' (this machine) or 'dask' (a cluster).")
    ] = "processes",
    scheduler: SchedulerOption = None,
    resources: Annotated[
        list[str] | None,
        typer.Option(
            "--resource",
            metavar="NAME=AMOUNT",
            help="Resources that a run occupies on a cluster worker, e.g. GPU=0.25. Only for dask.",
        ),
    ] = None,
    data_root: DataRootOption = None,
) -> None:
    """Train one experiment with several seeds; skip finished runs and report failed ones."""
    with one_line_errors(continues=True):
        from attractor_ae.experiment.suites import read_experiment, run_name
        from attractor_ae.experiment.sweep import parse_seeds, seed_jobs
        from attractor_ae.experiment.sweep import sweep as run_sweep

        experiment = read_experiment(config, settings or ())
        target = folder or Path("runs") / run_name(config, experiment)
        jobs = seed_jobs(experiment, parse_seeds(seeds), target)
        with terminal_reporter() as reporter:
            run = partial(run_sweep, data_root=data_root, workers=workers, reporter=reporter)
            run = partial(run, backend=backend, scheduler=scheduler)
            report = run(jobs, resources=_amounts(resources))
    say(f"{len(report.finished)} trained, {len(report.skipped)} finished before: {target}")
    for failure in report.failed:
        complain(f"failed: {failure.job.folder}: {failure.error} (log: {failure.log})")
    if report.failed:
        sys.exit(2)
    say(f"Next: {quoted_command('evaluate', target)}")


def evaluate(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="Folders of finished runs or of sweeps, or glob patterns; or one model file, with "
            "--known."
        ),
    ],
    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="Evaluate all runs together as one deep ensemble.")
    ] = False,
    folder: Annotated[
        Path | None, out_option("Folder for the ensemble. Default: ensemble, next to its runs.")
    ] = None,
    recursions: Annotated[
        int | None, typer.Option(help="Number of recursions to evaluate; recursion 0 is the first.")
    ] = None,
    trials: Annotated[int | None, typer.Option(help="Number of dropout masks.")] = None,
    head: Annotated[
        str | None, typer.Option(help="Classifier of the latent codes: mlp, paper-mlp or knn.")
    ] = None,
    out_datasets: Annotated[
        list[str] | None,
        typer.Option(help="D_outs (data sets of unknown images), separated by commas; repeatable."),
    ] = None,
    grid: GridOption = "exact",
    orientation: OrientationOption = "in",
    fresh: Annotated[
        bool, typer.Option("--again", help="Evaluate again even if the settings are the same.")
    ] = False,
    settings: SetOption = None,
    data_root: DataRootOption = None,
    known: Annotated[
        str | None, typer.Option(help="Known images, to measure the false alarms of a model file.")
    ] = None,
    unknown: Annotated[
        str | None, typer.Option(help="Unknown images, to measure what a model file detects.")
    ] = None,
    alpha: Annotated[float | None, typer.Option(help="Replaces alpha of the model file.")] = None,
) -> None:
    """Measure the uncertainty of runs, or the threshold of a model file.

    For a model file: false alarms on --known, detected share of --unknown.
    For runs: scores, metrics, figures and the detector, in each run folder;
    an existing result with the same settings is shown again.
    """
    a_file = len(runs) == 1 and Path(runs[0]).is_file()
    if a_file or known is not None or unknown is not None or alpha is not None:
        _evaluate_model(runs, known, unknown, alpha)
        return
    overrides = [*(settings or ())]
    for key, value in {"recursions": recursions, "trials": trials, "head": head}.items():
        if value is not None:
            overrides.append(f"evaluation.{key}={value}")
    with one_line_errors(continues=True):
        if out_datasets:
            overrides += _named_outs(out_datasets, data_root)
        from attractor_ae.experiment.compare import compare_runs
        from attractor_ae.experiment.evaluate import (
            ENSEMBLE,
            run_ensemble_evaluation,
            run_evaluation,
        )
        from attractor_ae.experiment.sweep import find_runs
        from attractor_ae.metrics import checked_names

        thresholds, positive = checked_names(grid, orientation)
        if folder is not None and not ensemble:
            raise AttractorError("--out is the folder of an ensemble; give --ensemble as well")
        places = [run.path for run in find_runs(*runs)]
        with terminal_reporter() as reporter:
            shared = {"overrides": overrides, "data_root": data_root, "again": fresh}
            results, done = [], places
            if ensemble:
                done = [folder or places[0].parent / ENSEMBLE]
                results = [run_ensemble_evaluation(places, done[0], reporter=reporter, **shared)]
            else:
                for place in places:
                    named = reporter.prefixed(f"{place.name}, ") if places[1:] else reporter
                    results.append(run_evaluation(place, reporter=named, **shared))
        if len(done) == 1:
            _show(results[0], done[0], thresholds, positive)
        else:
            table = compare_runs(done, grid=grid, orientation=orientation)
            out.print(table.terminal())


def _evaluate_model(
    files: list[str], known: str | None, unknown: str | None, alpha: float | None
) -> None:
    with one_line_errors():
        if known is None or len(files) != 1:
            raise AttractorError("give one model file, and known images with --known FOLDER")
        from attractor_ae.deploy.evaluation import evaluate_model
        from attractor_ae.deploy.model import load_model

        model = load_model(files[0])
        with terminal_reporter() as reporter:
            found = evaluate_model(model, known, unknown, alpha=alpha, reporter=reporter)
        for line in found.lines():
            say(line)


def import_run(
    folder: Annotated[
        Path,
        typer.Argument(help="Results folder of the original scripts (cfg.toml, checkpoints/)."),
    ],
    target: Annotated[
        Path | None, out_option("Run folder to create. Default: runs/FOLDER.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Seed of the original run, which its files do not record. Default: 0."),
    ] = None,
    data_root: DataRootOption = None,
) -> None:
    """Import a results folder of the original scripts as a run."""
    place = target or Path("runs") / folder.resolve().name
    with one_line_errors(continues=True):
        from attractor_ae.experiment.convert import import_run as make_run

        run = make_run(folder, place, seed=seed, data_root=data_root)
        say(f"Imported: {run.path}")
        say(f"Next: {quoted_command('evaluate', run.path)}")


def _named_outs(values: list[str], data_root: Path | None) -> list[str]:
    """Return the override for D_outs: a value with a comma is one name if this exists."""
    from attractor_ae._files import user_path
    from attractor_ae.data import data_root as folder_of
    from attractor_ae.experiment.suites import as_overrides

    names = []
    for value in values:
        places = (user_path(value), folder_of(data_root) / value)
        one = "," not in value or any(map(os.path.exists, places))
        parts = [value] if one else [part.strip() for part in value.split(",")]
        names += [part for part in parts if part.strip()]
    if not names:
        raise typer.BadParameter("name at least one data set", param_hint="--out-datasets")
    return as_overrides("evaluation", {"out_datasets": names})


def _amounts(resources: list[str] | None) -> dict[str, float] | None:
    amounts = {}
    for text in resources or ():
        name, _, amount = text.partition("=")
        try:
            amounts[name.strip()] = float(amount)
        except ValueError:
            raise AttractorError(
                f"--resource {text!r}: must have the form NAME=AMOUNT, e.g. GPU=0.25"
            ) from None
    return amounts or None


def _show(
    result: "EvaluationResult",
    folder: Path,
    grid: "Thresholds" = "exact",
    orientation: "Orientation" = "in",
) -> None:
    from attractor_ae.experiment.run import Run
    from attractor_ae.reporting import detection_table, recursion_table, score_table

    pictures = Run(folder).evaluation_folder
    out.print(detection_table(result, grid=grid, orientation=orientation))
    if result.recursions > 1:
        out.print()
        out.print(recursion_table(result, grid=grid))
    # The paper's grid needs scores in [0, 1]; not every score is.
    if len(result.score_names) > 1 and grid == "exact":
        out.print()
        out.print(score_table(result))
    out.print()
    say("Figures and results:")
    for path in sorted(pictures.iterdir()):
        if path.suffix in {".png", ".json"}:
            say(f"  {path}")
