"""An detector from its file, whatever its method."""

from pathlib import Path

from attractor_ae._detector import Detector
from attractor_ae._errors import AttractorError, unknown_name
from attractor_ae._files import read_tensors
from attractor_ae.baselines import EnsembleDetector, MCDropoutDetector
from attractor_ae.core.detector import AttractorDetector

DETECTORS: dict[str, type[Detector]] = {
    kind.method: kind for kind in (AttractorDetector, MCDropoutDetector, EnsembleDetector)
}
"""Name of a method -> its class."""


def load_detector(path: str | Path) -> Detector:
    """Read an detector of any method that its `save` wrote.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    Detector
        Of the class of the method that the file names.

    Raises
    ------
    AttractorError
        If the file is missing, damaged, or holds no detector.
    """
    path = Path(path)
    _, metadata = read_tensors(path)
    if "method" not in metadata:
        raise AttractorError(f"{path}: holds no detector; give a file that save wrote")
    method = metadata["method"]
    if method not in DETECTORS:
        raise AttractorError(f"{path}: {unknown_name('method', method, DETECTORS)}")
    return DETECTORS[method].load(path)
