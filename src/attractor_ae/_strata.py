"""Dropout masks that are stratified over trials, for less scatter between seeds."""

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from attractor_ae._random import Stream, generator
from attractor_ae.core.masks import F32, DropoutMasks, Shapes, draw_masks

_STRATA = 3


def stratified_masks(
    shapes: Shapes, rate: float, seed: int, trial: int, dtype: torch.dtype = F32
) -> DropoutMasks:
    """Draw the masks of one trial like `trial_masks`, but not independently of two other trials.

    An entry is dropped where a uniform number is below ``rate``; in trials 3 k, 3 k + 1, 3 k + 2,
    this number is once in each third of [0, 1] (stratified sampling). So an entry is dropped about
    equally often in all triples, and means over trials depend less on the seed.
    """
    block, stratum = divmod(trial, _STRATA)
    rng = generator(seed, Stream.TRIAL_MASKS, block)
    return draw_masks(shapes, rate, 1, rng, dtype, partial(_kept, stratum))


def _kept(stratum: int, size: int, rate: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    strata = np.tile(np.arange(_STRATA), (size, 1))
    return (rng.permuted(strata, axis=1)[:, stratum] + rng.random(size)) / _STRATA >= rate
