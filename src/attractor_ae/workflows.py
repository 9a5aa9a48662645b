"""One function a command: what the terminal can do, a notebook can do."""

from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path

import numpy as np
import torch

from attractor_ae.config import ExperimentConfig
from attractor_ae.data import CATALOGUE, ImageSet, load
from attractor_ae.data.augmentation import Augmentation
from attractor_ae.devices import resolve_device
from attractor_ae.errors import AttractorError
from attractor_ae.estimators import AttractorEstimator
from attractor_ae.evaluation import EvaluationResult, evaluate
from attractor_ae.models import Autoencoder
from attractor_ae.reporting import (
    auroc_by_recursion,
    entropy_histogram,
    reconstruction_figure,
    save_figure,
)
from attractor_ae.runs import Run, environment
from attractor_ae.storage import load_weights, read_tensors
from attractor_ae.training import Progress, build_network, train

TestProgress = Callable[[str, int, int], None]

_BUILT_IN_OUT = ("faces", "textures", "photos")
_OUT_PER_CLASS = 250


def preset(name: str, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Return an experiment that ships with the package, e.g. ``"quick"``.

    Parameters
    ----------
    name
        Name of a file in ``attractor_ae/presets``, without its ending.
    overrides
        As for `ExperimentConfig.from_toml`.
    """
    with resources.as_file(resources.files("attractor_ae") / "presets" / f"{name}.toml") as path:
        return ExperimentConfig.from_toml(path, overrides)


def run_training(
    config: ExperimentConfig,
    folder: str | Path,
    *,
    data_root: str | Path | None = None,
    resume: bool = False,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Run:
    """Load the images that a config names and train on them (``attractor-ae train``).

    Parameters
    ----------
    config
        The experiment.
    folder
        The run folder to make.
    data_root
        Where the data sets' files are; see `attractor_ae.data.data_root`.
    resume, on_progress
        As for `attractor_ae.train`.

    Raises
    ------
    AttractorError
        On everything that a user can repair.
    """
    return train(
        config,
        _training_images(config, data_root),
        folder,
        augmentation=_augmentation(config),
        resume=resume,
        on_progress=on_progress,
    )


def fit_estimator(
    run: Run, config: ExperimentConfig, *, data_root: str | Path | None = None
) -> AttractorEstimator:
    """Return an estimator of a finished run, fitted on the images that the run was trained on.

    Parameters
    ----------
    run
        The run.
    config
        Its experiment; the section ``[evaluation]`` may differ from the stored one.
    data_root
        Where the data sets' files are.

    Raises
    ------
    AttractorError
        If weights or data are missing or damaged, or the run is no autoencoder.
    """
    images = _training_images(config, data_root)
    network = build_network(config, len(images.classes))
    if not isinstance(network, Autoencoder):
        raise AttractorError(
            f"{run.path}: holds a classifier, which has no attractors; evaluate an autoencoder"
        )
    tensors, _ = read_tensors(run.weights_file)
    load_weights(network, tensors, run.weights_file)
    settings = config.evaluation
    estimator = AttractorEstimator(
        network,
        recursions=settings.recursions,
        recursion=settings.recursion,
        trials=settings.trials,
        head=settings.head,
        head_masks=settings.head_masks,
        mask_scope=settings.mask_scope,
        augmentation=_augmentation(config),
        seed=config.training.seed,
    )
    estimator.to(resolve_device(config.training.device, config.training.gpu))
    return estimator.fit(images.images, images.labels)


def run_evaluation(
    folder: str | Path,
    *,
    overrides: Sequence[str] = (),
    data_root: str | Path | None = None,
    on_progress: TestProgress = lambda _name, _done, _all: None,
) -> EvaluationResult:
    """Evaluate a finished run and leave scores, metrics and figures (``attractor-ae evaluate``).

    They are written to ``RUN/evaluation``, and the fitted estimator to
    ``RUN/estimator.safetensors``.

    Parameters
    ----------
    folder
        The run folder.
    overrides
        Any number of ``"evaluation.key=value"``.
    data_root
        Where the data sets' files are.
    on_progress
        Called with the name of a data set and its images that are done and of all.

    Raises
    ------
    AttractorError
        On everything that a user can repair.
    """
    run = Run.open(folder)
    config = ExperimentConfig.from_toml(run.config_file, overrides)
    if foreign := [text for text in overrides if not text.startswith("evaluation.")]:
        raise AttractorError(
            f"--set {foreign[0]!r}: the run is trained; only keys of [evaluation] can be set"
        )
    settings = config.evaluation
    # Everything is loaded before anything is computed, so that a missing set is told at once.
    in_dataset = load(
        config.dataset.name,
        "test",
        per_class=settings.nbr_of_samples_per_class,
        root=data_root,
    )
    names = settings.out_datasets or tuple(n for n in _BUILT_IN_OUT if n != in_dataset.name)
    outs = [load(n, "test", per_class=_OUT_PER_CLASS, root=data_root) for n in names]
    shifts = [
        load(n, "test", per_class=settings.nbr_of_samples_per_class, root=data_root)
        for n in settings.shift_datasets
    ]
    estimator = fit_estimator(run, config, data_root=data_root)
    result = evaluate(
        estimator,
        in_dataset,
        outs,
        shifts,
        provenance={
            **environment(str(estimator.device), "float32"),
            "experiment": config.model_dump(mode="json"),
        },
        on_progress=on_progress,
    )
    estimator.save(run.estimator_file)
    result.save(run.evaluation_folder)
    _write_figures(run.evaluation_folder, result, estimator, [in_dataset, *shifts, *outs])
    run.log(f"evaluated on {', '.join(s.name for s in [in_dataset, *shifts, *outs])}")
    return result


def run_demo(
    folder: str | Path,
    *,
    overrides: Sequence[str] = (),
    on_training: Callable[[Progress], None] = lambda _: None,
    on_testing: TestProgress = lambda _name, _done, _all: None,
) -> EvaluationResult:
    """Train on real digits that ship in a package and find the unknown (``attractor-ae demo``).

    An interrupted demo goes on where it was; a finished one is evaluated again.

    Parameters
    ----------
    folder
        The run folder to make.
    overrides
        Any number of ``"section.key=value"`` over the preset ``quick``.
    on_training, on_testing
        As ``on_progress`` of `run_training` and `run_evaluation`.

    Raises
    ------
    AttractorError
        On everything that a user can repair.
    """
    config = preset("quick", overrides)
    run = run_training(config, folder, resume=True, on_progress=on_training)
    return run_evaluation(run.path, on_progress=on_testing)


def _training_images(config: ExperimentConfig, data_root: str | Path | None) -> ImageSet:
    dataset = config.dataset
    return load(
        dataset.name, dataset.split, per_class=dataset.nbr_of_samples_per_class, root=data_root
    )


def _augmentation(config: ExperimentConfig) -> Augmentation | None:
    if not config.training.augment:
        return None
    natural = CATALOGUE[config.dataset.name].natural
    return Augmentation(brightness_contrast=0.33 if natural else 0.0)


def _write_figures(
    folder: Path,
    result: EvaluationResult,
    estimator: AttractorEstimator,
    sets: Sequence[ImageSet],
) -> None:
    save_figure(entropy_histogram(result), folder / "entropy")
    save_figure(auroc_by_recursion(result), folder / "recursions")
    # The middle image of each set: neither chosen for its looks nor by its score.
    middle = np.stack([images.images[len(images) // 2] for images in sets])
    trajectories = estimator.trajectory(middle)[:4]
    inputs = torch.from_numpy(middle).float() / 255
    names = [images.name for images in sets]
    figure = reconstruction_figure(inputs, trajectories, names, per_row=2)
    save_figure(figure, folder / "reconstructions")
    for i, name in enumerate(names):
        save_figure(
            reconstruction_figure(inputs[i : i + 1], [t.image(i) for t in trajectories], [name]),
            folder / f"reconstructions-{name}",
        )
