"""Dropout masks as values: what is drawn once can be applied again and again."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from attractor_ae._errors import AttractorError
from attractor_ae._random import Stream, generator

SiteShape = tuple[int, ...]

_BLOCK = 16
"""Images whose own masks come from one stream."""


@dataclass(frozen=True, eq=False)
class DropoutMasks:
    """One mask for every dropout site of a network.

    Attributes
    ----------
    sites
        One float tensor a site, in the order in which the network meets them. Shape (m, features)
        or (m, channels, height, width), where m is the number of images, or 1 if all images share
        the mask. An entry is 0 with probability ``rate`` and 1 / (1 - rate) otherwise.
    """

    sites: tuple[Float[Tensor, "m ..."], ...]

    def to(self, device: torch.device | str) -> "DropoutMasks":
        """Return the masks on another device."""
        return DropoutMasks(tuple(site.to(device) for site in self.sites))


def check_rate(rate: float) -> None:
    """Raise an AttractorError unless ``rate`` is a dropout rate."""
    if not 0 <= rate < 1:
        raise AttractorError(f"dropout rate must lie in [0, 1), got {rate}")


def check_masks(masks: DropoutMasks, shapes: Sequence[SiteShape]) -> None:
    """Raise an AttractorError unless ``masks`` have the site shapes that a network wants."""
    given = tuple(tuple(site.shape[1:]) for site in masks.sites)
    if given != tuple(shapes):
        raise AttractorError(
            f"masks of shapes {given} do not fit the model's sites {tuple(shapes)}; "
            "draw them with the model's site_shapes"
        )


def draw_masks(
    shapes: Sequence[SiteShape],
    rate: float,
    count: int,
    rng: np.random.Generator,
    dtype: torch.dtype = torch.float32,
) -> DropoutMasks:
    """Draw fresh masks for ``count`` images, every element on its own (PROTOCOL section 2).

    Parameters
    ----------
    shapes
        Shape of one image's activations at each site: (features,) or (channels, height, width).
    rate
        Probability that an element is dropped, in [0, 1).
    count
        Number of images; 1 makes masks that any number of images can share.
    rng
        Source of the random numbers.
    dtype
        Floating-point type of the masks. That of the activations they will be multiplied with is
        fastest by far; what is dropped does not depend on it.

    Returns
    -------
    DropoutMasks
        On the CPU; masks of images lie in memory channels last, as the convolutions want.
    """
    check_rate(rate)
    sites = []
    for shape in shapes:
        *space, features = (*shape[1:], shape[0])  # (h, w, c) or (f,)
        kept = _bernoulli(count * math.prod(shape), rate, rng)
        # As bytes: PyTorch turns those into floats faster than truth values.
        mask = torch.from_numpy(kept.view(np.uint8)).to(dtype).mul_(1 / (1 - rate))
        # (count, c, h, w), channels last in memory
        sites.append(mask.reshape(count, *space, features).movedim(-1, 1))
    return DropoutMasks(tuple(sites))


def _bernoulli(size: int, rate: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return ``size`` truth values, each false with probability ``rate``.

    A random byte decides with a probability of the nearest 256th below. What is left of the rate
    falls on few elements, which are found without a look at the others: a Poisson number of shots
    at random places hits each element independently, with probability 1 - exp(-shots / size).
    """
    threshold = math.floor(256 * rate)
    # Eight bytes from each draw.
    drawn = rng.integers(2**64, size=-(-size // 8), dtype=np.uint64).view(np.uint8)[:size]
    kept = drawn >= threshold
    rest = max(0.0, 1 - (1 - rate) / (1 - threshold / 256))
    shots = rng.poisson(-math.log1p(-rest) * size)
    kept[rng.integers(size, size=shots)] = False
    return kept


def trial_masks(
    shapes: Sequence[SiteShape],
    rate: float,
    seed: int,
    trial: int,
    stream: Stream = Stream.TRIAL_MASKS,
    dtype: torch.dtype = torch.float32,
) -> DropoutMasks:
    """Draw the masks of one trial that all images share (scope "trial").

    Every image meets the same member of the family of dynamical systems, and the masks of a trial
    cost one image's worth of random numbers.

    Parameters
    ----------
    shapes, rate, dtype
        As for `draw_masks`.
    seed, trial, stream
        What the masks are derived from.
    """
    return draw_masks(shapes, rate, 1, generator(seed, stream, trial), dtype)


def sample_masks(
    shapes: Sequence[SiteShape],
    rate: float,
    seed: int,
    trial: int,
    first: int,
    count: int,
    stream: Stream = Stream.TRIAL_MASKS,
    dtype: torch.dtype = torch.float32,
) -> DropoutMasks:
    """Draw the masks of one trial, own ones for each image (scope "sample").

    Parameters
    ----------
    shapes, rate, dtype
        As for `draw_masks`.
    seed, trial, stream
        What the masks are derived from, together with
    first, count
        the index of each image, first .. first + count - 1, so that an image's masks do not depend
        on its batch.
    """
    # Image by image most of the time would go into starting generators: a block has one.
    drawn = []
    for block in range(first // _BLOCK, -(-(first + count) // _BLOCK)):
        before = block * _BLOCK
        rows = slice(max(first - before, 0), min(first + count - before, _BLOCK))
        masks = draw_masks(shapes, rate, _BLOCK, generator(seed, stream, trial, block), dtype)
        drawn.append([site[rows] for site in masks.sites])
    return DropoutMasks(tuple(torch.cat(site) for site in zip(*drawn, strict=True)))
