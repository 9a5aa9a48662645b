"""From a folder of images to a model file (``attractor-ae fit``)."""

import dataclasses
import hashlib
import math
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from attractor_ae._devices import mixed_precision
from attractor_ae._errors import AttractorError
from attractor_ae._files import check_free, write_text
from attractor_ae._reporter import SILENT, Reporter, percent
from attractor_ae.conformal import SMALLEST_CALIBRATION, check_alpha, least_calibration
from attractor_ae.core.detector import AttractorDetector
from attractor_ae.data import Dataset, ImageSet, Wanted, find_dataset
from attractor_ae.data.decode import displayed, shorter_side
from attractor_ae.data.image_set import divided_rows
from attractor_ae.data.info import ALL
from attractor_ae.deploy.audit import audit
from attractor_ae.deploy.card import card_path, model_card
from attractor_ae.deploy.evaluation import evaluate_verdicts
from attractor_ae.deploy.model import Model, codes_of, described, load_model, make_thumbnails
from attractor_ae.deploy.report import model_part
from attractor_ae.experiment.choose import (
    features_are_installed,
    run_chosen_training,
    space_is_open,
)
from attractor_ae.experiment.config import DatasetConfig, ExperimentConfig, preset
from attractor_ae.experiment.fit import fit_detector
from attractor_ae.experiment.plan import image_format
from attractor_ae.experiment.run import Run, claimed, environment
from attractor_ae.reporting.report import save_report
from attractor_ae.training import train, training_part, with_features

MOST_FITTED = 10_000
"""Largest number of training images that heads and statistics are fitted on, whose codes are
stored: it bounds the size of a model file and the time per image."""

_FEATURE_EPOCHS = 60  # epochs on features, as in the preset
_FEWEST, _MOST = 300, 2_160  # limits of its steps; 2 160: 60 epochs of 2 250 images
_FRACTION, _MANY, _FRACTION_OF_MANY = 0.2, 2_500, 0.1  # of the images, for calibration
_UNEVEN = 1.5  # ratio of class sizes above which classes are drawn equally often
_COLOURED = 0.01  # fraction of colour images above which the network gets colour
_FEATURES = "model.space=features"
_SAME = 1e-3  # distance of two codes of one image, as a fraction of the spread of codes


