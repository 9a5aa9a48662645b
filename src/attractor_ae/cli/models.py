"""Commands that make model files and use them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attractor_ae._errors import AttractorError, quoted_command
from attractor_ae.cli._terminal import one_line_errors, out, say, terminal_reporter
from attractor_ae.cli.options import DataRootOption, SetOption, out_option

if TYPE_CHECKING:
    from attractor_ae.deploy.verdicts import Verdict

# Modules that import PyTorch are imported inside the commands: --help should not wait for it.

_SECONDS = 1.0  # between looks for images that have arrived

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
            help="Height and width of the images, a multiple of 16. Default: 160 on features of a "
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
    bundle: Annotated[
        bool,
        typer.Option(
            "--bundle", help="Write the weights of the pretrained network to the file, too."
        ),
    ] = False,
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
            shared["bundle"] = bundle
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


ModelArgument = Annotated[Path, typer.Argument(help="Model file, which fit has written.")]


def score(
    model: ModelArgument,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...",
            help="Folders, images, patterns of them, tables with a column 'path', or '-' for one "
            "path per line from standard input.",
        ),
    ],
    target: Annotated[
        Path | None,
        model_out(
            "File to write, ending in .csv, .jsonl or .parquet. Default: rows on the terminal."
        ),
    ] = None,
    alpha: AlphaOption = None,
    fdr: Annotated[
        float | None,
        typer.Option(
            help="Instead of alpha, the largest expected fraction of known images among the "
            "unknown verdicts of the file (Benjamini and Hochberg). Needs --out."
        ),
    ] = None,
    per_class: Annotated[
        bool,
        typer.Option(
            "--per-class",
            help="Keep the false-alarm rate for each predicted class with at least 100 calibration "
            "images, not only for all together.",
        ),
    ] = False,
    parts: Annotated[
        bool,
        typer.Option(
            "--scores", help="Add the p-value of each score: which of them rejected an image."
        ),
    ] = False,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch",
            help="Go on with images that arrive, until Ctrl-C; then write the file. Needs --out.",
        ),
    ] = False,
    drift: Annotated[
        bool,
        typer.Option(
            "--drift",
            help="Warn if the images, in their order, stop being like the calibration images. "
            "Needs --out.",
        ),
    ] = False,
    copy_unknown: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Copy unknown images to this folder. Needs --out."),
    ] = None,
    fail_on_unknown: Annotated[
        bool, typer.Option("--fail-on-unknown", help="Exit with code 3 if an image is unknown.")
    ] = False,
    again: AgainOption = False,
) -> None:
    """Give every image a verdict: known, unknown, or unscored with the reason.

    An interrupted call continues when it is made again.
    """
    with one_line_errors(continues=target is not None):
        if target is None and (fdr is not None or copy_unknown is not None or watch or drift):
            raise AttractorError("--fdr, --watch, --drift and --copy-unknown need --out FILE")
        from attractor_ae.deploy.model import load_model
        from attractor_ae.deploy.table import score_to_file

        loaded = load_model(model)
        if target is None:
            unknown = 0
            for verdict in loaded.score_files(sources, alpha=alpha, per_class=per_class):
                unknown += verdict.verdict == "unknown"
                say(_line(verdict, parts))
        else:
            with terminal_reporter() as reporter:
                summary = score_to_file(
                    loaded,
                    sources,
                    target,
                    alpha=alpha,
                    fdr=fdr,
                    per_class=per_class,
                    parts=parts,
                    watch=_SECONDS if watch else None,
                    drift=drift,
                    copy_unknown=copy_unknown,
                    again=again,
                    reporter=reporter,
                )
            unknown = summary.unknown
            say(f"{summary}: {target}")
    if fail_on_unknown and unknown:
        raise typer.Exit(3)


def calibrate(
    model: ModelArgument,
    folder: Annotated[
        str,
        typer.Argument(
            help="Folder of known images that the model was not trained on, with or without "
            "sub-folders for the classes."
        ),
    ],
    target: Annotated[Path, model_out("Model file to write.")],
    alpha: AlphaOption = None,
    again: AgainOption = False,
) -> None:
    """Calibrate a model on other known images, without training."""
    with one_line_errors():
        from attractor_ae.deploy.fit import card_path, recalibrate

        with terminal_reporter() as reporter:
            made = recalibrate(model, folder, target, alpha=alpha, again=again, reporter=reporter)
        say(made.threshold())
        say(f"Model: {target}, card: {card_path(target)}")


def attractors(
    source: Annotated[
        Path, typer.Argument(metavar="RUN_OR_MODEL", help="Finished run, or model file.")
    ],
    folder: Annotated[Path, out_option("Folder to write to.")] = Path("attractors"),
    images: Annotated[
        list[str] | None,
        typer.Option(
            help="Folder of images to start from. Of a model file, the first with known images "
            "stands for its training images. May be repeated."
        ),
    ] = None,
    data_root: DataRootOption = None,
) -> None:
    """Find the attractors: how many there are, where images and noise end, what images bear."""
    with one_line_errors():
        from attractor_ae.deploy.attractors import find_attractors
        from attractor_ae.reporting.attractors import attractor_table

        with terminal_reporter() as reporter:
            shared = {"data_root": data_root, "reporter": reporter}
            found = find_attractors(source, folder, images or (), **shared)
        out.print(attractor_table(found))
        for path in sorted(folder.iterdir()):
            if path.suffix in {".png", ".gif", ".json"}:
                say(str(path))


def _line(verdict: "Verdict", parts: bool) -> str:
    from attractor_ae.data.decode import displayed

    path = displayed(verdict.path)
    if verdict.reason:
        return f"{verdict.verdict:8} {path}: {verdict.reason}"
    more = "".join(f"  {name} {p:.3g}" for name, p in verdict.parts.items()) if parts else ""
    return f"{verdict.verdict:8} p {verdict.p_value:<8.3g} {verdict.label}  {path}{more}"
