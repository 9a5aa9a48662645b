"""The command line: one call of the public Python API per command."""

import os
import signal
import sys
import threading
import time
from typing import Annotated, NoReturn

import typer

from attractor_ae import __version__
from attractor_ae.cli import experiments, models, results
from attractor_ae.cli._terminal import one_line_errors, say, show_every_character
from attractor_ae.cli.data import data_app

# As in `attractor_ae.experiment.sweep`, whose import would slow down --help.
PARENT_VARIABLE = "ATTRACTOR_AE_PARENT"

app = typer.Typer(
    name="attractor-ae",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Uncertainty estimation and detection of unknown images with autoencoder attractors.\n\n"
    "To start, run: attractor-ae fit FOLDER --out FILE, then attractor-ae score FILE FOLDER; or, "
    "without images of your own: attractor-ae demo",
)
for _command in (
    models.fit,
    models.score,
    models.calibrate,
    models.serve,
    models.app,
    models.export,
    models.push,
    models.pull,
    models.attractors,
    experiments.demo,
    experiments.train,
    experiments.sweep,
    experiments.evaluate,
    results.table,
    results.figures,
    results.report,
    results.reproduce,
):
    app.command()(_command)
app.command("import-run")(experiments.import_run)
app.add_typer(data_app, name="data")


def main() -> NoReturn:
    """Run the command line; exit with 2 on an error that the user can repair, 130 on Ctrl-C."""
    show_every_character()
    # SIGTERM, e.g. at a batch system's time limit, writes a checkpoint as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if parent := os.environ.get(PARENT_VARIABLE):
        threading.Thread(target=_end_with, args=(int(parent),), daemon=True).start()
    try:
        with one_line_errors():
            app()
    except KeyboardInterrupt:  # while a command was still being imported
        sys.exit(130)
    sys.exit(0)


def _end_with(parent: int) -> None:
    """Interrupt this process, a worker of a sweep, when its parent process has ended."""
    while os.getppid() == parent:
        time.sleep(0.5)
    signal.raise_signal(signal.SIGTERM)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    show_every_character()  # of other streams, where the app is invoked without `main`
    if version:
        say(f"attractor-ae {__version__}")
        raise typer.Exit
