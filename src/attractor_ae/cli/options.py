"""Options that several commands have."""

from pathlib import Path
from typing import Annotated, Any

import typer


def folder_path(text: str | Path) -> Path:
    """Return the path of a folder to write to; ``""`` would be the current one by accident."""
    if not str(text).strip():
        raise typer.BadParameter("must be the path of a folder; it is empty")
    return Path(text)


def out_option(text: str) -> Any:  # noqa: ANN401
    """Return ``--out``, the folder that a command writes to, with ``text`` as its help."""
    return typer.Option("--out", parser=folder_path, metavar="FOLDER", help=text)


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
