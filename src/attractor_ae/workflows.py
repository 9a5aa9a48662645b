"""One function a command: what the terminal can do, a notebook can do."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from attractor_ae.config import ExperimentConfig
from attractor_ae.data import (
    DatasetInfo,
    ImageFormat,
    ImageSet,
    check_present,
    dataset_info,
    load,
)
from attractor_ae.data.own import ALL
from attractor_ae.devices import mixed_precision
from attractor_ae.errors import AttractorError
from attractor_ae.estimators import AttractorEstimator, UncertaintyEstimator
from attractor_ae.evaluation import EvaluationResult, evaluate
from attractor_ae.fitting import AFTER_TRAINING, evaluation_config, fit_estimator
from attractor_ae.presets import preset
from attractor_ae.reporting import (
    auroc_by_recursion,
    entropy_histogram,
    reconstruction_figure,
    save_figure,
)
from attractor_ae.runs import Run, environment
from attractor_ae.training import Progress, train

ImageProgress = Callable[[str, int, int], None]
"""Called with the name of a data set, and its images that are done and of all."""


LeftOut = Callable[[ImageSet], None]
"""Called with a data set of which files cannot be used."""


def _silent(_name: str, _done: int, _all: int) -> None:
    """Show nothing."""


BUILT_IN_OUT = ("faces", "textures", "photos")
"""The D_outs of an experiment that names none."""


def run_training(
    config: ExperimentConfig,
    folder: str | Path,
    *,
    data_root: str | Path | None = None,
    resume: bool = False,
    on_progress: Callable[[Progress], None] = lambda _: None,
    on_preparing: ImageProgress = _silent,
    on_left_out: LeftOut = lambda _: None,
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
    on_preparing
        Called with the name of a data set and its images that are prepared and of all.
    on_left_out
        Called with a data set of which files cannot be used; see `ImageSet.left_out`.

    Raises
    ------
    AttractorError
        On everything that a user can repair.
    """
    # Now: nobody should learn of a typo or a missing data set after a day of training.
    known = _evaluated(config, data_root)[0]
    images = training_images(config, data_root=data_root, on_preparing=on_preparing)
    if images.left_out:
        on_left_out(images)
    return train(
        config,
        images,
        folder,
        natural=known.natural,
        resume=resume,
        on_progress=on_progress,
    )