def fit_model(
    folder: str | Path,
    out: str | Path,
    *,
    alpha: float = 0.05,
    size: int | None = None,
    colour: bool | None = None,
    overrides: Sequence[str] = (),
    bundle: bool = False,
    per_class: bool = True,
    thumbnails: bool = False,
    data_root: str | Path | None = None,
    again: bool = False,
    reporter: Reporter = SILENT,
) -> Model:
    """Train, calibrate and check a model on a folder of known images, and write its file.

    The images are audited first. The network is trained in the space that `run_chosen_training`
    chooses: features of a pretrained network, or pixels. The same call continues after an
    interruption.

    Args:
        folder: Folder of images with one sub-folder per class, or without sub-folders for a single
            class; also a table, an array, or the name of a data set. With sub-folders ``train`` and
            ``test``, the model is trained on the first and evaluated on the second; otherwise all
            images are used.
        out: Model file to write; the model card and the report are written next to it,
            ``OUT.md`` and ``OUT.html``.
        alpha: Largest fraction of known images that are rejected, on average over calibrations.
        size: Height and width of the images; by default 160 for features, and for pixels 64, or
            less if the images are smaller.
        colour: Whether to train on colour; by default, if more than 1 % of the images have colour.
        overrides: Any number of ``"section.key=value"`` of the config.
        bundle: Whether the file contains the weights of the extractor, so that its users need not
            install or download them.
        per_class: Whether an image is ranked among the calibration images of its predicted class,
            if there are at least 100 of them.
        thumbnails: Whether the file contains small pictures of the training images.
        data_root: Folder of the data sets' files.
        again: Replace ``out``.
        reporter: Receives progress, the audit and notes.

    Raises:
        AttractorError: On any error that a user can repair; before the training, if alpha needs
            more calibration images than can be reserved.
    """
    out = _free(out, again)
    dataset = find_dataset(name := _name(folder), data_root)
    split, test = _splits(dataset)
    shared = [f"dataset.name={name!r}", f"dataset.split={split!r}", "dataset.max_broken=1"]
    shared += ["dataset.nbr_of_samples_per_class=-1", "dataset.aspect=crop"]
    shared += [] if size is None else [f"dataset.image_size={size}"]
    named = any(text.replace("'", "").replace('"', "") == _FEATURES for text in overrides)
    # A mistake in the settings is found before the images are read.
    wanted = preset("photographs" if named else "default", [*shared, *overrides])
    _check_autoencoder(wanted, str(folder))
    # Loaded in colour and the preset's size for photographs: for the audit, and for features.
    of_data = [text for text in overrides if text.startswith("dataset.")]
    config = preset("photographs", [*shared, *of_data, "dataset.channels=3"]).dataset
    images = _load(dataset, split, config, reporter)
    fraction = config.calibration_fraction
    if not any(text.startswith("dataset.calibration_fraction") for text in overrides):
        fraction = _calibration_fraction(images.labels, alpha)
        shared.append(f"dataset.calibration_fraction={fraction}")
    held_out = divided_rows(images.labels, fraction, config.split_seed)
    held_out = held_out[images.labels[held_out] >= 0]
    check_alpha(alpha, len(held_out), "use a larger alpha, or more images")
    tested = _load(dataset, test, config, reporter) if test else None
    findings = audit(images, held_out, tested, reporter)
    for line in findings.lines():
        reporter.note(line)

    why = f", as alpha {alpha:g} needs {least_calibration(alpha)}" if fraction > _FRACTION else ""
    reporter.note(f"{len(held_out)} of {len(images)} images are for calibration{why}")
    low, high = findings.per_class
    if low * _UNEVEN < high and not any(t.startswith("training.balanced=") for t in overrides):
        shared.append("training.balanced=true")
        reporter.note(
            f"classes have {low} to {high} images, so each is drawn equally often in the training "
            "(turned off by --set training.balanced=false)"
        )
    coloured = findings.coloured > _COLOURED if colour is None else colour
    channels = f"dataset.channels={3 if coloured else 1}"
    shared += [] if colour is None else [channels]
    one = len(images.classes) == 1
    shared += ["model.metric=''", "training.class_weight=0"] if one else []
    steps = math.ceil((len(images) - len(held_out)) / preset("photographs").training.batch_size)
    epochs = min(max(_FEATURE_EPOCHS, math.ceil(_FEWEST / steps)), math.ceil(_MOST / steps))
    of_features = [*shared, f"training.epochs={epochs}", *overrides]
    side = _shorter_side(images)
    of_pixels = [f"dataset.image_size={_pixel_size(side)}", *shared, channels, *overrides]
    features = named or (one and coloured and features_are_installed())
    experiment = preset("photographs", of_features) if features else preset("default", of_pixels)
    both = space_is_open(overrides) and not one
    forms = [_form_text(experiment)]
    if both and features_are_installed():
        forms.append(_form_text(preset("photographs", of_features)))
    known = "" if side is None else f"the shorter side has {side} pixels (median); "
    reporter.note(
        f"images: {known}{percent(findings.coloured)} have colour; used as "
        f"{', and as '.join(forms)} (set by --size, --colour, --grey)"
    )

    def training(config: ExperimentConfig, place: str | Path, **shared: Any) -> Run:  # noqa: ANN401
        found = _load(dataset, split, config.dataset, reporter)
        del shared["data_root"]
        return train(config, found, place, augmentation=dataset.info.augmentation, **shared)

    key = hashlib.sha256(f"{experiment} {of_features} {images.digest}".encode()).hexdigest()[:12]
    work = Run(out.parent / f".{out.name}.training")
    shared_by_both = {"data_root": data_root, "resume": True, "reporter": reporter}
    with claimed(work):
        _free(out, again)  # another process may have written it
        place = work.path / key
        if both:
            run = run_chosen_training(
                experiment, place, overrides=of_features, training=training, **shared_by_both
            )
        else:
            run = training(experiment, place, **shared_by_both)
        facts = {"audit": findings.lines()}
        model = _made(run, dataset, split, test, alpha, facts, per_class, thumbnails, reporter)
        _write(model, out, bundle)
        shutil.rmtree(work.path, ignore_errors=True)
    return model


