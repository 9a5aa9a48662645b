"""The error that a user can repair, and helpers that raise it or write its message."""

import difflib
import importlib
import shlex
from collections.abc import Iterable
from typing import Any


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
    nearest = difflib.get_close_matches(name.lower(), spelled, n=1)
    guess = f"; did you mean {spelled[nearest[0]]!r}? Known" if nearest else "; known"
    names = ", ".join(candidate or '""' for candidate in spelled.values())
    return AttractorError(f"unknown {kind} {name!r}{guess}: {names}")


def check_known(kind: str, name: str, known: Iterable[str]) -> None:
    """Raise the error of `unknown_name` unless ``name`` is in ``known``."""
    if name not in known:
        raise unknown_name(kind, name, known)


def check_at_least(smallest: int, **counts: int) -> None:
    """Raise an AttractorError that names the first count below ``smallest``."""
    for name, value in counts.items():
        if value < smallest:
            raise AttractorError(f"{name} must be at least {smallest}, got {value}")


def optional_package(name: str, extra: str, user: str) -> Any:  # noqa: ANN401
    """Import a package that ``user`` needs and that ``extra`` of this package installs."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise AttractorError(
            f"{user} needs the package {name}; install it with: pip install 'attractor-ae[{extra}]'"
        ) from None


def quoted_command(*words: object) -> str:
    """Return a command of this program, quoted for the shell.

    Examples:
        >>> print(quoted_command("evaluate", "runs/my pets"))
        attractor-ae evaluate 'runs/my pets'
    """
    return shlex.join(["attractor-ae", *map(str, words)])
