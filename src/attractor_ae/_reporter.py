"""Progress and notes of long work: one object, handed down."""


class Reporter:
    """A reporter that shows nothing; the command line has one that prints."""

    def progress(
        self, task: str, done: int, total: int, detail: str = "", seconds_left: float | None = None
    ) -> None:
        """Report how far a task is.

        Args:
            task: What is done, e.g. ``"scoring faces"``; a new name starts a new task.
            done, total: Finished units, and all of them.
            detail: Further figures, e.g. the loss; by default the units are shown.
            seconds_left: Estimated time to the end.
        """

    def note(self, line: str) -> None:
        """Report a line that should be read, e.g. a file that is left out."""

    def prefixed(self, prefix: str) -> "Reporter":
        """Return a reporter that writes ``prefix`` in front of every task."""
        return _Prefixed(self, prefix)


class _Prefixed(Reporter):
    def __init__(self, reporter: Reporter, prefix: str) -> None:
        self._reporter, self._prefix = reporter, prefix

    def progress(
        self, task: str, done: int, total: int, detail: str = "", seconds_left: float | None = None
    ) -> None:
        self._reporter.progress(f"{self._prefix}{task}", done, total, detail, seconds_left)

    def note(self, line: str) -> None:
        self._reporter.note(line)


SILENT = Reporter()
"""The default reporter."""
