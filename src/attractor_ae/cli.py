"""The command line: thin, one call of the public Python API a command."""

import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from attractor_ae import __version__
from attractor_ae.errors import AttractorError

if TYPE_CHECKING:
    from attractor_ae.evaluation import EvaluationResult
    from attractor_ae.training import Progress as TrainingProgress

# Modules that import PyTorch are imported inside the commands: --help should not wait for it.

app = typer.Typer(
    name="attractor-ae",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Know what an image classifier does not know: autoencoder attractors for uncertainty "
    "estimation.\n\nStart with: attractor-ae demo",
)
data_app = typer.Typer(no_args_is_help=True, help="Data sets: which there are, and where.")
app.add_typer(data_app, name="data")

out = Console()
err = Console(stderr=True)

SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SECTION.KEY=VALUE",
        help="Override a key of the config, e.g. training.epochs=200. Can be given many times.",
    ),
]
DataRootOption = Annotated[
    Path | None,
    typer.Option(
        "--data-root",
        help="Folder of the data sets' files. Default: $ATTRACTOR_AE_DATA, or the user's data "
        "directory.",
    ),
]


def main() -> NoReturn:
    """Run the command line: exit code 2 on what the user can repair, 130 on Ctrl-C."""
    try:
        with _one_line_errors():
            app()
    except KeyboardInterrupt:  # while a command was still being imported
        sys.exit(130)
    sys.exit(0)


@app.command()
def demo(
    folder: Annotated[
        Path, typer.Option("--out", help="Folder to write to; made if it does not exist.")
    ] = Path("demo"),
    settings: SetOption = None,
) -> None:
    """Train on real handwritten digits, then measure what is known and what is not.

    Takes some minutes on two CPU cores, needs no download, and leaves a table and pictures.
    """
    with _one_line_errors(_again("demo", "--out", folder, *_sets(settings))):
        from attractor_ae.workflows import run_demo

        began = time.monotonic()
        with _progress() as display:
            result = run_demo(
                folder,
                overrides=settings or (),
                on_training=display.training,
                on_testing=display.testing,
            )
        _show(result, folder)
        out.print(f"\nDone in {time.monotonic() - began:.0f} seconds.", highlight=False)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="TOML file of the experiment; see configs/.")],
    folder: Annotated[
        Path | None,
        typer.Option("--out", help="Run folder to make. Default: runs/CONFIG-seedN."),
    ] = None,
    settings: SetOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an interrupted run to the same weights.")
    ] = False,
    data_root: DataRootOption = None,
) -> None:
    """Train the network of an experiment and leave a run folder."""
    with _one_line_errors():
        from attractor_ae.config import ExperimentConfig

        experiment = ExperimentConfig.from_toml(config, settings or ())
        target = folder or Path("runs") / f"{config.stem}-seed{experiment.training.seed}"
    options = [*_sets(settings), *_root(data_root), "--resume"]
    with _one_line_errors(_again("train", config, "--out", target, *options)):
        from attractor_ae.workflows import run_training

        with _progress() as display:
            run = run_training(
                experiment,
                target,
                data_root=data_root,
                resume=resume,
                on_progress=display.training,
            )
        out.print(f"Trained: {run.path}", highlight=False, soft_wrap=True)
        out.print(f"Next: attractor-ae evaluate {run.path}", highlight=False, soft_wrap=True)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    settings: SetOption = None,
    data_root: DataRootOption = None,
) -> None:
    """Measure the uncertainty of a run on known and unknown images.

    Writes scores, metrics, figures and the fitted estimator into the run folder.
    """
    with _one_line_errors(_again("evaluate", run, *_sets(settings), *_root(data_root))):
        from attractor_ae.workflows import run_evaluation

        with _progress() as display:
            result = run_evaluation(
                run, overrides=settings or (), data_root=data_root, on_progress=display.testing
            )
        _show(result, run)


