"""The main job on images that ship inside packages (``attractor-ae demo``)."""

from collections.abc import Callable, Sequence
from pathlib import Path

from attractor_ae.experiment.evaluate import run_evaluation
from attractor_ae.experiment.fit import AFTER_TRAINING
from attractor_ae.experiment.plan import ImageProgress, silent
from attractor_ae.experiment.presets import preset
from attractor_ae.experiment.result import EvaluationResult
from attractor_ae.experiment.train import run_training
from attractor_ae.training import Progress


def run_demo(
    folder: str | Path,
    *,
    overrides: Sequence[str] = (),
    on_training: Callable[[Progress], None] = lambda _: None,
    on_testing: ImageProgress = silent,
) -> EvaluationResult:
    """Train on real digits that ship in a package and find the unknown (``attractor-ae demo``).

    An interrupted demo goes on where it was; of a finished one the result is read.

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
