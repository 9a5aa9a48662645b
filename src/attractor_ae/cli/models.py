"""Commands that make model files and use them."""

import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.cells import cell_len

from attractor_ae._errors import AttractorError, optional_package, quoted_command
from attractor_ae.cli._terminal import NoteReporter, one_line_errors, out, say, terminal_reporter
from attractor_ae.cli.options import DataRootOption, SchedulerOption, SetOption, out_option

if TYPE_CHECKING:
    from attractor_ae.deploy.model import Model
    from attractor_ae.deploy.verdicts import Verdict

# Modules that import PyTorch are imported inside the commands: --help should not wait for it.

_SECONDS = 1.0  # between looks for images that have arrived

_PER_CLASS = (
    "Keep the false-alarm rate for each predicted class with at least 100 calibration images, or "
    "only for all images together."
)
_ALPHA = "Largest fraction of known images that are rejected, on average over calibrations. "
AlphaOption = Annotated[float | None, typer.Option(help=f"{_ALPHA}Default: that of the model.")]
AgainOption = Annotated[
    bool, typer.Option("--again", help="Replace the output file if it exists already.")
]


def fit(
    folder: Annotated[
        str | None,
        typer.Argument(
            help="Folder of images with one sub-folder per class, or of images of one kind; with "
            "sub-folders train and test, the model is evaluated on test. Also a table of paths, or "
            "an array. Not with --from."
        ),
    ] = None,
    target: Annotated[Path, out_option("Model file to write.", "FILE")] = Path("images.model"),
    alpha: Annotated[float, typer.Option(help=f"{_ALPHA}score --alpha overrides it.")] = 0.05,
    size: Annotated[
        int | None,
        typer.Option(
            help="Height and width of the images, a multiple of 16. Default: 160 on features of a "
            "pretrained network; 64 on pixels, or less if the images are smaller."
        ),
    ] = None,
    colour: Annotated[
        bool | None,
        typer.Option(
            "--colour/--grey",
            help="Train on colour or on grey images. Default: colour if the images have colour.",
        ),
    ] = None,
    run: Annotated[
        Path | None, typer.Option("--from", help="Finished run to use instead of training.")
    ] = None,
    bundle: Annotated[
        bool,
        typer.Option(
            "--bundle", help="Write the weights of the pretrained network to the file, too."
        ),
    ] = False,
    thumbnails: Annotated[
        bool,
        typer.Option(
            "--thumbnails",
            help="Write small pictures of the training images to the file, for its report and app.",
        ),
    ] = False,
    per_class: Annotated[bool, typer.Option("--per-class/--together", help=_PER_CLASS)] = True,
    again: AgainOption = False,
    settings: SetOption = None,
    data_root: DataRootOption = None,
) -> None:
    """Train, calibrate and check a model on a folder of known images; write one model file.

    The images are audited first. All are used, some of them for calibration.
    FILE.md, a model card, and FILE.html, a report, say how good the model is.
    To continue after an interruption, run the same command again.
    """
    with one_line_errors(continues=True):
        if (folder is None) == (run is None):
            raise AttractorError("give a folder of images, or a finished run with --from RUN")
        if run is not None and (settings or size or colour is not None):
            raise AttractorError(
                "--from uses the settings of a run; omit --set, --size, --colour and --grey"
            )
        from attractor_ae.deploy.fit import fit_model, model_of_run

        with terminal_reporter() as reporter:
            shared = {"data_root": data_root, "again": again, "bundle": bundle, "alpha": alpha}
            shared |= {"per_class": per_class, "thumbnails": thumbnails, "reporter": reporter}
            if run is not None:
                model = model_of_run(run, target, **shared)
            else:
                chosen = {"size": size, "colour": colour, "overrides": settings or ()}
                model = fit_model(str(folder), target, **chosen, **shared)
        _say_threshold(model, target)
        say(f"Next: {quoted_command('score', target, 'FOLDER', '--out', 'verdicts.csv')}")


ModelArgument = Annotated[Path, typer.Argument(help="Model file written by fit.")]


