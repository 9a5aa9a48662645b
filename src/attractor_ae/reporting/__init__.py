"""Figures and tables of results."""

from attractor_ae.reporting.comparison import Comparison, check_reported, compare
from attractor_ae.reporting.comparison_table import ComparisonTable
from attractor_ae.reporting.contact_sheet import contact_sheet
from attractor_ae.reporting.figures import (
    auroc_by_recursion,
    entropy_histogram,
    reconstruction_figure,
)
from attractor_ae.reporting.style import save_figure
from attractor_ae.reporting.tables import detection_table, recursion_table, score_table

__all__ = [
    "Comparison",
    "ComparisonTable",
    "auroc_by_recursion",
    "check_reported",
    "compare",
    "contact_sheet",
    "detection_table",
    "entropy_histogram",
    "reconstruction_figure",
    "recursion_table",
    "save_figure",
    "score_table",
]
