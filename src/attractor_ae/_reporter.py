"""Progress and notes of long work: one object, handed down."""


class Reporter:
    """A reporter that shows nothing; the command line has one that prints."""

    def progress(
        self,
        task: str,
        done: int,
        total: int,
        detail: str = "",
        seconds_left: float | None = None,
    ) -> None:
        """Report how far a task is.

        Parameters
        ----------
        task
            What is done, e.g. ``"scoring faces"``; a new name starts a new task.
        done, total
            Finished units, and all of them.
        detail
            Further figures, e.g. the loss; by default the units are shown.
        seconds_left
            Estimated time to the end.
        """

    def note(self, line: str) -> None:
        """Report a line that should be read, e.g. a file that is left out."""


SILENT = Reporter()
"""The default reporter."""
