"""An estimator from its file, whatever its method."""

from pathlib import Path

from attractor_ae.errors import AttractorError, unknown_name
from attractor_ae.estimators.attractor import AttractorEstimator
from attractor_ae.estimators.base import UncertaintyEstimator
from attractor_ae.estimators.classifier import EnsembleEstimator, MCDropoutEstimator
from attractor_ae.storage import read_tensors

ESTIMATORS: dict[str, type[UncertaintyEstimator]] = {
    kind.method: kind for kind in (AttractorEstimator, MCDropoutEstimator, EnsembleEstimator)
}
"""Name of a method -> its class."""


def load_estimator(path: str | Path) -> UncertaintyEstimator:
    """Read an estimator of any method that its `save` wrote.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    UncertaintyEstimator
        Of the class of the method that the file names.

    Raises
    ------
    AttractorError
        If the file is missing, damaged, or holds no estimator.
    """
    path = Path(path)
    _, metadata = read_tensors(path)
    if "method" not in metadata:
        raise AttractorError(f"{path}: holds no estimator; give a file that save wrote")
    method = metadata["method"]
    if method not in ESTIMATORS:
        raise AttractorError(f"{path}: {unknown_name('method', method, ESTIMATORS)}")
    return ESTIMATORS[method].load(path)
