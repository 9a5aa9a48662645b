"""Training of the network of an experiment (``attractor-ae train``)."""

from collections.abc import Callable
from pathlib import Path

from attractor_ae._reporter import SILENT, Reporter
from attractor_ae.experiment.config import ExperimentConfig
from attractor_ae.experiment.plan import make_plan
from attractor_ae.experiment.run import Run
from attractor_ae.training import train


def run_training(
    config: ExperimentConfig,
    folder: str | Path,
    *,
    data_root: str | Path | None = None,
    resume: bool = False,
    validate: bool = False,
    reporter: Reporter = SILENT,
    stop: Callable[[float, int], bool] | None = None,
) -> Run:
    """Load the images that a config names, and train on them; see `attractor_ae.train`.

    With ``validate``, the validation is on the test images of D_in and on its accuracy splits.
    """
    plan = make_plan(config, data_root)
    plan.check()  # a missing D_out is reported before the training, not after it
    images = plan.load_training(reporter)
    tests = [plan.in_dataset, *plan.covariate_shift] if validate else []
    loaded = [plan.load(t, reporter) for t in tests if t.dataset is plan.training.dataset]
    shared = {"augmentation": plan.augmentation, "resume": resume, "reporter": reporter}
    return train(config, images, folder, validation=loaded, stop=stop, **shared)
