"""Estimators: from a trained model to class probabilities and uncertainty."""

from attractor_ae.estimators.attractor import AttractorEstimator
from attractor_ae.estimators.base import UncertaintyEstimator
from attractor_ae.estimators.heads import HEADS, Head, KNNHead, MLPHead

__all__ = [
    "HEADS",
    "AttractorEstimator",
    "Head",
    "KNNHead",
    "MLPHead",
    "UncertaintyEstimator",
]
