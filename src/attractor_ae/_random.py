"""Independent streams of random numbers, each determined by a seed and a key.

Therefore a run can be resumed at any epoch, and the masks of an image do not depend on its batch.
"""

import math
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Stream(IntEnum):
    """Purpose of a stream, the first part of its key: no two purposes share random numbers."""

    TRAINING = 1
    TRIAL_MASKS = 2
    HEAD_MASKS = 3
    HEAD_TRAINING = 4
    SUBSET = 5
    CALIBRATION = 6
    OPEN_SET = 7


def generator(seed: int, stream: Stream, *key: int) -> np.random.Generator:
    """Return the generator of one stream; ``key`` distinguishes streams of one purpose.

    Examples:
        >>> a, b = (generator(0, Stream.TRIAL_MASKS, trial) for trial in (3, 3))
        >>> bool(a.random() == b.random())
        True
    """
    # SFC64 is NumPy's fastest bit generator; SeedSequence makes streams independent.
    sequence = np.random.SeedSequence(seed, spawn_key=(int(stream), *key))
    return np.random.Generator(np.random.SFC64(sequence))


def bernoulli(size: int, rate: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return ``size`` booleans, each false with probability ``rate``.

    One random byte per element makes it false with probability floor(256 rate) / 256. The remaining
    rate is small: elements at N random positions are set to false, N drawn from a Poisson
    distribution of mean m, so each element is drawn independently with probability
    1 - exp(-m / size).
    """
    threshold = math.floor(256 * rate)
    drawn = rng.integers(2**64, size=-(-size // 8), dtype=np.uint64).view(np.uint8)[:size]
    kept = drawn >= threshold
    rest = max(0.0, 1 - (1 - rate) / (1 - threshold / 256))
    shots = rng.poisson(-math.log1p(-rest) * size)
    kept[rng.integers(size, size=shots)] = False
    return kept
