"""Output of the command line: lines, one-line errors and progress."""

import codecs
import io
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from attractor_ae._errors import AttractorError, quoted_command
from attractor_ae._files import remedy_of
from attractor_ae._reporter import Reporter, duration

# Names may contain square brackets and colons, which rich would read as markup and emoji.
out = Console(markup=False, emoji=False, highlight=False)
err = Console(stderr=True, markup=False, emoji=False, highlight=False)

_ASCII = {"±": "+-", "…": "...", "→": "->", "↑": "^", "↓": "v"}


def show_every_character() -> None:
    """Replace what a terminal or pipe cannot show, e.g. with LANG=C; the default is an error."""
    codecs.register_error("attractor_ae", _replaced)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not None, or replaced by another program
            stream.reconfigure(errors="attractor_ae")


def _replaced(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    shown = []
    for character in error.object[error.start : error.end]:
        # Bytes of a file name that are not UTF-8 are surrogates.
        byte = ord(character) - 0xDC00
        escaped = f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else ascii(character)[1:-1]
        shown.append(_ASCII.get(character, escaped))
    return "".join(shown), error.end


@contextmanager
def one_line_errors(*, continues: bool = False, resume: str = "", hint: str = "") -> Iterator[None]:
    """Print an error that a user can repair as one line and exit with 2; on Ctrl-C exit with 130.

    ``continues``: whether the same command, with the option ``resume`` if one is given, continues
    after an interruption; ``hint``: otherwise the text to print after an interruption.
    """
    try:
        yield
    except AttractorError as error:
        complain(f"error: {error}", style="red")
        sys.exit(2)
    except OSError as error:  # e.g. a path that is too long, or without permission
        what = error.filename or "output"
        remedy = remedy_of(error, "check the path and its permissions")
        complain(f"error: {what}: {error.strerror or error}; {remedy}", style="red")
        sys.exit(2)
    except KeyboardInterrupt:
        if continues:
            words = sys.argv[1:]
            words += [resume] if resume and resume not in words else []
            hint = f"to continue, run: {quoted_command(*words)}"
        complain(f"interrupted{hint and '; '}{hint}")
        sys.exit(130)


def say(line: str) -> None:
    """Print a line without wrapping or colouring it."""
    out.print(line, soft_wrap=True)


def complain(line: str, style: str = "") -> None:
    """Print a line to standard error without wrapping it."""
    err.print(line, style=style, soft_wrap=True)


class NoteReporter(Reporter):
    """Reporter that prints notes to standard error, each once."""

    def __init__(self) -> None:
        self._noted: set[str] = set()

    def note(self, line: str) -> None:
        """Print a note."""
        if line not in self._noted:
            self._noted.add(line)
            complain(line)


class TerminalReporter(NoteReporter):
    """Reporter that also shows progress bars on a terminal and occasional lines elsewhere."""

    _SECONDS_BETWEEN_LINES = 15

    def __init__(self, bars: Progress) -> None:
        super().__init__()
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}
        self._last_line = time.monotonic()

    def progress(
        self, task: str, done: int, total: int, detail: str = "", seconds_left: float | None = None
    ) -> None:
        """Show the progress of a task."""
        shown = detail or f"{done}/{total} images"
        if self._bars.console.is_terminal:
            if task not in self._tasks:
                self._tasks[task] = self._bars.add_task(task, total=total, detail="")
            self._bars.update(self._tasks[task], completed=done, detail=shown)
        elif done in (0, total) or time.monotonic() - self._last_line > self._SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            left = "" if not seconds_left or done == total else f", {duration(seconds_left)} left"
            say(f"{task}: {shown}{left}")


@contextmanager
def terminal_reporter() -> Iterator[TerminalReporter]:
    """Yield a reporter; its progress bars are closed when the block ends."""
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[detail]}", markup=False),
        console=out,
        disable=not out.is_terminal,  # lines are printed instead
    ) as bars:
        yield TerminalReporter(bars)
