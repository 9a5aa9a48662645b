"""The data sets of an experiment: found, checked, and loaded in the network's image format."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from attractor_ae._errors import AttractorError
from attractor_ae._reporter import SILENT, Reporter
from attractor_ae.data import CATALOGUE, Dataset, ImageFormat, ImageSet, Wanted, find_dataset
from attractor_ae.data.info import ALL, AugmentationKind
from attractor_ae.data.sources.own import OwnImages
from attractor_ae.experiment.config import DatasetConfig, ExperimentConfig
from attractor_ae.training import with_features

BUILT_IN_OUT = ("faces", "textures", "photos")
"""The default D_outs."""
UNKNOWN_CLASSES = "unknown classes"
"""Name of the D_out of an open-set split: test images of the classes that are not known."""


@dataclass(frozen=True)
class PlannedSet:
    """The images to load from one data set, and their name in results.

    ``part``: the classes of an open-set split.
    """

    label: str
    dataset: Dataset
    split: str
    factor: str
    per_class: int
    part: Literal["all", "known", "unknown"] = "all"

    def check(self) -> None:
        """Raise an AttractorError if the split does not exist or its files are missing."""
        self.dataset.check_present(self.split, self.factor)


@dataclass(frozen=True)
class Plan:
    """The data sets of one experiment, by role.

    ``training`` is for training and calibration. ``covariate_shift`` shows the known classes
    under other conditions: further splits of D_in, and other sets.
    """

    config: ExperimentConfig
    training: PlannedSet
    in_dataset: PlannedSet
    covariate_shift: tuple[PlannedSet, ...]
    out: tuple[PlannedSet, ...]

    @property
    def augmentation(self) -> AugmentationKind:
        """Kind of the images of D_in, which determines their augmentation."""
        return self.in_dataset.dataset.info.augmentation

    def check(self) -> None:
        """Raise an AttractorError if a set other than D_in is missing."""
        for planned in (*self.covariate_shift, *self.out):
            planned.check()

    def load(self, planned: PlannedSet, reporter: Reporter = SILENT) -> ImageSet:
        """Load the images of one set, with its label as the name."""
        dataset = self.config.dataset
        wanted = Wanted(
            planned.per_class,
            subset_seed=None if dataset.subset_seed < 0 else dataset.subset_seed,
            factor=planned.factor,
            image_format=image_format(dataset),
            max_broken=dataset.max_broken,
            reporter=reporter,
        )
        images = planned.dataset.load(planned.split, wanted)
        # Before the division: the features of all classes are computed and cached once.
        images = with_features(self.config, images, reporter)
        if planned.part != "all":
            known, unknown = images.open_set(dataset.open_set_split)
            images = known if planned.part == "known" else unknown
        return dataclasses.replace(images, name=planned.label)

    def load_training(self, reporter: Reporter = SILENT) -> ImageSet:
        """Load the images that are trained on."""
        info, split = self.training.dataset.info, self.training.split
        # For a folder of images, the split "all" also contains the test images.
        if split == info.test_split or (split == ALL and len(info.splits) > 1):
            raise AttractorError(
                f"dataset.split {split!r} contains the images of the evaluation; "
                "train on another split"
            )
        return self.load(self.training, reporter)


def image_format(dataset: DatasetConfig) -> ImageFormat:
    """Return the format of the images of a config."""
    crop, pad = (dataset.aspect == name for name in ("crop", "pad"))
    return ImageFormat(dataset.image_size, dataset.channels, crop=crop, pad=pad)


def make_plan(config: ExperimentConfig, data_root: str | Path | None = None) -> Plan:
    """Find the data sets of an experiment without loading them; check that names are unique."""
    dataset, settings = config.dataset, config.evaluation
    known = find_dataset(dataset.name, data_root, dataset.split_seed)
    name, test, n = known.info.name, known.info.test_split, settings.nbr_of_samples_per_class
    divided = dataset.open_set_split >= 0
    part = "known" if divided else "all"
    shifts = [
        PlannedSet(f"{name}:{split}", known, split, dataset.factor, n, part)
        for split in settings.accuracy_splits
        if split != test  # the test split is D_in itself
    ]
    for other in settings.covariate_shift_datasets:
        found = find_dataset(other, data_root, dataset.split_seed)
        shifts.append(PlannedSet(found.info.name, found, found.info.test_split, "", n))
    named = settings.out_datasets or tuple(n for n in BUILT_IN_OUT if n != dataset.name)
    outs = [planned_out(config, out, data_root) for out in named]
    if divided:
        outs.insert(0, PlannedSet(UNKNOWN_CLASSES, known, test, dataset.factor, n, "unknown"))
    per_class = dataset.nbr_of_samples_per_class
    training = PlannedSet(name, known, dataset.split, dataset.factor, per_class, part)
    shown = [PlannedSet(name, known, test, dataset.factor, n, part), *shifts, *outs]
    labels, short = [planned.label for planned in shown], list(map(_short_label, shown))
    for label in labels:
        if labels.count(label) > 1:
            raise AttractorError(f"data set {label!r} is named twice; name each set once")
    first, *others = (
        dataclasses.replace(planned, label=name) if short.count(name) == 1 else planned
        for planned, name in zip(shown, short, strict=True)
    )
    count = len(shifts)
    return Plan(config, training, first, tuple(others[:count]), tuple(others[count:]))


def _short_label(planned: PlannedSet) -> str:
    """Return the label with the name of your own folder in place of its path."""
    info, label = planned.dataset.info, planned.label
    source = info.source
    return label.replace(info.name, source.name, 1) if isinstance(source, OwnImages) else label


def planned_out(config: ExperimentConfig, name: str, data_root: str | Path | None) -> PlannedSet:
    """Find a D_out by its name, ``"NAME:FACTOR"`` or path."""
    head, _, factor = name.partition(":")
    if head not in CATALOGUE:  # a path may contain a colon
        head, factor = name, ""
    found = find_dataset(head, data_root, config.dataset.split_seed)
    label = f"{found.info.name}:{factor}" if factor else found.info.name
    count = config.evaluation.out_samples_per_class or found.info.per_class
    return PlannedSet(label, found, found.info.out_split, factor, count)
