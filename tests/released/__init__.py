"""Arrays computed by the released code, and tests against them (see README.md)."""

from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "arrays"


def arrays(name: str) -> dict[str, np.ndarray]:
    """Return the arrays of an ``.npz`` file of this folder."""
    with np.load(FOLDER / name, allow_pickle=False) as file:
        return dict(file)
