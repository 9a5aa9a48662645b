"""One function a command: what the terminal can do, a notebook can do."""

from attractor_ae.workflows.comparison import compare_runs, draw_runs, measured_runs
from attractor_ae.workflows.demo import run_demo
from attractor_ae.workflows.evaluation import run_ensemble_evaluation, run_evaluation
from attractor_ae.workflows.images import training_images
from attractor_ae.workflows.reproduction import Reproduction, run_reproduction
from attractor_ae.workflows.training import run_training

__all__ = [
    "Reproduction",
    "compare_runs",
    "draw_runs",
    "measured_runs",
    "run_demo",
    "run_ensemble_evaluation",
    "run_evaluation",
    "run_reproduction",
    "run_training",
    "training_images",
]
