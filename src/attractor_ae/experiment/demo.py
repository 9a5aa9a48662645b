"""The main job on images that ship inside packages (``attractor-ae demo``)."""

from collections.abc import Sequence
from pathlib import Path

from attractor_ae._reporter import SILENT, Reporter
from attractor_ae.experiment.evaluate import run_evaluation
from attractor_ae.experiment.fit import AFTER_TRAINING
from attractor_ae.experiment.presets import preset
from attractor_ae.experiment.result import EvaluationResult
from attractor_ae.experiment.train import run_training


def run_demo(
    folder: str | Path, *, overrides: Sequence[str] = (), reporter: Reporter = SILENT
) -> EvaluationResult:
    """Train on real digits and detect other images; an interrupted demo continues.

    Args:
        folder: The run folder to make.
        overrides: Any number of ``"section.key=value"`` over the preset ``quick``.
        reporter: Receives progress and notes.

    Raises:
        AttractorError: On everything that a user can repair.
    """
    run = run_training(preset("quick", overrides), folder, resume=True, reporter=reporter)
    # A resumed run keeps the config of its start, so these are given again.
    again = [text for text in overrides if text.startswith(AFTER_TRAINING)]
    return run_evaluation(run.path, overrides=again, reporter=reporter)