def training_images(
    config: ExperimentConfig,
    *,
    data_root: str | Path | None = None,
    on_preparing: ImageProgress = _silent,
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
    return _load(config, info, dataset.split, number, data_root, on_preparing, dataset.factor)


def run_evaluation(
    folder: str | Path,
    *,
    overrides: Sequence[str] = (),
    data_root: str | Path | None = None,
    on_progress: ImageProgress = _silent,
    on_preparing: ImageProgress = _silent,
    on_left_out: LeftOut = lambda _: None,
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
        Called with the name of a data set and its images that are scored and of all.
    on_preparing
        Called with the name of a data set and its images that are prepared and of all.
    on_left_out
        Called with a data set of which files cannot be used; see `ImageSet.left_out`.

    Raises
    ------
    AttractorError
        On everything that a user can repair.
    """
    run = Run.open(folder)
    config = evaluation_config(run, overrides)
    # Everything is loaded before anything is computed, so that a missing set is told at once.
    info, out_infos, shift_infos = _evaluated(config, data_root)
    number = config.evaluation.nbr_of_samples_per_class
    tested = partial(_load, config, root=data_root, on_preparing=on_preparing)
    known = tested(info, info.test_split, number, factor=config.dataset.factor)
    unknown = [tested(out, out.split_as_out, out.per_class) for out in out_infos]
    shifted = [tested(shift, shift.test_split, number) for shift in shift_infos]
    for images in (known, *shifted, *unknown):
        if images.left_out:
            run.log(f"left out of {images.name} ({images.split}): {len(images.left_out)} files")
            on_left_out(images)
    estimator = fit_estimator(
        folder,
        training_images(config, data_root=data_root, on_preparing=on_preparing),
        overrides=overrides,
        natural=info.natural,
    )
    precision = mixed_precision(estimator.device, estimator.precision)
    result = evaluate(
        estimator,
        known,
        unknown,
        shifted,
        # Of a classifier there are fewer: it has no reconstructions and no latent codes.
        scores=[name for name in config.evaluation.scores if name in estimator.score_names],
        provenance={
            **environment(str(estimator.device), str(precision)),
            "experiment": config.model_dump(mode="json"),
        },
        on_progress=on_progress,
    )
    estimator.save(run.estimator_file)
    result.save(run.evaluation_folder)
    sets = [known, *shifted, *unknown]
    _write_figures(run.evaluation_folder, result, estimator, sets)
    run.log(f"evaluated on {', '.join(images.name for images in sets)}")
    return result


def run_demo(
    folder: str | Path,
    *,
    overrides: Sequence[str] = (),
    on_training: Callable[[Progress], None] = lambda _: None,
    on_testing: ImageProgress = _silent,
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
    # A resumed run keeps the config that it was begun with, so these are said again.
    again = [text for text in overrides if text.startswith(AFTER_TRAINING)]
    return run_evaluation(run.path, overrides=again, on_progress=on_testing)


def _info(config: ExperimentConfig, name: str, root: str | Path | None) -> DatasetInfo:
    return dataset_info(name, root, config.dataset.split_seed)


def _load(
    config: ExperimentConfig,
    info: DatasetInfo,
    split: str,
    per_class: int,
    root: str | Path | None,
    on_preparing: ImageProgress,
    factor: str = "",
) -> ImageSet:
    """Load images as the network of an experiment takes them."""
    dataset = config.dataset
    return load(
        info,
        split,
        per_class=per_class,
        subset_seed=None if dataset.subset_seed < 0 else dataset.subset_seed,
        root=root,
        factor=factor,
        form=ImageFormat(dataset.image_size, dataset.channels),
        max_broken=dataset.max_broken,
        on_progress=partial(on_preparing, f"{info.name} {split}"),
    )


def _evaluated(
    config: ExperimentConfig, root: str | Path | None
) -> tuple[DatasetInfo, list[DatasetInfo], list[DatasetInfo]]:
    """Return what is known of D_in, the D_outs and the shifted sets, without loading them.

    Raises
    ------
    AttractorError
        If a name is unknown, or files that will be evaluated are not there.
    """
    known = config.dataset.name
    outs = config.evaluation.out_datasets or tuple(n for n in BUILT_IN_OUT if n != known)
    shifts = config.evaluation.shift_datasets
    names = [known, *outs, *shifts]
    for name in names:
        if names.count(name) > 1:
            raise AttractorError(f"data set {name!r} is named twice; name each set once")
    infos = [_info(config, name, root) for name in names]
    out_infos, shift_infos = infos[1 : 1 + len(outs)], infos[1 + len(outs) :]
    for info in out_infos:
        check_present(info, info.split_as_out, root)
    for info in shift_infos:
        check_present(info, info.test_split, root)
    return infos[0], out_infos, shift_infos


def _write_figures(
    folder: Path,
    result: EvaluationResult,
    estimator: UncertaintyEstimator,
    sets: Sequence[ImageSet],
) -> None:
    # Those of sets that an earlier evaluation looked at would be taken for results of this one.
    for stale in (*folder.glob("reconstructions-*"), *folder.glob("recursions.*")):
        stale.unlink()
    save_figure(entropy_histogram(result), folder / "entropy")
    if result.recursions > 1:
        save_figure(auroc_by_recursion(result), folder / "recursions")
    if not isinstance(estimator, AttractorEstimator):
        return  # a classifier reconstructs nothing
    # The middle image of each set: neither chosen for its looks nor by its score.
    middle = np.stack([images.images[len(images) // 2] for images in sets])
    trajectories = estimator.trajectory(middle)[:4]
    inputs = torch.from_numpy(middle).float() / 255
    names = [images.name for images in sets]
    figure = reconstruction_figure(inputs, trajectories, names, per_row=3)
    save_figure(figure, folder / "reconstructions")
    for i, name in enumerate(names):
        save_figure(
            reconstruction_figure(inputs[i : i + 1], [t.image(i) for t in trajectories], [name]),
            folder / f"reconstructions-{name}",
        )
