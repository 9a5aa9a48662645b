"""From finished runs to a fitted detector."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from attractor_ae._detector import Detector
from attractor_ae._devices import resolve_device
from attractor_ae._errors import AttractorError
from attractor_ae._files import load_weights, read_tensors
from attractor_ae._reporter import SILENT, Reporter
from attractor_ae.baselines import ConvClassifier, EnsembleDetector, MCDropoutDetector
from attractor_ae.core.autoencoder import Autoencoder
from attractor_ae.core.detector import AttractorDetector
from attractor_ae.data import ImageSet
from attractor_ae.experiment.config import ExperimentConfig
from attractor_ae.experiment.run import Run
from attractor_ae.training import build_network, trained_on, training_augmentation, training_part

AFTER_TRAINING = ("evaluation.", "dataset.max_broken=", "training.device=", "training.gpu=")
"""Keys that can be set after training: the evaluation, and the images and device that it needs."""


def fit_detector(
    folder: str | Path,
    images: ImageSet,
    *,
    overrides: Sequence[str] = (),
    natural: bool = False,
    reporter: Reporter = SILENT,
) -> Detector:
    """Return the detector of a finished run, fitted on the images that the run was trained on.

    The method is that of the run (PROTOCOL section 5): attractors of an autoencoder, MC dropout of
    a classifier with dropout, or an ensemble of the one classifier without. It is calibrated on the
    images that the run's config keeps for it, if any. ``overrides`` are any number of
    ``"evaluation.key=value"``; ``natural`` is as for `attractor_ae.train`.

    Raises:
        AttractorError: If the weights are missing or damaged, the run was trained on another set,
            or an override is impossible.
    """
    run = Run.open(folder)
    return detector_of([run], [evaluation_config(run, overrides)], images, natural, reporter)


def fit_ensemble(
    folders: Sequence[str | Path],
    images: ImageSet,
    *,
    overrides: Sequence[str] = (),
    reporter: Reporter = SILENT,
) -> EnsembleDetector:
    """Return the deep ensemble of finished runs, as `fit_detector` does for one.

    The runs are of classifiers without dropout, trained from different seeds. Where they differ in
    ``[evaluation]``, the first is followed.

    Raises:
        AttractorError: As `fit_detector`; if there is no run, or one is given twice, is not a
            classifier without dropout, or was trained on other images.
    """
    runs = [Run.open(folder) for folder in folders]
    configs = [evaluation_config(run, overrides) for run in runs]
    return ensemble_of(runs, configs, images, reporter)


def evaluation_config(run: Run, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Return the config of a run with another evaluation."""
    if foreign := [text for text in overrides if not text.startswith(AFTER_TRAINING)]:
        raise AttractorError(
            f"--set {foreign[0]!r}: the run is trained; only keys of [evaluation], "
            "dataset.max_broken, training.device and training.gpu can be set"
        )
    return ExperimentConfig.from_toml(run.config_file, overrides)


def detector_of(
    runs: Sequence[Run],
    configs: Sequence[ExperimentConfig],
    images: ImageSet,
    natural: bool,
    reporter: Reporter = SILENT,
) -> Detector:
    """Return the fitted detector of opened runs: one run, or several members of an ensemble."""
    if len(runs) != 1:
        return ensemble_of(runs, configs, images, reporter)
    network = _trained_network(runs[0], configs[0], images)
    settings, seed = configs[0].evaluation, configs[0].training.seed
    if isinstance(network, Autoencoder):
        names = {*AttractorDetector.settings, "precision"}
        augmentation = training_augmentation(configs[0].training, natural)
        chosen = settings.model_dump(include=names)
        detector = AttractorDetector(network, **chosen, augmentation=augmentation, seed=seed)
    elif network.dropout > 0:
        chosen = settings.model_dump(include={*MCDropoutDetector.settings, "precision"})
        detector = MCDropoutDetector(network, **chosen, seed=seed)
    else:
        detector = EnsembleDetector([network], precision=settings.precision, seed=seed)
    _fit(detector, configs[0], images, reporter)
    return detector


def ensemble_of(
    runs: Sequence[Run],
    configs: Sequence[ExperimentConfig],
    images: ImageSet,
    reporter: Reporter = SILENT,
) -> EnsembleDetector:
    """Return the fitted deep ensemble of opened runs, see `fit_ensemble`."""
    if not runs:
        raise AttractorError("an ensemble needs at least one run; give folders of finished runs")
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
            # With another fraction or seed, a member is trained on another's calibration images.
            if (other := getattr(config.dataset, key)) != value:
                raise AttractorError(
                    f"{run.path}: was trained with dataset.{key} = {other!r}, but "
                    f"{runs[0].path} with {value!r}; take members that were trained on the same"
                )
        network = _trained_network(run, config, images)
        # By the weights: a copy, a link or a second run of a seed is the same member as well.
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


def _trained_network(
    run: Run, config: ExperimentConfig, images: ImageSet
) -> Autoencoder | ConvClassifier:
    """Return the network of a run, after a check that it knows this set and its classes."""
    tensors, metadata = read_tensors(run.weights_file)
    for key, value in trained_on(images).items():
        if metadata.get(key, value) != value:
            raise AttractorError(
                f"{run.path}: was trained on {key} {metadata[key]}, not {value}; "
                "fit on the images that it was trained on"
            )
    network = build_network(config, len(images.classes))
    load_weights(network, tensors, run.weights_file)
    return network


def _fit(
    detector: Detector, config: ExperimentConfig, images: ImageSet, reporter: Reporter
) -> None:
    """Fit and calibrate as a config says, on the device that it names."""
    detector.to(resolve_device(config.training.device, config.training.gpu))
    trained, kept = training_part(config, images)
    reporter.progress("fitting the detector", 0, 1, "started")
    detector.fit(trained.images, trained.labels)
    reporter.progress("fitting the detector", 1, 1, "done")
    if len(kept):
        detector.calibrate(kept.images, kept.labels, reporter)
    detector.score = config.evaluation.score
