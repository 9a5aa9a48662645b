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
    """Return the means over pixels of SSIM, and of only its contrast and structure terms.

    A local mean is a separable convolution. It is computed as a product with a banded matrix from
    either side, which takes a third of the time on a CPU. Of the definition's five local means,
    those of the two squares occur only as a sum and are computed as one.
    """
    left, right = (
        _gaussian_matrix(side, window, SSIM_SIGMA, x.device, x.dtype) for side in x.shape[2:]
    )
    # In training the target has no gradient: a separate product needs no backward pass.
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
    """Return the matrix of Gaussian means at all positions of the window inside the image.

    Its shape is (side - window + 1, side).
    """
    # The matrix is cached, and one made in inference mode could not be used in training.
    with torch.inference_mode(False):
        # In float32 as in pytorch_msssim: other rounding of the sum of the window changes the
        # variances of bright flat regions, and the loss by 5e-6.
        offsets = torch.arange(window, dtype=torch.float32) - window // 2
        weights = torch.exp(-offsets.square() / (2 * sigma**2))
        weights /= weights.sum()
        matrix = torch.zeros(side - window + 1, side)
        for row, means in enumerate(matrix):
            means[row : row + window] = weights
        return matrix.to(device, dtype)
