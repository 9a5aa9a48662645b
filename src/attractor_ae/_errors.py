"""The error that a user can repair, and helpers for its message."""

import difflib
import shlex
from collections.abc import Iterable


class AttractorError(Exception):
    """An error that a user can repair, in one line: what is wrong, where, and what to do.

    The command line prints the line and exits with code 2.
    """


def unknown_name(kind: str, name: str, known: Iterable[str]) -> AttractorError:
    """Return the error for a name that is not in ``known``; it suggests the most similar one.

    Examples:
        >>> print(unknown_name("loss", "sim", ["ssim", "mse"]))
        unknown loss 'sim'; did you mean 'ssim'? Known: ssim, mse
    """
    spelled = {candidate.lower(): candidate for candidate in known}
    nearest = difflib.get_close_matches(name.lower(), spelled, n=1, cutoff=0.5)
    guess = f"; did you mean {spelled[nearest[0]]!r}? Known" if nearest else "; known"
    names = ", ".join(candidate or '""' for candidate in spelled.values())
    return AttractorError(f"unknown {kind} {name!r}{guess}: {names}")


def quoted_command(*words: object) -> str:
    """Return a command of this program, quoted for the shell.

    Examples:
        >>> print(quoted_command("evaluate", "runs/my pets"))
        attractor-ae evaluate 'runs/my pets'
    """
    return shlex.join(["attractor-ae", *map(str, words)])
