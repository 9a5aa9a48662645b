"""Figures and tables of results; docstrings cite docs/protocol.md as PROTOCOL."""

from attractor_ae.reporting.calibration import reliability_diagram as reliability_diagram
from attractor_ae.reporting.comparison import Comparison as Comparison
from attractor_ae.reporting.comparison import compare as compare
from attractor_ae.reporting.contact_sheet import contact_sheet as contact_sheet
from attractor_ae.reporting.curves import auroc_by_recursion as auroc_by_recursion
from attractor_ae.reporting.curves import auroc_by_trials as auroc_by_trials
from attractor_ae.reporting.detection import precision_recall_figure as precision_recall_figure
from attractor_ae.reporting.detection import roc_figure as roc_figure
from attractor_ae.reporting.entropy import entropy_histogram as entropy_histogram
from attractor_ae.reporting.latent import latent_map as latent_map
from attractor_ae.reporting.reconstructions import ReconstructionBlock as ReconstructionBlock
from attractor_ae.reporting.reconstructions import middle_blocks as middle_blocks
from attractor_ae.reporting.reconstructions import reconstruction_figure as reconstruction_figure
from attractor_ae.reporting.rejection import accuracy_rejection_figure as accuracy_rejection_figure
from attractor_ae.reporting.rejection import rejection_curve as rejection_curve
from attractor_ae.reporting.style import save_figure as save_figure
from attractor_ae.reporting.tables import detection_table as detection_table
from attractor_ae.reporting.tables import recursion_table as recursion_table
from attractor_ae.reporting.tables import score_table as score_table
