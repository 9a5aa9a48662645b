# The public names: read by type checkers, and by the package to import them when needed.
from ._detector import Detector
from ._errors import AttractorError
from .baselines import ConvClassifier, EnsembleDetector, MCDropoutDetector, load_detector
from .core.autoencoder import Autoencoder
from .core.detector import AttractorDetector
from .core.dynamics import Trajectory, iterate
from .core.masks import DropoutMasks
from .data import CATALOGUE, ImageSet, load
from .data.augmentation import Augmentation
from .deploy.attractors import find_attractors
from .deploy.evaluation import ModelEvaluation, evaluate_model
from .deploy.export import export_model
from .deploy.fit import fit_model, model_of_run, recalibrate
from .deploy.hub import pull_model, push_model
from .deploy.model import Model, load_model
from .deploy.pytorch_ood import as_pytorch_ood
from .deploy.report import write_report
from .deploy.sklearn import AttractorClassifier
from .deploy.table import score_to_file
from .deploy.torch_uncertainty import as_ensemble_module
from .deploy.verdicts import Verdict
from .experiment.compare import compare_runs, draw_runs
from .experiment.config import ExperimentConfig, preset
from .experiment.convert import import_run
from .experiment.evaluate import run_demo, run_ensemble_evaluation, run_evaluation
from .experiment.fit import fit_detector, fit_ensemble
from .experiment.reproduce import run_reproduction
from .experiment.result import EvaluationResult, evaluate
from .experiment.run import Run
from .experiment.train import run_training
from .training import train

__version__: str

__all__ = [
    "CATALOGUE",
    "AttractorClassifier",
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
    "Model",
    "ModelEvaluation",
    "Run",
    "Trajectory",
    "Verdict",
    "as_ensemble_module",
    "as_pytorch_ood",
    "compare_runs",
    "draw_runs",
    "evaluate",
    "evaluate_model",
    "export_model",
    "find_attractors",
    "fit_detector",
    "fit_ensemble",
    "fit_model",
    "import_run",
    "iterate",
    "load",
    "load_detector",
    "load_model",
    "model_of_run",
    "preset",
    "pull_model",
    "push_model",
    "recalibrate",
    "run_demo",
    "run_ensemble_evaluation",
    "run_evaluation",
    "run_reproduction",
    "run_training",
    "score_to_file",
    "train",
    "write_report",
]
