"""Options shared by several commands."""

from pathlib import Path
from typing import Annotated, Any

import typer


def output_path(text: str | Path) -> Path:
    """Return the path of an output; refuse ``""``, which would be the current folder."""
    if not str(text).strip():
        raise typer.BadParameter("is empty; give a path")
    return Path(text)


def out_option(text: str, metavar: str = "FOLDER", *names: str) -> Any:  # noqa: ANN401
    """Return the option ``--out``, or ``names``, for an output, with ``text`` as its help."""
    return typer.Option(*(names or ("--out",)), parser=output_path, metavar=metavar, help=text)


SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SECTION.KEY=VALUE",
        help="Override a key of the config, e.g. training.epochs=200. Can be repeated.",
    ),
]
DataRootOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the data sets' files. Default: $ATTRACTOR_AE_DATA, or the user's data "
        "directory."
    ),
]
GridOption = Annotated[
    str,
    typer.Option(
        help="Thresholds of the metrics: exact (every distinct score), or paper (50 fixed ones, as "
        "in the released code)."
    ),
]
OrientationOption = Annotated[
    str,
    typer.Option(
        help="Which images are the positive class of AUPR and FPR95: known (in) or unknown (out)."
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        help="Number of runs trained at the same time. Default: one per core; one on a GPU."
    ),
]
SchedulerOption = Annotated[
    str | None, typer.Option(help="Address of the cluster's scheduler. Only for dask.")
]