def model_of_run(
    folder: str | Path,
    out: str | Path,
    *,
    alpha: float = 0.05,
    bundle: bool = False,
    per_class: bool = True,
    thumbnails: bool = False,
    data_root: str | Path | None = None,
    again: bool = False,
    reporter: Reporter = SILENT,
) -> Model:
    """Write the model file of a finished run of an autoencoder (``fit --from RUN``).

    The images must be where they were in the training; options are those of `fit_model`.

    Raises:
        AttractorError: If the run is not that of an autoencoder, has too few calibration images for
            alpha, or its images are missing.
    """
    out, run = _free(out, again), Run.open(folder)
    config = run.config()
    _check_autoencoder(config, str(run.path))
    if not config.dataset.calibration_fraction:
        raise AttractorError(
            f"{run.path}: was trained without calibration images; train with "
            "--set dataset.calibration_fraction=0.2"
        )
    dataset = find_dataset(config.dataset.name, data_root, config.dataset.split_seed)
    split = config.dataset.split
    test = dataset.info.test_split if split not in (ALL, dataset.info.test_split) else ""
    model = _made(run, dataset, split, test, alpha, {}, per_class, thumbnails, reporter)
    _write(model, out, bundle)
    return model


def recalibrate(
    file: str | Path,
    folder: str | Path,
    out: str | Path,
    *,
    alpha: float | None = None,
    again: bool = False,
    reporter: Reporter = SILENT,
) -> Model:
    """Write a model file that is calibrated on other known images (``attractor-ae calibrate``).

    Args:
        file: Model file.
        folder: Known images that the network was not trained on, as for `fit_model`; all are used.
        out, alpha, again, reporter: As for `fit_model`; by default, alpha is that of the model.

    Raises:
        AttractorError: As `fit_model` and `Model.calibrated`.
    """
    out = _free(out, again)
    model = load_model(file)
    dataset = find_dataset(_name(folder))
    split = dataset.info.every_image
    wanted = Wanted(image_format=model.image_format, max_broken=1.0, reporter=reporter)
    images = dataset.load(split, wanted)
    inputs = model.inputs(images.images)
    if same := _trained_on(model, inputs):
        reporter.note(
            f"warning: {same} of {len(images)} images have the code of a training image, so that "
            "more false alarms than stated must be expected; calibrate on images that the network "
            "was not trained on"
        )
    made = model.calibrated(images, alpha, inputs=inputs, reporter=reporter)
    made.facts.pop("evaluation", None)  # of the old threshold
    _write(made, out, made.bundle)
    return made


def _trained_on(model: Model, inputs: torch.Tensor) -> int:
    """Return how many images have the code of a training image."""
    codes, known = codes_of(model.detector, inputs), model.codes.float()
    spread = (known - known.mean(0)).norm(dim=1).median()
    return int(((codes - known[model.closest(codes)]).norm(dim=1) < _SAME * spread).sum())


def _made(
    run: Run,
    dataset: Dataset,
    split: str,
    test: str,
    alpha: float,
    facts: dict[str, Any],
    per_class: bool,
    thumbnails: bool,
    reporter: Reporter,
) -> Model:
    """Return the calibrated model of a finished run."""
    config = run.config()
    images = _load(dataset, split, config.dataset, reporter)
    images = with_features(config, images, reporter)  # once, as the whole set is read for its key
    trained, kept = training_part(config, images)
    check_alpha(alpha, len(kept), "use a larger alpha, or train with more calibration images")
    settings = {"augmentation": dataset.info.augmentation, "at_most": MOST_FITTED}
    settings |= {"calibrated": False, "reporter": reporter}  # the model is calibrated below
    detector = cast("AttractorDetector", fit_detector(run.path, images, **settings))
    some = trained.at_most(MOST_FITTED)
    codes = codes_of(detector, torch.tensor(some.inputs))
    precision = mixed_precision(detector.device, detector.precision)
    facts |= {
        "environment": environment(str(detector.device), str(precision)),
        "config": config.to_toml(),
        "space": config.model.space,
        "self_check": run.self_check(),
        "training": described(trained),
    }
    shared = (image_format(config.dataset), codes, _relative(some, dataset), alpha)
    none = torch.zeros(1, 1, len(kept)), torch.zeros(1, len(kept), dtype=torch.int64)
    model = Model(detector, images.classes, *shared, *none, (1.0, 0.0), facts)
    model.per_class = per_class
    model.thumbnails = make_thumbnails(some.images) if thumbnails else ()
    model = model.calibrated(kept, inputs=torch.tensor(kept.inputs), reporter=reporter)
    if test:
        others = _load(dataset, test, config.dataset, reporter)
        labels = [others.classes[i] if i >= 0 else "" for i in others.labels]
        pairs = list(zip(model.score(others.images), labels, strict=True))
        known = [pair for pair in pairs if pair[1] in ("", *model.classes)]
        unknown = [verdict for verdict, label in pairs if label not in ("", *model.classes)]
        if known:
            verdicts, names = zip(*known, strict=True)
            model.facts["evaluation"] = evaluate_verdicts(alpha, verdicts, names, unknown).values()
    return model


