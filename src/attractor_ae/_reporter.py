"""Reporters, which receive progress and notes from long-running functions."""


def percent(share: float) -> str:
    """Return a share in percent, e.g. "4.8 %"."""
    return f"{100 * share:.1f} %"


def duration(seconds: float) -> str:
    """Return a duration as text, in at most two units.

    Examples:
        >>> duration(45.0), duration(750.0), duration(11_500.0), duration(1_728_732.0)
        ('45 s', '12 min', '3 h 11 min', '20 days')
    """
    minutes = int(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    hours = minutes // 60
    return f"{hours} h {minutes % 60} min" if hours < 48 else f"{hours // 24} days"


class Reporter:
    """Reporter that shows nothing; the command line has a subclass that prints."""

    def progress(
        self, task: str, done: int, total: int, detail: str = "", seconds_left: float | None = None
    ) -> None:
        """Report that ``done`` of ``total`` units of a task are finished; a new name starts a task.

        ``detail``: text to show instead of the units.
        """

    def note(self, line: str) -> None:
        """Report a line that the user should read, e.g. that a file is left out."""

    def prefixed(self, prefix: str) -> "Reporter":
        """Return a reporter that puts ``prefix`` in front of the name of every task."""
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
