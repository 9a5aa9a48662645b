"""Autoencoder attractors for uncertainty estimation."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attractor_ae._detector import Detector, load_detector
    from attractor_ae._errors import AttractorError
    from attractor_ae.baselines import ConvClassifier, EnsembleDetector, MCDropoutDetector
    from attractor_ae.core.autoencoder import Autoencoder
    from attractor_ae.core.detector import AttractorDetector
    from attractor_ae.core.dynamics import Trajectory, iterate
    from attractor_ae.core.masks import DropoutMasks
    from attractor_ae.data import CATALOGUE, Augmentation, ImageSet, load
    from attractor_ae.experiment.compare import compare_runs, draw_runs
    from attractor_ae.experiment.config import ExperimentConfig
    from attractor_ae.experiment.convert import import_run
    from attractor_ae.experiment.demo import run_demo
    from attractor_ae.experiment.evaluate import run_ensemble_evaluation, run_evaluation
    from attractor_ae.experiment.fit import fit_detector, fit_ensemble
    from attractor_ae.experiment.presets import preset
    from attractor_ae.experiment.reproduce import run_reproduction
    from attractor_ae.experiment.result import EvaluationResult, evaluate
    from attractor_ae.experiment.run import Run
    from attractor_ae.experiment.train import run_training
    from attractor_ae.training import train

__version__ = version("attractor-ae")

# Imported when asked for: PyTorch takes seconds, and `attractor-ae --help` should not.
_HOMES = {
    "_detector": ("Detector", "load_detector"),
    "_errors": ("AttractorError",),
    "baselines": (
        "ConvClassifier",
        "EnsembleDetector",
        "MCDropoutDetector",
    ),
    "core.autoencoder": ("Autoencoder",),
    "core.detector": ("AttractorDetector",),
    "core.dynamics": (
        "Trajectory",
        "iterate",
    ),
    "core.masks": ("DropoutMasks",),
    "data": (
        "CATALOGUE",
        "Augmentation",
        "ImageSet",
        "load",
    ),
    "experiment.compare": (
        "compare_runs",
        "draw_runs",
    ),
    "experiment.config": ("ExperimentConfig",),
    "experiment.convert": ("import_run",),
    "experiment.demo": ("run_demo",),
    "experiment.evaluate": (
        "run_ensemble_evaluation",
        "run_evaluation",
    ),
    "experiment.fit": (
        "fit_detector",
        "fit_ensemble",
    ),
    "experiment.presets": ("preset",),
    "experiment.reproduce": ("run_reproduction",),
    "experiment.result": (
        "EvaluationResult",
        "evaluate",
    ),
    "experiment.run": ("Run",),
    "experiment.train": ("run_training",),
    "training": ("train",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "CATALOGUE",
    "AttractorDetector",
    "AttractorError",
    "Augmentation",
    "Autoencoder",
    "ConvClassifier",
    "Detector",
    "DropoutMasks",
    "EnsembleDetector",
    "EvaluationResult",
    "ExperimentConfig",
    "ImageSet",
    "MCDropoutDetector",
    "Run",
    "Trajectory",
    "compare_runs",
    "draw_runs",
    "evaluate",
    "fit_detector",
    "fit_ensemble",
    "import_run",
    "iterate",
    "load",
    "load_detector",
    "preset",
    "run_demo",
    "run_ensemble_evaluation",
    "run_evaluation",
    "run_reproduction",
    "run_training",
    "train",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name in _HOME_OF:
        return getattr(import_module(f"attractor_ae.{_HOME_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