@data_app.command("list")
def data_list(data_root: DataRootOption = None) -> None:
    """List the data sets by name: what they show, whether they are there, how to get them."""
    with _one_line_errors():
        from attractor_ae.data import CATALOGUE, status
        from attractor_ae.data import data_root as folder_of

        table = Table(title="Data sets", title_justify="left")
        for heading in ("name", "what it shows", "there?", "images (classes)", "licence"):
            table.add_column(heading, overflow="fold")
        hints = []
        for name, info in CATALOGUE.items():
            state = status(name, data_root)
            splits = [f"{s}: {n.images} ({n.classes})" for s, n in info.splits.items()]
            table.add_row(
                name,
                info.title,
                "yes" if state.present else "no",
                "\n".join(splits),
                info.licence,
            )
            if not state.present:
                missing = dict.fromkeys(m for ms in state.missing.values() for m in ms)
                hints.append(f"{name}: needs {', '.join(missing)}; {info.obtain}")
        out.print(table)
        out.print(f"Data root: {folder_of(data_root)}", highlight=False, soft_wrap=True)
        for hint in hints:
            out.print(hint, highlight=False, soft_wrap=True)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    if version:
        out.print(f"attractor-ae {__version__}", highlight=False)
        raise typer.Exit


def _again(*words: str | Path) -> str:
    """Return the command that goes on where an interrupted one stopped, ready to be pasted."""
    return shlex.join(["attractor-ae", *(str(word) for word in words)])


def _sets(settings: list[str] | None) -> list[str]:
    return [word for text in settings or () for word in ("--set", text)]


def _root(data_root: Path | None) -> list[str]:
    return [] if data_root is None else ["--data-root", str(data_root)]


@contextmanager
def _one_line_errors(again: str = "") -> Iterator[None]:
    """Turn what a user can repair into one line and exit code 2, and Ctrl-C into 130."""
    try:
        yield
    except AttractorError as error:
        err.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
    except OSError as error:  # e.g. a path that is too long or may not be looked at
        what = f"{error.filename}: " if error.filename else ""
        reason = error.strerror or error
        err.print(
            f"error: {what}{reason}; check the path and its permissions",
            style="red",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        sys.exit(2)
    except KeyboardInterrupt:
        hint = f"; nothing is lost, go on with: {again}" if again else ""
        err.print(f"interrupted{hint}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(130)


def _show(result: "EvaluationResult", folder: Path) -> None:
    from attractor_ae.reporting import detection_table, recursion_table
    from attractor_ae.runs import Run

    pictures = Run(folder).evaluation_folder
    out.print(detection_table(result))
    out.print(recursion_table(result))
    out.print("Pictures and numbers:", highlight=False)
    for path in sorted(pictures.iterdir()):
        if path.suffix in {".png", ".json"}:
            out.print(f"  {path}", highlight=False, soft_wrap=True)


class _Display:
    """Shows how far long work is: bars on a terminal, now and then a line elsewhere."""

    _SECONDS_BETWEEN_LINES = 15

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}
        self._last_line = time.monotonic()

    def training(self, at: "TrainingProgress") -> None:
        """Show the progress of a training."""
        self._show(
            "training",
            at.step,
            at.steps,
            lambda: (
                f"epoch {at.epoch}/{at.epochs}, loss {at.loss:.4g}, "
                f"{at.images_per_second:.0f} images/s"
            ),
            at.seconds_left,
        )

    def testing(self, name: str, done: int, count: int) -> None:
        """Show the progress of scoring one data set."""
        self._show(f"scoring {name}", done, count, lambda: f"{done}/{count} images", None)

    def _show(
        self,
        what: str,
        done: int,
        count: int,
        detail: Callable[[], str],
        seconds_left: float | None,
    ) -> None:
        if self._bars.console.is_terminal:
            if what not in self._tasks:
                self._tasks[what] = self._bars.add_task(what, total=count, detail="")
            self._bars.update(self._tasks[what], completed=done, detail=detail())
        elif done == count or time.monotonic() - self._last_line > self._SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            left = "" if seconds_left is None or done == count else f", {seconds_left:.0f} s left"
            out.print(f"{what}: {detail()}{left}", highlight=False, soft_wrap=True)


@contextmanager
def _progress() -> Iterator[_Display]:
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[detail]}"),
        console=out,
        disable=not out.is_terminal,  # lines are printed instead
    ) as bars:
        yield _Display(bars)
