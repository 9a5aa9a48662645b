"""Autoencoder attractors for uncertainty estimation."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attractor_ae.config import ExperimentConfig
    from attractor_ae.data import CATALOGUE, Augmentation, ImageSet, load
    from attractor_ae.dynamics import Trajectory, iterate
    from attractor_ae.errors import AttractorError
    from attractor_ae.estimators import (
        AttractorEstimator,
        EnsembleEstimator,
        MCDropoutEstimator,
        UncertaintyEstimator,
        load_estimator,
    )
    from attractor_ae.evaluation import EvaluationResult, evaluate
    from attractor_ae.fitting import fit_ensemble, fit_estimator
    from attractor_ae.importing import import_run
    from attractor_ae.models import Autoencoder, ConvClassifier, DropoutMasks
    from attractor_ae.presets import preset
    from attractor_ae.runs import Run
    from attractor_ae.training import train
    from attractor_ae.workflows.comparison import compare_runs, draw_runs
    from attractor_ae.workflows.demo import run_demo
    from attractor_ae.workflows.evaluation import run_ensemble_evaluation, run_evaluation
    from attractor_ae.workflows.reproduction import run_reproduction
    from attractor_ae.workflows.training import run_training

__version__ = version("attractor-ae")

# Imported when asked for: PyTorch takes seconds, and `attractor-ae --help` should not.
_HOMES = {
    "config": ("ExperimentConfig",),
    "data": ("CATALOGUE", "Augmentation", "ImageSet", "load"),
    "dynamics": ("Trajectory", "iterate"),
    "errors": ("AttractorError",),
    "estimators": (
        "AttractorEstimator",
        "EnsembleEstimator",
        "MCDropoutEstimator",
        "UncertaintyEstimator",
        "load_estimator",
    ),
    "evaluation": ("EvaluationResult", "evaluate"),
    "fitting": ("fit_ensemble", "fit_estimator"),
    "importing": ("import_run",),
    "models": ("Autoencoder", "ConvClassifier", "DropoutMasks"),
    "presets": ("preset",),
    "runs": ("Run",),
    "training": ("train",),
    "workflows.comparison": ("compare_runs", "draw_runs"),
    "workflows.demo": ("run_demo",),
    "workflows.evaluation": ("run_ensemble_evaluation", "run_evaluation"),
    "workflows.reproduction": ("run_reproduction",),
    "workflows.training": ("run_training",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "CATALOGUE",
    "AttractorError",
    "AttractorEstimator",
    "Augmentation",
    "Autoencoder",
    "ConvClassifier",
    "DropoutMasks",
    "EnsembleEstimator",
    "EvaluationResult",
    "ExperimentConfig",
    "ImageSet",
    "MCDropoutEstimator",
    "Run",
    "Trajectory",
    "UncertaintyEstimator",
    "compare_runs",
    "draw_runs",
    "evaluate",
    "fit_ensemble",
    "fit_estimator",
    "import_run",
    "iterate",
    "load",
    "load_estimator",
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
