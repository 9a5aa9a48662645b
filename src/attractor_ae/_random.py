"""Every random number comes from a stream that a seed and a key name, and from nowhere else.

A stream depends on its seed and key alone: not on the global state of NumPy or PyTorch, not on the
device, not on what was drawn before from another stream. So a run can be resumed at any epoch, and
an image meets the same masks whatever batch it comes in.
"""

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What a stream is for; the first part of its key, so that no two purposes share numbers."""

    TRAINING = 1
    TRIAL_MASKS = 2
    HEAD_MASKS = 3
    HEAD_TRAINING = 4
    SUBSET = 5
    CALIBRATION = 6


def generator(seed: int, stream: Stream, *key: int) -> np.random.Generator:
    """Return the generator of one stream.

    Parameters
    ----------
    seed
        Non-negative integer, the seed of the run or the detector.
    stream
        What the numbers are for.
    key
        Non-negative integers that tell streams of one purpose apart, e.g. trial and image index.

    Examples
    --------
    >>> a, b = (generator(0, Stream.TRIAL_MASKS, trial) for trial in (3, 3))
    >>> bool(a.random() == b.random())
    True
    """
    # SFC64 is NumPy's fastest bit generator; SeedSequence makes streams of near keys independent.
    sequence = np.random.SeedSequence(seed, spawn_key=(int(stream), *key))
    return np.random.Generator(np.random.SFC64(sequence))
