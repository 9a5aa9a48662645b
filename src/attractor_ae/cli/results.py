"""Commands that make tables and figures of evaluated runs, and that run whole suites."""

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from attractor_ae.cli._terminal import complain, one_line_errors, out, say, terminal_reporter
from attractor_ae.cli.options import (
    DataRootOption,
    GridOption,
    OrientationOption,
    SetOption,
    WorkersOption,
    out_option,
)

ReferenceOption = Annotated[
    str | None,
    typer.Option(
        help="D_out whose Wasserstein distances to the others are summed. Default: cifar10, "
        "photos, or the first."
    ),
]

# Modules that import PyTorch are imported inside the commands: --help should not wait for it.

PlacesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="FOLDERS", help="Folders of evaluated runs, sweeps and ensembles, or glob patterns."
    ),
]


def table(
    places: PlacesArgument,
    folder: Annotated[
        Path | None, out_option("Folder for LaTeX, Markdown and CSV files. Default: write none.")
    ] = None,
    grid: GridOption = "exact",
    orientation: OrientationOption = "in",
    recursion: Annotated[
        int | None,
        typer.Option(help="Recursion to compare. Default: the one that each run reports."),
    ] = None,
    score: Annotated[
        str | None, typer.Option(help="Score to compare. Default: the one that each run reports.")
    ] = None,
    significance: Annotated[
        bool,
        typer.Option(
            "--significance",
            help="Test differences between methods with Wilcoxon's signed-rank test over the "
            "seeds.",
        ),
    ] = False,
    reference: ReferenceOption = None,
) -> None:
    """Compare methods: mean and standard deviation over the seeds, the best in bold."""
    with one_line_errors():
        from attractor_ae.experiment.compare import compare_runs
        from attractor_ae.metrics import checked_names

        checked_names(grid, orientation)  # before files are read
        options = {"grid": grid, "orientation": orientation, "significance": significance}
        options |= {"recursion": recursion, "score": score, "reference": reference}
        found = compare_runs(places, **options)
        out.print(found.terminal())
        for path in found.save(folder) if folder else ():
            say(str(path))


def figures(
    places: PlacesArgument,
    folder: Annotated[Path, out_option("Folder to write to.")] = Path("figures"),
    reference: ReferenceOption = None,
    data_root: DataRootOption = None,
) -> None:
    """Draw all figures of evaluated runs as PNG and PDF, with bands over the seeds."""
    with one_line_errors(continues=True):
        from attractor_ae.experiment.compare import draw_runs

        with terminal_reporter() as reporter:
            draw = partial(draw_runs, data_root=data_root, reporter=reporter)
            drawn = draw(places, folder, reference=reference)
        for path in drawn:
            say(str(path))


def report(
    places: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL_OR_RUN...",
            help="Model files, folders of evaluated runs, sweeps and ensembles, and folders "
            "written by attractors.",
        ),
    ],
    target: Annotated[Path, out_option("HTML file to write.", "FILE", "--out", "-o")] = Path(
        "report.html"
    ),
    images: Annotated[
        list[str] | None,
        typer.Option(help="Folder of images to show with a model file. Can be repeated."),
    ] = None,
    data_root: DataRootOption = None,
) -> None:
    """Write a report as one HTML file: data, self-check, scores, a movable threshold, images."""
    with one_line_errors():
        from attractor_ae.deploy.report import write_report

        with terminal_reporter() as reporter:
            write = partial(write_report, data_root=data_root, reporter=reporter)
            say(f"Report: {write(places, target, images=images or ())}")


def reproduce(
    suite: Annotated[
        str,
        typer.Argument(
            help="Name of a suite (builtin, open-set, mnist, fashion, svhn, gtsrb, "
            "sviro_uncertainty), or TOML file of a suite or of a config."
        ),
    ] = "builtin",
    folder: Annotated[
        Path | None,
        out_option(
            "Folder to write to. Default: reproductions/SUITE, or SUITE-quick with --quick."
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Train a shorter version that runs on a laptop.")
    ] = False,
    seeds: Annotated[
        str | None, typer.Option(help="Seeds. Default: 0-9; 0-2 with --quick; 0-4 for open-set.")
    ] = None,
    workers: WorkersOption = None,
    runs: Annotated[
        list[str] | None,
        typer.Option(
            help="Finished runs to evaluate instead of training, e.g. imported ones; only with "
            "a config. Can be repeated."
        ),
    ] = None,
    settings: SetOption = None,
    data_root: DataRootOption = None,
) -> None:
    """Train, evaluate and compare all methods of a suite, e.g. of a published table.

    To continue after an interruption, run the same command again.
    """
    with one_line_errors(continues=True):
        from attractor_ae.experiment.reproduce import run_reproduction
        from attractor_ae.experiment.sweep import parse_seeds
        from attractor_ae.reporting import compare

        with terminal_reporter() as reporter:
            run = partial(run_reproduction, suite, folder, quick=quick, runs=runs or ())
            run = partial(run, data_root=data_root, workers=workers, reporter=reporter)
            done = run(seeds=parse_seeds(seeds) if seeds else None, overrides=settings or ())
        found = compare(done.results)
        out.print(found.terminal())
        say(f"Overview: {done.folder / 'README.md'}, report: {done.folder / 'report.html'}")
        for failure in done.training.failed:
            complain(f"failed: {failure.job.folder}: {failure.error} (log: {failure.log})")
        if done.training.failed:
            sys.exit(2)
