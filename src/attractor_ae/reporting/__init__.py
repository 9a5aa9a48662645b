"""Figures and tables of results."""

from attractor_ae.reporting.calibration import reliability_diagram
from attractor_ae.reporting.comparison import Comparison, check_reported, compare
from attractor_ae.reporting.contact_sheet import contact_sheet
from attractor_ae.reporting.curves import auroc_by_recursion, auroc_by_trials
from attractor_ae.reporting.detection import precision_recall_figure, roc_figure
from attractor_ae.reporting.entropy import entropy_histogram
from attractor_ae.reporting.grid import Grid
from attractor_ae.reporting.latent import latent_map
from attractor_ae.reporting.reconstructions import (
    ReconstructionBlock,
    middle_blocks,
    reconstruction_figure,
)
from attractor_ae.reporting.rejection import accuracy_rejection_figure, rejection_curve
from attractor_ae.reporting.style import save_figure
from attractor_ae.reporting.tables import detection_table, recursion_table, score_table

__all__ = [
    "Comparison",
    "Grid",
    "ReconstructionBlock",
    "accuracy_rejection_figure",
    "auroc_by_recursion",
    "auroc_by_trials",
    "check_reported",
    "compare",
    "contact_sheet",
    "detection_table",
    "entropy_histogram",
    "latent_map",
    "middle_blocks",
    "precision_recall_figure",
    "reconstruction_figure",
    "recursion_table",
    "rejection_curve",
    "reliability_diagram",
    "roc_figure",
    "save_figure",
    "score_table",
]
