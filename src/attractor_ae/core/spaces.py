"""The space of the autoencoder's inputs (points), here pixels, and its scores.

Dynamics, heads, scores and calibration work on points of a space, tensors of shape (n, ...). Only
this module converts images to points.
"""

import torch
from jaxtyping import Float
from torch import Tensor


class Pixels:
    """Pixel space: points are images, values in [0, 1], shape (n, channels, height, width)."""

    scores = ("reconstruction_error", "ssim_distance", "step")
    """Scores of `attractor_ae.core.scores` that compare points of this space."""

    def points(self, images: Tensor, device: torch.device) -> Float[Tensor, "n c h w"]:
        """Return images, uint8 in 0..255 or float in [0, 1], as float32 points on a device."""
        moved = images.detach().to(device)
        return moved.float().div_(255) if moved.dtype == torch.uint8 else moved.float()
