"""Train the network of an experiment (``attractor-ae train``)."""

from collections.abc import Callable
from pathlib import Path

from attractor_ae.experiment.config import ExperimentConfig
from attractor_ae.experiment.plan import (
    ImageProgress,
    LeftOut,
    evaluated,
    silent,
    training_images,
)
from attractor_ae.experiment.run import Run
from attractor_ae.training import Progress, train


def run_training(
    config: ExperimentConfig,
    folder: str | Path,
    *,
    data_root: str | Path | None = None,
    resume: bool = False,
    on_progress: Callable[[Progress], None] = lambda _: None,
    on_preparing: ImageProgress = silent,
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
    known = evaluated(config, data_root).known
    images = training_images(config, data_root=data_root, on_preparing=on_preparing)
    if images.left_out:
        on_left_out(images)
    return train(
        config,
        images,
        folder,
        natural=known.info.natural,
        resume=resume,
        on_progress=on_progress,
    )
