"""What the command line shows: lines, errors in one line, and how far long work is."""

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from attractor_ae._errors import AttractorError

if TYPE_CHECKING:
    from attractor_ae.data import ImageSet
    from attractor_ae.experiment.sweep import SweepProgress
    from attractor_ae.training import Progress as TrainingProgress

out = Console()
err = Console(stderr=True)


@contextmanager
def one_line_errors(again: str = "", hint: str = "") -> Iterator[None]:
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
        told = f"nothing is lost, go on with: {again}" if again else hint
        err.print(
            f"interrupted{told and '; '}{told}", markup=False, highlight=False, soft_wrap=True
        )
        sys.exit(130)


def say(line: str) -> None:
    """Print a line as it is: neither wrapped nor coloured."""
    out.print(line, markup=False, highlight=False, soft_wrap=True)


def complain(line: str) -> None:
    """Print a line to standard error, as `say` does."""
    err.print(line, markup=False, highlight=False, soft_wrap=True)


def warn_of(images: "ImageSet") -> None:
    """Tell which files were left out; of many, the first."""
    broken = images.left_out
    for path, reason in broken[:10]:
        err.print(f"left out: {path}: {reason}", markup=False, highlight=False, soft_wrap=True)
    if len(broken) > 10:
        err.print(f"left out: {len(broken) - 10} more", markup=False, highlight=False)


class Display:
    """Shows how far long work is: bars on a terminal, now and then a line elsewhere."""

    _SECONDS_BETWEEN_LINES = 15

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}
        self._last_line = time.monotonic()

    def training(self, at: "TrainingProgress") -> None:
        """Show the progress of a training; of a classifier, its accuracy as well."""
        accuracy = "" if math.isnan(at.accuracy) else f"accuracy {at.accuracy:.1%}, "
        self._show(
            "training",
            at.step,
            at.steps,
            lambda: (
                f"epoch {at.epoch}/{at.epochs}, loss {at.loss:.4g}, {accuracy}"
                f"{at.images_per_second:.0f} images/s"
            ),
            at.seconds_left,
        )

    def testing(self, name: str, done: int, count: int) -> None:
        """Show the progress of scoring one data set."""
        self._show(f"scoring {name}", done, count, lambda: f"{done}/{count} images", None)

    def testing_of(self, run: str, name: str, done: int, count: int) -> None:
        """Show the progress of scoring one data set with one of several runs."""
        self.testing(f"{run}{name}", done, count)

    def sweeping(self, at: "SweepProgress") -> None:
        """Show the progress of a sweep: a line for each run that has ended."""
        left = "" if at.seconds_left is None else f", {at.seconds_left:.0f} s left"
        what = f"failed: {at.error}" if at.error else "trained"
        place = f"{at.job.folder.parent.name}/{at.job.folder.name}"
        out.print(
            f"{at.done} of {at.total}: {place} {what}{left}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )

    def preparing(self, what: str, done: int, count: int) -> None:
        """Show the progress of decoding images."""
        self._show(f"preparing {what}", done, count, lambda: f"{done}/{count} images", None)

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
def progress_display() -> Iterator[Display]:
    """Give a display of how far work is; on a terminal its bars end with the block."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[detail]}"),
        console=out,
        disable=not out.is_terminal,  # lines are printed instead
    ) as bars:
        yield Display(bars)
