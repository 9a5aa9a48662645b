"""SSIM of images (Wang et al., "Image Quality Assessment", IEEE TIP 2004)."""

import functools

import torch
from jaxtyping import Float
from torch import Tensor

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
# (0.01 L)^2 and (0.03 L)^2 for the data range L = 1 (Wang et al. 2004, section III.B).
_LUMINANCE_CONSTANT = 0.01**2
_CONTRAST_CONSTANT = 0.03**2


def structural_similarity(
    x: Float[Tensor, "n c h w"], y: Float[Tensor, "n c h w"], window: int = SSIM_WINDOW
) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n c"]]:
    """Return the means over pixels of SSIM, and of its contrast and structure alone.

    A local mean, which is a separable convolution, is here a product with a banded matrix from
    either side: on a CPU that takes a third of the time. Of the five local means of the
    definition, those of the two squares are only ever added, so their sum is one mean.
    """
    left, right = (
        _gaussian_matrix(side, window, SSIM_SIGMA, x.device, x.dtype) for side in x.shape[2:]
    )
    # The target has no gradient in training; by itself, it is spared in the backward pass.
    mean_y = left @ y @ right.mT  # (n, c, h - window + 1, w - window + 1)
    mean_x, mean_squares, mean_xy = (
        left @ torch.stack([x, x.square() + y.square(), x * y]) @ right.mT
    )
    product, squares = mean_x * mean_y, mean_x.square() + mean_y.square()
    structure = (2 * (mean_xy - product) + _CONTRAST_CONSTANT) / (
        mean_squares - squares + _CONTRAST_CONSTANT
    )
    luminance = (2 * product + _LUMINANCE_CONSTANT) / (squares + _LUMINANCE_CONSTANT)
    return (luminance * structure).mean(dim=(2, 3)), structure.mean(dim=(2, 3))


@functools.lru_cache(maxsize=32)
def _gaussian_matrix(
    side: int, window: int, sigma: float, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Return the matrix that takes Gaussian means where the window lies inside of the image.

    Its shape is (side - window + 1, side).
    """
    # It is kept: made in inference mode, it would be refused by the next training.
    with torch.inference_mode(False):
        # In float32 as in pytorch_msssim: a window whose sum is off one by another rounding
        # changes the variances of bright flat places, and the loss by 5e-6.
        offsets = torch.arange(window, dtype=torch.float32) - window // 2
        weights = torch.exp(-offsets.square() / (2 * sigma**2))
        weights /= weights.sum()
        matrix = torch.zeros(side - window + 1, side)
        for row, means in enumerate(matrix):
            means[row : row + window] = weights
        return matrix.to(device, dtype)
