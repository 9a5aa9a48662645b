"""How much the benchmark measures."""

import argparse
import dataclasses


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much is measured; a field is an option of the command line."""

    repeats: int = 5
    threads: int = 2
    seed: int = 0
    setup_epochs: int = 5  # of the network that scoring, heads and evaluation are measured with
    per_class: int = 250  # its training images, which heads are fitted on
    batch_size: int = 64
    steps: int = 30  # of training
    feature_epochs: int = 60
    images: int = 256  # that are scored
    trials: int = 20
    recursions: int = 3
    evaluation_repeats: int = 3
    in_per_class: int = 40
    out_images: int = 150  # of each D_out
    files: int = 1000  # that are prepared
    memory_images: int = 256  # a batch of the detector or more: less is no full peak
    growth_repeats: int = 3
    growth_base_images: int = 64
    growth_base_trials: int = 5
    growth_images: tuple[int, ...] = (32, 64, 128, 256, 512)
    growth_trials: tuple[int, ...] = (1, 2, 5, 10, 20)
    growth_recursions: tuple[int, ...] = (1, 2, 3, 6)
    growth_image_size: tuple[int, ...] = (32, 64, 128)


QUICK = Sizes(
    repeats=2,
    setup_epochs=1,
    per_class=12,
    batch_size=16,
    steps=3,
    feature_epochs=1,
    images=8,
    trials=2,
    recursions=2,
    evaluation_repeats=1,
    in_per_class=2,
    out_images=8,
    files=20,
    memory_images=8,
    growth_repeats=1,
    growth_base_images=4,
    growth_base_trials=2,
    growth_images=(2, 4),
    growth_trials=(1, 2),
    growth_recursions=(1, 2),
    growth_image_size=(32, 64),
)


def scalar_options(sizes: Sizes) -> dict[str, int]:
    """Return the options that say these sizes to another process, but for the growth's."""
    values = dataclasses.asdict(sizes)
    return {k.replace("_", "-"): v for k, v in values.items() if isinstance(v, int)}


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser that knows every size as an option."""
    options = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--quick", action="store_true", help="tiny sizes, but for those given")
    for field in dataclasses.fields(Sizes):
        options.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=int,
            nargs="+" if isinstance(field.default, tuple) else None,
            metavar="N",
            help=f"default: {field.default}",
        )
    return options


def sizes_of(arguments: argparse.Namespace) -> Sizes:
    """Return the sizes that were given as options, and the defaults of the others."""
    given = {
        field.name: tuple(value) if isinstance(value, list) else value
        for field in dataclasses.fields(Sizes)
        if (value := getattr(arguments, field.name)) is not None
    }
    return dataclasses.replace(QUICK if arguments.quick else Sizes(), **given)
