"""Dropout masks as tensors: drawn once, used in every recursion (PROTOCOL section 1)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from attractor_ae._errors import AttractorError
from attractor_ae._random import Stream, bernoulli, generator

SiteShape = tuple[int, ...]
"""Shape of one image's activations at a dropout site: (features,) or (channels, height, width)."""
Shapes = Sequence[SiteShape]

F32 = torch.float32
_BLOCK = 16  # number of images that share a generator in `sample_masks`


@dataclass(frozen=True, eq=False)
class DropoutMasks:
    """One mask per dropout site of a network, in the order of the sites.

    A mask is a float tensor of shape (m, features) or (m, channels, height, width), where m is the
    number of images, or 1 if all images share the mask. An entry is 0 with probability ``rate`` and
    1 / (1 - rate) otherwise (PROTOCOL section 2).
    """

    sites: tuple[Float[Tensor, "m ..."], ...]

    def to(self, device: torch.device | str) -> "DropoutMasks":
        """Return the masks on another device."""
        return DropoutMasks(tuple(site.to(device) for site in self.sites))


def sites_of(masks: DropoutMasks | None, shapes: Shapes) -> tuple[Tensor | None, ...]:
    """Return one mask per site after checking the shapes; None per site if ``masks`` is None."""
    if masks is None:
        return (None,) * len(shapes)
    if (given := tuple(tuple(site.shape[1:]) for site in masks.sites)) != tuple(shapes):
        raise AttractorError(f"masks have shapes {given}; draw them for {tuple(shapes)}")
    return masks.sites


def check_rate(rate: float) -> None:
    """Raise an AttractorError unless ``rate`` is in [0, 1)."""
    if not 0 <= rate < 1:
        raise AttractorError(f"dropout rate must be in [0, 1), got {rate}")


def draw_masks(
    shapes: Shapes,
    rate: float,
    count: int,
    rng: np.random.Generator,
    dtype: torch.dtype = F32,
    draw: Callable[..., np.ndarray] = bernoulli,
) -> DropoutMasks:
    """Draw masks for ``count`` images on the CPU, all elements independently.

    Masks in the dtype of the activations are fastest; the dropped entries do not depend on the
    dtype. Masks of feature maps are in channels-last memory format, which is faster.
    """
    check_rate(rate)
    sites = []
    for shape in shapes:
        *space, features = (*shape[1:], shape[0])  # (h, w, c) or (f,)
        # True, with probability 1 - rate, where the activation is kept.
        kept = draw(count * math.prod(shape), rate, rng)
        # PyTorch converts bytes to floats faster than booleans.
        mask = torch.from_numpy(kept.view(np.uint8)).to(dtype).mul_(1 / (1 - rate))
        sites.append(mask.reshape(count, *space, features).movedim(-1, 1))  # (count, c, h, w)
    return DropoutMasks(tuple(sites))


def trial_masks(
    shapes: Shapes, rate: float, seed: int, trial: int, dtype: torch.dtype = F32
) -> DropoutMasks:
    """Draw the masks of one trial, shared by all images."""
    return draw_masks(shapes, rate, 1, generator(seed, Stream.TRIAL_MASKS, trial), dtype)


def sample_masks(
    shapes: Shapes,
    rate: float,
    seed: int,
    trial: int,
    first: int,
    count: int,
    stream: Stream = Stream.TRIAL_MASKS,
    dtype: torch.dtype = F32,
) -> DropoutMasks:
    """Draw the masks of one trial for the images first .. first + count - 1, one per image.

    The mask of an image depends on its index, not on its batch.
    """
    # Creating a generator per image would take most of the time, so a block of images shares one.
    drawn = []
    for block in range(first // _BLOCK, -(-(first + count) // _BLOCK)):
        before = block * _BLOCK
        rows = slice(max(first - before, 0), min(first + count - before, _BLOCK))
        masks = draw_masks(shapes, rate, _BLOCK, generator(seed, stream, trial, block), dtype)
        drawn.append([site[rows] for site in masks.sites])
    return DropoutMasks(tuple(torch.cat(site) for site in zip(*drawn, strict=True)))