def _write(model: Model, out: Path, bundle: bool) -> None:
    model.bundle = bundle
    model.save(out)
    write_text(card_path(out), model_card(model, out.name))
    part, page = model_part(model, out.name), out.with_name(f"{out.name}.html")
    save_report(page, [part], f"Model {out.name}")


def _check_autoencoder(config: ExperimentConfig, where: str) -> None:
    if config.model.type == "conv":
        raise AttractorError(
            f'{where}: model.type "conv" is a classifier, but a model file needs an autoencoder'
        )


def _name(folder: str | Path) -> str:
    """Return the name of a data set: a path that exists is never the name of a built-in set."""
    path = Path(folder).expanduser()
    return str(path.resolve()) if path.exists() else str(folder)


def _free(out: str | Path, again: bool) -> Path:
    out = Path(out)
    if out.is_dir():
        raise AttractorError(f"{out}: is a folder; give the name of a model file, e.g. parts.model")
    check_free(out, again)
    return out


def _splits(dataset: Dataset) -> tuple[str, str]:
    """Return the split to train and calibrate on, and that of held-out images or ""."""
    info = dataset.info
    if info.out_split == ALL:  # of your own images, no test images were set apart
        return ALL, ""
    return "train", info.test_split


def _load(dataset: Dataset, split: str, config: DatasetConfig, reporter: Reporter) -> ImageSet:
    """Load the images of a split; without classes, all are of one, named after the folder."""
    seed = None if config.subset_seed < 0 else config.subset_seed
    per_class = config.nbr_of_samples_per_class
    shared = {"max_broken": config.max_broken, "reporter": reporter}
    wanted = Wanted(per_class, seed, config.factor, image_format(config), **shared)
    images = dataset.load(split, wanted)
    images = dataclasses.replace(images, name=dataset.info.name)
    if images.classes:
        return images
    name = displayed(Path(images.name).name)
    return dataclasses.replace(images, classes=(name,), labels=np.zeros_like(images.labels))


def _shorter_side(images: ImageSet) -> int | None:
    """Return the median shorter side of at most 2 000 of the files, or None if there are none."""
    sides = []
    for path in images.paths[:: len(images) // 1000 or 1]:
        with suppress(Exception):  # it was decoded before
            sides.append(shorter_side(path))
    return int(np.median(sides)) if sides else None


def _pixel_size(side: int | None) -> int:
    """Return the size on pixels: that of the preset, but at most that of the images.

    Features, in contrast, are better on enlarged images (docs/verdicts.md).
    """
    most = preset("default").dataset.image_size
    return most if side is None else min(most, 16 * max(1, math.ceil(side / 16)))


def _form_text(config: ExperimentConfig) -> str:
    size, colour = config.dataset.image_size, config.dataset.channels == 3
    space = "features" if config.model.space == "features" else "pixels"
    return f"{size} x {size} in {'colour' if colour else 'grey'} on {space}"


def _calibration_fraction(labels: NDArray[np.int64], alpha: float) -> float:
    """Return the fraction to calibrate on: a fifth, or a tenth of many, or more if needed."""
    sizes = np.unique(labels[labels >= 0], return_counts=True)[1]
    check_alpha(alpha, 10**9, "")  # its range
    needed = max(SMALLEST_CALIBRATION, least_calibration(alpha))
    usual = _FRACTION if sizes.sum() < _MANY else _FRACTION_OF_MANY
    counts = {p / 100: int(np.round(p / 100 * sizes).sum()) for p in range(round(usual * 100), 51)}
    enough = [fraction for fraction, count in counts.items() if count >= needed]
    if not enough:
        most = max(counts.values())
        smallest = f", so the smallest alpha is {math.ceil(1e4 / (most + 1)) / 1e4:g}; use a larger"
        smallest += " --alpha, or more images"
        if most < SMALLEST_CALIBRATION:
            smallest = "; use more images"
        raise AttractorError(
            f"alpha {alpha:g} needs {needed} calibration images, but only {most} of the "
            f"{sizes.sum()} images (half) can be reserved{smallest}"
        )
    return enough[0]


def _relative(images: ImageSet, dataset: Dataset) -> list[str]:
    """Return the paths of images relative to their folder, or their numbers."""
    if not images.paths:
        return []
    top = Path(dataset.info.source.expected(images.split, dataset.root)[0])
    paths = map(Path, images.paths)
    return [displayed(p.relative_to(top) if p.is_relative_to(top) else p) for p in paths]