def score(
    model: ModelArgument,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...",
            help="Folders, images, glob patterns, tables with a column 'path', or '-' for one "
            "path per line from standard input.",
        ),
    ],
    target: Annotated[
        Path | None,
        out_option(
            "File to write, ending in .csv, .jsonl or .parquet. Default: print the rows.", "FILE"
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
        bool | None,
        typer.Option(
            "--per-class/--together",
            help=f"{_PER_CLASS} Default: as the model was fitted; with --fdr, together.",
        ),
    ] = None,
    trials: Annotated[
        tuple[int, int] | None,
        typer.Option(
            metavar="MIN MAX",
            help="Smallest and largest number of masks per image, e.g. 4 20: sampling stops when "
            "the verdict is very unlikely to change. Default: all masks for all images.",
        ),
    ] = None,
    parts: Annotated[
        bool,
        typer.Option(
            "--scores", help="Add the p-value of each score, which shows why an image is unknown."
        ),
    ] = False,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch",
            help="Also score images that arrive later; Ctrl-C writes the file. Needs --out.",
        ),
    ] = False,
    drift: Annotated[
        bool,
        typer.Option(
            "--drift",
            help="Warn if the images, in their order, begin to differ from the calibration "
            "images. Needs --out.",
        ),
    ] = False,
    copy_unknown: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Copy unknown images to this folder. Needs --out."),
    ] = None,
    fail_on_unknown: Annotated[
        bool, typer.Option("--fail-on-unknown", help="Exit with code 3 if an image is unknown.")
    ] = False,
    backend: Annotated[
        str,
        typer.Option(
            help="Where to score: 'local' (this machine) or 'dask' (a cluster, which shares the "
            "images). dask needs --out."
        ),
    ] = "local",
    scheduler: SchedulerOption = None,
    again: AgainOption = False,
) -> None:
    """Give every image a verdict: known, unknown, or unscored with the reason.

    To continue after an interruption, run the same command again.
    """
    with one_line_errors(continues=target is not None):
        only_files = (fdr, copy_unknown, watch or None, drift or None, scheduler)
        if target is None and (backend != "local" or only_files != (None,) * 5):
            raise AttractorError(
                "--fdr, --watch, --drift, --copy-unknown and --backend dask need --out FILE"
            )
        if target is None and sys.stdout is None:
            raise AttractorError("standard output is closed; give --out FILE")
        from attractor_ae.data.decode import displayed
        from attractor_ae.deploy.model import load_model
        from attractor_ae.deploy.table import score_to_file

        loaded = load_model(model)
        unknown = 0
        if target is None:
            names = loaded.ood.components if parts else ()
            width = max(map(cell_len, map(displayed, loaded.classes)))
            width *= len(loaded.classes) > 1
            run = partial(loaded.score_files, alpha=alpha, per_class=per_class, trials=trials)
            for verdict in run(sources, reporter=NoteReporter()):
                unknown += verdict.verdict == "unknown"
                say(_line(verdict, width, names))
        else:
            with terminal_reporter() as reporter:
                run = partial(score_to_file, alpha=alpha, fdr=fdr, per_class=per_class, parts=parts)
                run = partial(run, trials=trials, drift=drift, again=again, reporter=reporter)
                run = partial(run, backend=backend, scheduler=scheduler, copy_unknown=copy_unknown)
                summary = run(loaded, sources, target, watch=_SECONDS if watch else None)
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
    target: Annotated[Path, out_option("Model file to write.", "FILE")],
    alpha: AlphaOption = None,
    again: AgainOption = False,
) -> None:
    """Calibrate a model on other known images, without training."""
    with one_line_errors():
        from attractor_ae.deploy.fit import recalibrate

        with terminal_reporter() as reporter:
            made = recalibrate(model, folder, target, alpha=alpha, again=again, reporter=reporter)
        _say_threshold(made, target)


def _say_threshold(model: "Model", target: Path) -> None:
    from attractor_ae.deploy.card import card_path, false_alarm_lines

    for line in (model.threshold(), *false_alarm_lines(model)):
        say(line)
    if model.facts["self_check"].get("self_check") == "failed":
        say("The self-check failed, so verdicts may be poor: see the card and docs/verdicts.md")
    say(f"Model: {target}, card: {card_path(target)}, report: {target}.html")


HostOption = Annotated[
    str, typer.Option(help="Address to listen on; other machines reach it with 0.0.0.0.")
]
PortOption = Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: a free one.")]


def serve(
    model: ModelArgument,
    host: HostOption = "127.0.0.1",
    port: PortOption = 8000,
    alpha: AlphaOption = None,
    megabytes: Annotated[float, typer.Option(min=0.001, help="Largest request.")] = 32,
    megapixels: Annotated[float, typer.Option(min=0.001, help="Largest image.")] = 50,
    queue: Annotated[int, typer.Option(min=1, help="Images in progress, at most.")] = 512,
    seconds: Annotated[float, typer.Option(min=0.1, help="Longest time for a request.")] = 30,
) -> None:
    """Serve a model over HTTP: POST images to /score to get their rows.

    It does not authenticate users: keep it on this machine, or behind a server that does.
    """
    with one_line_errors():
        for package in ("uvicorn", "fastapi", "python_multipart", "prometheus_client"):
            optional_package(package, "serve", "the server")
        from attractor_ae.deploy.model import load_model
        from attractor_ae.deploy.server import Limits, make_app

        limits = Limits(round(megabytes * 2**20), round(megapixels * 1e6), queue, seconds)
        app = make_app(load_model(model), alpha=alpha, limits=limits)
        _serve(app, host, port, "The interface is described at http://{}/docs")


