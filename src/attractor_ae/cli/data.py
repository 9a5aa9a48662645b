"""Commands for data sets."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from attractor_ae.cli._terminal import one_line_errors, out, say, terminal_reporter
from attractor_ae.cli.options import DataRootOption

if TYPE_CHECKING:
    from attractor_ae.data import DatasetStatus

# Modules that import PyTorch are imported inside the commands: --help should not wait for it.

data_app = typer.Typer(no_args_is_help=True, help="List, download, prepare and show data sets.")

SplitsOption = Annotated[
    list[str] | None,
    typer.Option("--split", help="Split to prepare. Can be repeated. Default: all splits."),
]
FactorOption = Annotated[
    str, typer.Option(help="Variant of the data set, e.g. one car model of SVIRO.")
]
PerClassOption = Annotated[int, typer.Option(help="Number of images per class; -1: all.")]
SubsetSeedOption = Annotated[
    int | None,
    typer.Option(
        help="Seed of the random choice of --per-class images. Default: use the first images of "
        "each class."
    ),
]
SizeOption = Annotated[int, typer.Option(help="Height and width of the images, a multiple of 16.")]
ChannelsOption = Annotated[int, typer.Option(help="Number of channels: 1 (grey) or 3 (colour).")]
MaxBrokenOption = Annotated[
    float, typer.Option(help="Skip broken files up to this fraction of all files; fail above it.")
]


@data_app.command("list")
def data_list(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Names of data sets, or paths of your own images, to describe in full. Default: a "
            "short list of all."
        ),
    ] = None,
    data_root: DataRootOption = None,
) -> None:
    """List the data sets: content, whether they are present, and how to get them."""
    with one_line_errors():
        from attractor_ae.data import CATALOGUE, find_dataset, own_names
        from attractor_ae.data import data_root as folder_of

        every = names or (*CATALOGUE, *own_names(data_root))
        states = [find_dataset(name, data_root).status() for name in every]
        if names:
            for state in states:
                _describe(state)
        else:
            out.print(_listing(states))
        say(f"Data root: {folder_of(data_root)}")
        if not names:
            say("To describe one data set in full, run: attractor-ae data list NAME")
            say("For your own images, give a path instead of a name: a folder with one sub-folder")
            say("per class, a flat folder, a .csv or .parquet table of paths and labels, or a")
            say(".npz or .npy array.")
            say("Images in the data root are listed above and can be given by name.")


@data_app.command("download")
def data_download(
    names: Annotated[list[str], typer.Argument(help="Names of data sets.")],
    data_root: DataRootOption = None,
) -> None:
    """Download the official files of data sets and verify their checksums."""
    with one_line_errors(continues=True):
        from attractor_ae.data import data_root as folder_of
        from attractor_ae.data import download

        for name in names:
            download(name, data_root)
            say(f"{name}: is in {folder_of(data_root)}")


@data_app.command("prepare")
def data_prepare(
    names: Annotated[
        list[str], typer.Argument(help="Names of data sets, or paths of your own images.")
    ],
    splits: SplitsOption = None,
    factor: FactorOption = "",
    per_class: PerClassOption = -1,
    subset_seed: SubsetSeedOption = None,
    size: SizeOption = 64,
    channels: ChannelsOption = 1,
    max_broken: MaxBrokenOption = 0.01,
    data_root: DataRootOption = None,
) -> None:
    """Decode and resize images in advance, so that later commands start faster."""
    with one_line_errors(hint="the current split will be prepared from the start next time"):
        from attractor_ae.data import ImageFormat, Wanted, find_dataset

        with terminal_reporter() as reporter:
            form = ImageFormat(size, channels)
            wanted = Wanted(per_class, subset_seed, factor, form, None, max_broken, reporter)
            for name in names:
                dataset = find_dataset(name, data_root)
                for split in splits or dataset.info.splits:
                    images = dataset.load(split, wanted)
                    say(f"{name} {split}: {len(images)} images, {len(images.classes)} classes")


@data_app.command("show")
def data_show(
    name: Annotated[str, typer.Argument(help="Name of a data set, or path of your own images.")],
    split: Annotated[
        str | None, typer.Option(help="Split to show. Default: the test split.")
    ] = None,
    factor: FactorOption = "",
    per_class: PerClassOption = -1,
    subset_seed: SubsetSeedOption = None,
    size: SizeOption = 64,
    channels: ChannelsOption = 1,
    max_broken: MaxBrokenOption = 0.01,
    file: Annotated[
        Path | None,
        typer.Option("--out", help="Path to write to, as .png and .pdf. Default: NAME-SPLIT."),
    ] = None,
    data_root: DataRootOption = None,
) -> None:
    """Write a contact sheet: one row of images per class, with the size of the class."""
    with one_line_errors():
        from attractor_ae.data import ImageFormat, Wanted, find_dataset
        from attractor_ae.reporting.contact_sheet import contact_sheet
        from attractor_ae.reporting.style import save_figure

        dataset = find_dataset(name, data_root)
        with terminal_reporter() as reporter:
            form = ImageFormat(size, channels)
            wanted = Wanted(per_class, subset_seed, factor, form, None, max_broken, reporter)
            images = dataset.load(split or dataset.info.test_split, wanted)
        picture = file or Path(f"{images.name}-{images.split}")
        if file and file.suffix.lower() in {".png", ".pdf"}:  # both formats are written
            picture = file.with_suffix("")
        for written in save_figure(contact_sheet(images), picture):
            say(str(written))


@data_app.command("clear")
def data_clear(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Data sets whose prepared images to remove. Default: all."),
    ] = None,
    data_root: DataRootOption = None,
) -> None:
    """Remove prepared images, but not the original files of the data sets."""
    with one_line_errors():
        from attractor_ae.data import clear

        freed = sum(clear(name, root=data_root) for name in names or [None])
        say(f"{freed / 1e6:.1f} MB freed")


def _listing(states: "list[DatasetStatus]") -> Table:
    """Return a table of data sets that is readable in 100 columns or fewer."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for state in states:
        info, splits = state.info, state.info.splits
        counts = [s if n.images is None else f"{s} {n.images}" for s, n in splits.items()]
        classes = " or ".join(map(str, dict.fromkeys(n.classes for n in splits.values())))
        images = f"{', '.join(counts)} images; {classes} classes; licence: {info.licence}"
        lines = [info.title, images, f"where: {state.place}"]
        if not state.present:
            lines.append(info.obtain)
        some = state.present or not all(state.missing.values())
        there = "present" if state.present else "partial" if some else "missing"
        table.add_row(info.name, there, "\n".join([*lines, ""]))
    return table


def _describe(state: "DatasetStatus") -> None:
    """Print the full description of a data set."""
    info = state.info
    say(f"{info.name}: {info.title}")
    for split, numbers in info.splits.items():
        count = "" if numbers.images is None else f"{numbers.images} images, "
        there = "missing" if state.missing[split] else "present"
        say(f"  {split}: {count}{numbers.classes} classes, {there}")
    if info.factors:
        say(f"  variants (--factor): {', '.join(info.factors)}")
    if info.layout:
        say("  files, below the data root:")
        for line in info.layout.splitlines():
            say(f"    {line}")
    else:
        say(f"  images: {state.expected[0]}")
    say(f"  to get it, {info.obtain}")
    say(f"  licence: {info.licence}")
    if info.kind != "own":
        say(f"  citation: {info.citation}")
        say(f"  homepage: {info.homepage}")
