"""Which images an experiment is trained on and measured on."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from attractor_ae._errors import AttractorError
from attractor_ae.data import (
    CATALOGUE,
    DatasetInfo,
    ImageFormat,
    ImageSet,
    check_present,
    dataset_info,
    load,
)
from attractor_ae.data.own import ALL
from attractor_ae.experiment.config import ExperimentConfig

ImageProgress = Callable[[str, int, int], None]
"""Called with the name of a data set, and its images that are done and of all."""

LeftOut = Callable[[ImageSet], None]
"""Called with a data set of which files cannot be used."""

BUILT_IN_OUT = ("faces", "textures", "photos")
"""The D_outs of an experiment that names none."""


def silent(_name: str, _done: int, _all: int) -> None:
    """Show nothing."""


@dataclass(frozen=True)
class Wanted:
    """One data set as an evaluation wants it.

    Attributes
    ----------
    label
        What it is called in results.
    info
        The data set.
    split, factor, per_class
        Which of its images.
    """

    label: str
    info: DatasetInfo
    split: str
    factor: str
    per_class: int


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation looks at, by role: the data sets, or their images.

    Attributes
    ----------
    known
        D_in.
    shifted
        The known classes in another guise: further splits of D_in, and other sets.
    unknown
        The D_outs.
    """

    known: Wanted
    shifted: tuple[Wanted, ...]
    unknown: tuple[Wanted, ...]


def training_images(
    config: ExperimentConfig,
    *,
    data_root: str | Path | None = None,
    on_preparing: ImageProgress = silent,
) -> ImageSet:
    """Return the images that an experiment trains on.

    Parameters
    ----------
    config
        The experiment.
    data_root
        Where the data sets' files are.
    on_preparing
        Called with the name of the data set and its images that are prepared and of all.

    Raises
    ------
    AttractorError
        If the set is unknown, has no such split or variation, or is missing; if the split is the
        one that held-out scores are measured on.
    """
    dataset = config.dataset
    info = _info(config, dataset.name, data_root)
    # "all" of own images has the test images too.
    if dataset.split == info.test_split or (dataset.split == ALL and len(info.splits) > 1):
        raise AttractorError(
            f"dataset.split {dataset.split!r} holds what the trained network is measured on; "
            "train on another split"
        )
    number = dataset.nbr_of_samples_per_class
    wanted = Wanted(info.name, info, dataset.split, dataset.factor, number)
    return _load(config, wanted, data_root, on_preparing)


def evaluated(config: ExperimentConfig, root: str | Path | None) -> Evaluated:
    """Return what an experiment is measured on, without loading it.

    Parameters
    ----------
    config
        The experiment.
    root
        Where the data sets' files are.

    Raises
    ------
    AttractorError
        If a name is unknown or named twice, or files are not there.
    """
    settings = config.evaluation
    known = _info(config, config.dataset.name, root)
    number = settings.nbr_of_samples_per_class
    factor = config.dataset.factor
    shifts = [
        Wanted(f"{known.name}:{split}", known, split, factor, number)
        for split in settings.accuracy_splits
        if split != known.test_split  # which is D_in's own row
    ]
    for name in settings.covariate_shift_datasets:
        info = _info(config, name, root)
        shifts.append(Wanted(info.name, info, info.test_split, "", number))
    outs = [wanted_out(config, name, root) for name in named_outs(config)]
    everything = Evaluated(
        Wanted(known.name, known, known.test_split, factor, number), tuple(shifts), tuple(outs)
    )
    labels = [wanted.label for wanted in (everything.known, *shifts, *outs)]
    for label in labels:
        if labels.count(label) > 1:
            raise AttractorError(f"data set {label!r} is named twice; name each set once")
    for wanted in (*shifts, *outs):
        if wanted.split not in wanted.info.splits:
            raise AttractorError(
                f"data set {wanted.info.name!r} has no split {wanted.split!r}; available: "
                f"{', '.join(wanted.info.splits)}"
            )
        check_present(wanted.info, wanted.split, root, wanted.factor)
    return everything


def named_outs(config: ExperimentConfig) -> tuple[str, ...]:
    """Return the D_outs that a config names, or the built-in ones where it names none."""
    named = config.evaluation.out_datasets
    return named or tuple(name for name in BUILT_IN_OUT if name != config.dataset.name)


def wanted_out(config: ExperimentConfig, name: str, root: str | Path | None) -> Wanted:
    """Return a D_out by what a config calls it: a name, ``"NAME:FACTOR"`` or a path.

    Raises
    ------
    AttractorError
        If there is no such set.
    """
    head, _, factor = name.partition(":")
    if head not in CATALOGUE:  # a path may have a colon
        head, factor = name, ""
    info = _info(config, head, root)
    label = f"{info.name}:{factor}" if factor else info.name
    return Wanted(label, info, info.split_as_out, factor, info.per_class)


def evaluated_images(
    config: ExperimentConfig,
    every: Evaluated,
    *,
    data_root: str | Path | None = None,
    on_preparing: ImageProgress = silent,
) -> tuple[ImageSet, list[ImageSet], list[ImageSet]]:
    """Return the images of D_in, of shifted sets and of D_outs.

    Parameters
    ----------
    config
        The experiment.
    every
        What `evaluated` returned for it.
    data_root
        Where the data sets' files are.
    on_preparing
        Called with the name of a data set and its images that are prepared and of all.

    Raises
    ------
    AttractorError
        If files are damaged.
    """

    def images(wanted: Wanted) -> ImageSet:
        loaded = _load(config, wanted, data_root, on_preparing)
        return dataclasses.replace(loaded, name=wanted.label)

    return (
        images(every.known),
        [images(wanted) for wanted in every.shifted],
        [images(wanted) for wanted in every.unknown],
    )


def _info(config: ExperimentConfig, name: str, root: str | Path | None) -> DatasetInfo:
    return dataset_info(name, root, config.dataset.split_seed)


def _load(
    config: ExperimentConfig,
    wanted: Wanted,
    root: str | Path | None,
    on_preparing: ImageProgress,
) -> ImageSet:
    """Load images as the network of an experiment takes them."""
    dataset = config.dataset
    return load(
        wanted.info,
        wanted.split,
        per_class=wanted.per_class,
        subset_seed=None if dataset.subset_seed < 0 else dataset.subset_seed,
        root=root,
        factor=wanted.factor,
        form=ImageFormat(dataset.image_size, dataset.channels),
        max_broken=dataset.max_broken,
        on_progress=partial(on_preparing, f"{wanted.info.name} {wanted.split}"),
    )
