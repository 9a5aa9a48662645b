"""Spaces of the autoencoder's inputs (points), with the scores that compare points.

Dynamics, heads, scores and calibration work on points of a space, tensors of shape (n, ...). Only
this module converts images to points.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from attractor_ae._errors import unknown_name

Images = Float[Tensor, "n c h w"]


def pixels(images: Tensor, device: torch.device) -> Images:
    """Return images, uint8 in 0..255 or float in [0, 1], as float32 in [0, 1] on a device."""
    moved = images.detach().to(device)
    return moved.float().div_(255) if moved.dtype == torch.uint8 else moved.float()


class Pixels:
    """Pixel space: points are images, values in [0, 1], shape (n, channels, height, width)."""

    scores = ("reconstruction_error", "ssim_distance", "step")
    """Scores of `attractor_ae.core.scores` that compare points of this space."""

    def points(self, x: Images) -> Images:
        """Return images or reconstructions as points."""
        return x


class Standardised(Pixels):
    """Images with their own brightness and contrast removed: mean 0.5, standard deviation 0.25.

    Otherwise brightness and contrast fill the codes of natural images. Reconstructions are
    standardised before each recursion, too. With these numbers a point is still a picture, with
    nearly all values in [0, 1].
    """

    def points(self, x: Images) -> Images:
        """Return images or reconstructions, each standardised over all its pixels and channels."""
        centred = x.float() - _mean(x.float())
        # An image of one grey level stays so.
        deviation = _mean(centred.square()).clamp_min(_LEAST_CONTRAST**2).sqrt()
        return 0.5 + 0.25 * centred / deviation


_LEAST_CONTRAST = 0.01  # standard deviation below which contrast is noise


def _mean(x: Images) -> Float[Tensor, "n 1 1 1"]:
    # In two steps: PyTorch adds the values of a large single image in another order.
    return x.flatten(1).unflatten(1, (-1, 16)).mean(2).mean(1)[:, None, None, None]


SPACES = {"pixels": Pixels, "standardised": Standardised}
"""The spaces, by the value of ``model.space``."""


def make_space(name: str) -> Pixels:
    """Return the space of a name in ``SPACES``; raise an AttractorError if it is unknown."""
    if name not in SPACES:
        raise unknown_name("space", name, SPACES)
    return SPACES[name]()
