"""Dropout masks as values: what is drawn once can be applied again and again."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from attractor_ae.errors import AttractorError
from attractor_ae.randomness import Stream, generator

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
    shapes: Sequence[SiteShape], rate: float, count: int, rng: np.random.Generator
) -> DropoutMasks:
    """Draw fresh masks for ``count`` images, every element on its own (PROTOCOL section 2).

    Parameters
    ----------
    shapes
        Shape of one image's activations at each site: (features,) or (channels, height, width).
    rate
        Probability that an element is dropped, in [0, 1). It is met to within 2**-17, or 2**-16
        above 1 - 2**-16.
    count
        Number of images; 1 makes masks that any number of images can share.
    rng
        Source of the random numbers.

    Returns
    -------
    DropoutMasks
        float32, on the CPU; masks of images lie in memory channels last, as the convolutions want.
    """
    check_rate(rate)
    # Sixteen bits a decision, and the rate that they express is used for the scale as well, so that
    # a mask's mean is one.
    threshold = min(round(rate * 65536), 65535)
    scale = 65536 / (65536 - threshold)
    sites = []
    for shape in shapes:
        *space, features = (*shape[1:], shape[0])  # (h, w, c) or (f,)
        kept = _bernoulli(count * int(np.prod(shape)), threshold, rng)
        # As bytes: PyTorch turns those into floats faster than truth values.
        mask = torch.from_numpy(kept.view(np.uint8)).float().mul_(scale)
        # (count, c, h, w), channels last in memory
        sites.append(mask.reshape(count, *space, features).movedim(-1, 1))
    return DropoutMasks(tuple(sites))


def _bernoulli(size: int, threshold: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return whether each of ``size`` random numbers of 16 bits is at least ``threshold``.

    Their low bytes are only drawn for the one in 256 that the high byte leaves undecided.
    """
    high, low = divmod(threshold, 256)
    # Eight bytes from each draw.
    drawn = rng.integers(2**64, size=-(-size // 8), dtype=np.uint64).view(np.uint8)[:size]
    kept = drawn > high
    undecided = np.flatnonzero(drawn == high)
    kept[undecided] = rng.integers(256, size=len(undecided), dtype=np.uint8) >= low
    return kept


def trial_masks(
    shapes: Sequence[SiteShape],
    rate: float,
    seed: int,
    trial: int,
    stream: Stream = Stream.TRIAL_MASKS,
) -> DropoutMasks:
    """Draw the masks of one trial that all images share (scope "trial").

    Every image meets the same member of the family of dynamical systems, and the masks of a trial
    cost one image's worth of random numbers.

    Parameters
    ----------
    shapes, rate
        As for `draw_masks`.
    seed, trial, stream
        What the masks are derived from.
    """
    return draw_masks(shapes, rate, 1, generator(seed, stream, trial))


def sample_masks(
    shapes: Sequence[SiteShape],
    rate: float,
    seed: int,
    trial: int,
    first: int,
    count: int,
    stream: Stream = Stream.TRIAL_MASKS,
) -> DropoutMasks:
    """Draw the masks of one trial, own ones for each image (scope "sample").

    Parameters
    ----------
    shapes, rate
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
        masks = draw_masks(shapes, rate, _BLOCK, generator(seed, stream, trial, block))
        drawn.append([site[rows] for site in masks.sites])
    return DropoutMasks(tuple(torch.cat(site) for site in zip(*drawn, strict=True)))