def app(
    model: ModelArgument,
    images: Annotated[
        list[str] | None,
        typer.Option(
            help="Folder of images to pick from. If it is that of the training images, the most "
            "similar ones are shown with each image. Can be repeated."
        ),
    ] = None,
    host: HostOption = "127.0.0.1",
    port: PortOption = 7860,
    alpha: AlphaOption = None,
    megabytes: Annotated[float, typer.Option(min=0.001, help="Largest file.")] = 32,
) -> None:
    """Show the verdict on an image in a browser: drop, draw or pick one.

    It does not authenticate users: keep it on this machine, or behind a server that does.
    """
    with one_line_errors():
        optional_package("gradio", "app", "the app")
        from attractor_ae.deploy.app import make_app
        from attractor_ae.deploy.model import load_model

        limit = round(megabytes * 2**20)
        made = make_app(load_model(model), images or (), alpha=alpha, largest=limit)
        # A page that is open keeps a connection; ending it is not an error.
        more = {"timeout_graceful_shutdown": 1, "log_level": "critical"}
        _serve(made, host, port, "The app is at http://{}", **more)


def _serve(app: Any, host: str, port: int, text: str, **more: Any) -> None:  # noqa: ANN401
    """Serve an ASGI application until Ctrl-C; say ``text`` with the address."""
    import uvicorn

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        reason = f"cannot listen: {error.strerror}; give another --host or --port"
        raise AttractorError(reason) from None
    address = f"[{host}]" if family == socket.AF_INET6 else host
    say(f"{text.format(f'{address}:{listener.getsockname()[1]}')}; Ctrl-C ends the server.")
    settings = {"log_level": "warning", "timeout_keep_alive": 5, **more}
    server = uvicorn.Server(uvicorn.Config(app, **settings))
    with suppress(KeyboardInterrupt):
        server.run([listener])


RepositoryArgument = Annotated[
    str, typer.Argument(metavar="OWNER/NAME", help="Repository on the Hugging Face Hub.")
]


def push(model: ModelArgument, repository: RepositoryArgument) -> None:
    """Upload a model file and its card to the Hugging Face Hub; a new repository is private."""
    with one_line_errors():
        from attractor_ae.deploy.hub import push_model

        say(f"Uploaded: {push_model(model, repository)}")
        say(f"Next: {quoted_command('pull', repository, '--out', model.name)}")


def pull(
    repository: RepositoryArgument,
    target: Annotated[Path, out_option("Model file to write.", "FILE")] = Path("images.model"),
    again: AgainOption = False,
) -> None:
    """Download a model file and its card from the Hugging Face Hub."""
    with one_line_errors():
        from attractor_ae.deploy.card import card_path
        from attractor_ae.deploy.hub import pull_model

        say(pull_model(repository, target, again=again).threshold())
        say(f"Model: {target}, card: {card_path(target)}")


def export(
    model: ModelArgument,
    target: Annotated[
        Path,
        out_option(
            "File to write, e.g. parts.onnx; the dropout masks go to parts.masks.npz.", "FILE"
        ),
    ],
    form: Annotated[
        str, typer.Option("--format", help="onnx, or torch: a program of torch.export.")
    ] = "onnx",
    again: AgainOption = False,
) -> None:
    """Write a model as one graph from images to verdicts, for use without this package.

    The graph is compared with the library before it is written.
    """
    with one_line_errors():
        from attractor_ae.deploy.export import export_model

        made = export_model(model, target, form=form, again=again, reporter=NoteReporter())
        worst = max(made["check"]["largest_differences"].values())
        say(f"Largest difference from the library on {made['check']['images']} images: {worst:.1e}")
        say(f"Graph: {target}, masks: {target.with_name(made['masks'])}")


def attractors(
    source: Annotated[
        Path, typer.Argument(metavar="RUN_OR_MODEL", help="Finished run, or model file.")
    ],
    folder: Annotated[Path, out_option("Folder to write to.")] = Path("attractors"),
    images: Annotated[
        list[str] | None,
        typer.Option(
            help="Folder of images to start from. For a model file, the first folder with known "
            "images is used as its training images. Can be repeated."
        ),
    ] = None,
    data_root: DataRootOption = None,
) -> None:
    """Find the attractors: their number, where images and noise end, how stable they are."""
    with one_line_errors():
        from attractor_ae.deploy.attractors import find_attractors
        from attractor_ae.reporting.attractors import attractor_table

        with terminal_reporter() as reporter:
            find = partial(find_attractors, data_root=data_root, reporter=reporter)
            found = find(source, folder, images or ())
        out.print(attractor_table(found))
        for path in sorted(folder.iterdir()):
            if path.suffix in {".png", ".gif", ".json"}:
                say(str(path))


def _line(verdict: "Verdict", width: int, parts: Sequence[str]) -> str:
    """Return a row in columns: the class in ``width`` cells, and the path last."""
    from attractor_ae.data.decode import displayed

    p = "" if verdict.p_value is None else f"p {verdict.p_value:.3g}"
    cells = [(verdict.verdict, 8), (p, 10)]
    if width:
        cells.append((displayed(verdict.label), width))
    for name in parts:
        p = f"{name} {verdict.parts[name]:.3g}" if verdict.parts else ""
        cells.append((p, len(name) + 9))
    path = f"{displayed(verdict.path)}{verdict.reason and ': '}{verdict.reason}"
    return "  ".join([*(text + " " * (width - cell_len(text)) for text, width in cells), path])
