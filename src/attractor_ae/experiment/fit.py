"""Fitted detectors of finished runs."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from attractor_ae import training
from attractor_ae._detector import Detector
from attractor_ae._devices import resolve_device
from attractor_ae._errors import AttractorError
from attractor_ae._files import load_weights, read_tensors
from attractor_ae._reporter import SILENT, Reporter
from attractor_ae.baselines import ConvClassifier, EnsembleDetector, MCDropoutDetector
from attractor_ae.core.detector import AttractorDetector
from attractor_ae.data import ImageSet
from attractor_ae.data.info import AugmentationKind
from attractor_ae.experiment.config import ExperimentConfig
from attractor_ae.experiment.run import Run

AFTER_TRAINING = ("evaluation.", "dataset.max_broken=", "training.device=", "training.gpu=")
"""Prefixes of the keys that can be set after training."""


def fit_detector(
    folder: str | Path,
    images: ImageSet,
    *,
    overrides: Sequence[str] = (),
    augmentation: AugmentationKind | None = None,
    at_most: int | None = None,
    calibrated: bool = True,
    reporter: Reporter = SILENT,
) -> Detector:
    """Return the detector of a finished run, fitted on the images that the run was trained on.

    The run determines the method (PROTOCOL section 5): attractors for an autoencoder, MC dropout
    for a classifier with dropout, or an ensemble of one for a classifier without. The detector is
    calibrated on the run's calibration images, if any, unless ``calibrated`` is false.
    ``overrides`` are any number of ``"evaluation.key=value"``; ``augmentation`` is as for
    `attractor_ae.train`; ``at_most`` is the largest number of training images to fit on, evenly
    spaced over the set.

    Raises:
        AttractorError: If the weights are missing or damaged, the run was trained on another set,
            or an override is not allowed.
    """
    run = Run.open(folder)
    config = evaluation_config(run, overrides)
    detector = detector_of(run, config, images, augmentation, reporter, at_most, calibrated)
    note_failures([run], reporter)
    return detector


def fit_ensemble(
    folders: Sequence[str | Path],
    images: ImageSet,
    *,
    overrides: Sequence[str] = (),
    reporter: Reporter = SILENT,
) -> EnsembleDetector:
    """Return the fitted deep ensemble of finished runs; see `fit_detector`.

    The runs must be classifiers without dropout, trained with different seeds. If they differ in
    ``[evaluation]``, the settings of the first run are used.

    Raises:
        AttractorError: As for `fit_detector`; if there is no run, or one is given twice, is not a
            classifier without dropout, or was trained on other images.
    """
    runs = open_members(folders)
    configs = [evaluation_config(run, overrides) for run in runs]
    detector = ensemble_of(runs, configs, images, reporter)
    note_failures(runs, reporter)
    return detector


def open_members(folders: Sequence[str | Path]) -> list[Run]:
    """Open the finished runs of an ensemble, at least one."""
    if not folders:
        raise AttractorError("an ensemble needs at least one run; give folders of finished runs")
    return [Run.open(folder) for folder in folders]


def evaluation_config(run: Run, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Return the config of a run with overrides of its evaluation."""
    if foreign := [text for text in overrides if not text.startswith(AFTER_TRAINING)]:
        raise AttractorError(
            f"--set {foreign[0]!r}: the run is already trained; only keys of [evaluation], "
            "dataset.max_broken, training.device and training.gpu can be set"
        )
    return ExperimentConfig.from_toml(run.config_file, overrides)


def note_failures(runs: Sequence[Run], reporter: Reporter) -> None:
    """Report each run that failed its self-check."""
    for line in filter(None, (run.self_check_failure() for run in runs)):
        reporter.note(line)


