"""Options that several commands have, and the command that goes on after an interruption."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

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
GridOption = Annotated[
    str, typer.Option("--grid", help="Thresholds: exact, or paper (those of the released code).")
]
OrientationOption = Annotated[
    str, typer.Option("--orientation", help="Positive class of AUPR and FPR95: in, or out.")
]


def again(*words: str | Path) -> str:
    """Return the command that goes on where an interrupted one stopped, ready to be pasted."""
    return shlex.join(["attractor-ae", *(str(word) for word in words)])


def sets(settings: list[str] | None) -> list[str]:
    """Return the words that say ``--set`` again."""
    return [word for text in settings or () for word in ("--set", text)]


def root(data_root: Path | None) -> list[str]:
    """Return the words that say ``--data-root`` again."""
    return [] if data_root is None else ["--data-root", str(data_root)]
