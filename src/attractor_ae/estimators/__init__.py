"""Estimators: from a trained model to class probabilities and uncertainty."""

from attractor_ae.estimators.attractor import AttractorEstimator
from attractor_ae.estimators.base import UncertaintyEstimator
from attractor_ae.estimators.classifier import EnsembleEstimator, MCDropoutEstimator
from attractor_ae.estimators.heads import HEADS, Head, KNNHead, MLPHead
from attractor_ae.estimators.loading import load_estimator

__all__ = [
    "HEADS",
    "AttractorEstimator",
    "EnsembleEstimator",
    "Head",
    "KNNHead",
    "MCDropoutEstimator",
    "MLPHead",
    "UncertaintyEstimator",
    "load_estimator",
]