def detector_of(
    run: Run,
    config: ExperimentConfig,
    images: ImageSet,
    augmentation: AugmentationKind | None,
    reporter: Reporter,
    at_most: int | None = None,
    calibrated: bool = True,
) -> Detector:
    """Return the fitted detector of an opened run; see `fit_detector`."""
    network = _trained_network(run, config, images)
    settings, seed = config.evaluation, config.training.seed
    if not isinstance(network, ConvClassifier):
        names = {*AttractorDetector.settings, "precision"}
        augment = training.training_augmentation(config, augmentation)
        chosen = settings.model_dump(include=names)
        detector = AttractorDetector(network, **chosen, augmentation=augment, seed=seed)
    elif network.dropout > 0:
        chosen = settings.model_dump(include={*MCDropoutDetector.settings, "precision"})
        detector = MCDropoutDetector(network, **chosen, seed=seed)
    else:
        detector = EnsembleDetector([network], precision=settings.precision, seed=seed)
    _fit(detector, config, images, reporter, at_most, calibrated)
    return detector


def ensemble_of(
    runs: Sequence[Run], configs: Sequence[ExperimentConfig], images: ImageSet, reporter: Reporter
) -> EnsembleDetector:
    """Return the fitted deep ensemble of opened runs, see `fit_ensemble`."""
    first = configs[0]
    members, places = [], {}
    for run, config in zip(runs, configs, strict=True):
        if config.model.type != "conv" or config.model.dropout > 0:
            kind = "an autoencoder" if config.model.type != "conv" else "a classifier with dropout"
            raise AttractorError(
                f"{run.path}: is {kind}; the members of an ensemble are trained with "
                'model.type = "conv" and model.dropout = 0'
            )
        for key, value in first.dataset.model_dump(exclude={"max_broken"}).items():
            # With another fraction or seed, it would be trained on calibration images of the first.
            if (other := getattr(config.dataset, key)) != value:
                raise AttractorError(
                    f"{run.path}: was trained with dataset.{key} = {other!r}, but "
                    f"{runs[0].path} with {value!r}; choose members trained with the same value"
                )
        network = _trained_network(run, config, images)
        # Compare weights: a copy, a link or a second run with the same seed is the same member.
        content = b"".join(w.numpy().tobytes() for w in network.state_dict().values())
        if (weights := hashlib.sha256(content).hexdigest()) in places:
            raise AttractorError(
                f"{run.path}: has the same weights as {places[weights]}; name each member once, "
                "and train members with different seeds"
            )
        places[weights] = run.path
        members.append(network)
    detector = EnsembleDetector(
        members, precision=first.evaluation.precision, seed=first.training.seed
    )
    _fit(detector, first, images, reporter)
    return detector


def _trained_network(run: Run, config: ExperimentConfig, images: ImageSet) -> training.Network:
    """Return the network of a run; check that it was trained on this set and its classes."""
    tensors, metadata = read_tensors(run.weights_file)
    for key, value in training.trained_on(images).items():
        if metadata.get(key, value) != value:
            raise AttractorError(
                f"{run.path}: was trained on {key} {metadata[key]}, not {value}; "
                "fit on the images that it was trained on"
            )
    network = training.build_network(config, len(images.classes))
    load_weights(network, tensors, run.weights_file)
    return network


def _fit(
    detector: Detector,
    config: ExperimentConfig,
    images: ImageSet,
    reporter: Reporter,
    at_most: int | None = None,
    calibrated: bool = True,
) -> None:
    """Fit and calibrate a detector with the settings and device of a config."""
    detector.to(resolve_device(config.training.device, config.training.gpu))
    trained, kept = training.training_part(config, training.with_features(config, images, reporter))
    if at_most is not None and at_most < len(trained):
        reporter.note(f"the detector is fitted on {at_most} of {len(trained)} training images")
        trained = trained.at_most(at_most)
    reporter.progress("fitting the detector", 0, 1, "started")
    least = min(2, len(trained.classes))
    detector.fit(trained.inputs, trained.labels, least_classes=least)
    reporter.progress("fitting the detector", 1, 1, "done")
    if calibrated and len(kept):
        detector.calibrate(kept.inputs, kept.labels, reporter)
    detector.score = config.evaluation.score
