"""Commands that make model files and use them."""

from pathlib import Path
from typing import Annotated, Any

import typer

from attractor_ae._errors import AttractorError, quoted_command
from attractor_ae.cli._terminal import one_line_errors, say, terminal_reporter
from attractor_ae.cli.options import DataRootOption, SetOption

# Modules that import PyTorch are imported inside the commands: --help should not wait for it.

AlphaOption = Annotated[
    float | None,
    typer.Option(
        help="Largest fraction of known images that are rejected, on average over calibrations. "
        "Default: that of the model, which is 0.05 unless fit was called with another."
    ),
]
AgainOption = Annotated[
    bool, typer.Option("--again", help="Replace the output file if it exists already.")
]


def model_out(text: str) -> Any:  # noqa: ANN401
    """Return the option ``--out`` for an output file, with ``text`` as its help."""
    return typer.Option("--out", metavar="FILE", help=text)


def fit(
    folder: Annotated[
        str | None,
        typer.Argument(
            help="Folder of images with one sub-folder per class; also a table of paths, or an "
            "array. With --from, it is not needed."
        ),
    ] = None,
    target: Annotated[Path, model_out("Model file to write.")] = Path("images.model"),
    alpha: AlphaOption = None,
    size: Annotated[
        int | None,
        typer.Option(
            help="Height and width of the images, a multiple of 16. Default: 96 on features of a "
            "pretrained network, 64 on pixels."
        ),
    ] = None,
    colour: Annotated[
        bool | None,
        typer.Option(
            "--colour/--grey",
            help="Whether the network sees colour. Default: if the images have colour.",
        ),
    ] = None,
    run: Annotated[
        Path | None, typer.Option("--from", help="Finished run to take instead of training.")
    ] = None,
    again: AgainOption = False,
    settings: SetOption = None,
    data_root: DataRootOption = None,
) -> None:
    """Train, calibrate and check a model on a folder of known images; write one model file.

    The images are audited first. All images are used, some of them for calibration. An interrupted
    call continues when it is made again. A model card is written next to the file.
    """
    with one_line_errors(continues=True):
        if (folder is None) == (run is None):
            raise AttractorError("give a folder of images, or a finished run with --from RUN")
        if run is not None and (settings or size or colour is not None):
            raise AttractorError("--from takes a finished run; --set, --size and --colour are its")
        from attractor_ae.deploy.fit import card_path, fit_model, model_of_run

        with terminal_reporter() as reporter:
            shared = {"data_root": data_root, "again": again, "reporter": reporter}
            shared |= {} if alpha is None else {"alpha": alpha}
            if run is not None:
                model = model_of_run(run, target, **shared)
            else:
                model = fit_model(
                    str(folder),
                    target,
                    size=size,
                    colour=colour,
                    overrides=settings or (),
                    **shared,
                )
        say(model.threshold())
        say(f"Model: {target}, card: {card_path(target)}")
        say(f"Next: {quoted_command('score', target, 'FOLDER', '--out', 'verdicts.csv')}")
