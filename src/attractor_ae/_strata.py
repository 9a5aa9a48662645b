"""Dropout masks that are stratified over trials, for less scatter between seeds."""

import math

import numpy as np
import torch

from attractor_ae._random import Stream, generator
from attractor_ae.core.masks import F32, DropoutMasks, Shapes, check_rate

_STRATA = 3


def stratified_masks(
    shapes: Shapes, rate: float, seed: int, trial: int, dtype: torch.dtype = F32
) -> DropoutMasks:
    """Draw the masks of one trial like `trial_masks`, but not independently of two other trials.

    An entry is dropped where a uniform number is below ``rate``; in trials 3 k, 3 k + 1, 3 k + 2,
    this number is once in each third of [0, 1] (stratified sampling). So an entry is dropped about
    equally often in all triples, and means over trials depend less on the seed.
    """
    check_rate(rate)
    block, stratum = divmod(trial, _STRATA)
    rng = generator(seed, Stream.TRIAL_MASKS, block)
    sites = []
    for shape in shapes:
        *space, features = (*shape[1:], shape[0])
        strata = np.tile(np.arange(_STRATA), (math.prod(shape), 1))
        third = rng.permuted(strata, axis=1)[:, stratum]
        kept = (third + rng.random(len(third))) / _STRATA >= rate
        mask = torch.from_numpy(kept).to(dtype).mul_(1 / (1 - rate))
        sites.append(mask.reshape(1, *space, features).movedim(-1, 1))  # channels last, as there
    return DropoutMasks(tuple(sites))
