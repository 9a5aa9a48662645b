"""Reconstruction losses of PROTOCOL section 3, by name.

MS-SSIM: Wang et al., "Multiscale Structural Similarity for Image Quality Assessment", 2003.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from attractor_ae._errors import AttractorError, check_known
from attractor_ae._ssim import SSIM_WINDOW, structural_similarity
from attractor_ae.losses.perceptual import PerceptualLoss

ReconstructionLoss = Callable[
    [Float[Tensor, "n c h w"], Float[Tensor, "n c h w"]], Float[Tensor, ""]
]
"""Function (reconstruction, target in [0, 1]) -> scalar to minimise."""

MS_SSIM_WINDOW = 7
# Exponents of the five scales, from the finest to the coarsest (Wang et al. 2003, section 3.2).
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def reconstruction_loss(name: str) -> ReconstructionLoss:
    """Return a reconstruction loss by its name, one of ``RECONSTRUCTION_LOSSES``.

    The loss is a function of a reconstruction and its target in [0, 1], float tensors of the same
    shape (n, channels, height, width). It returns a scalar to minimise, computed in float32 even
    under autocast. For "bce" the reconstruction contains logits. "ms-ssim" uses the published five
    scales for images of 97 pixels or more, and for smaller images as many as its window fits into
    (four for 64). The function raises an `AttractorError` if the shapes differ, or the images are
    smaller than the window of SSIM (11 pixels) or MS-SSIM (7).

    Raises:
        AttractorError: If the name is unknown, or the weights of the perceptual loss cannot be
            loaded.

    Examples:
        >>> loss = reconstruction_loss("mse")
        >>> loss(torch.full((2, 1, 64, 64), 0.5), torch.zeros(2, 1, 64, 64))
        tensor(1024.)
    """
    check_known("reconstruction loss", name, RECONSTRUCTION_LOSSES)
    loss = _LOSSES[name]()

    def in_float32(reconstruction: Tensor, target: Tensor) -> Tensor:
        # Without this check the pixelwise losses would broadcast.
        if reconstruction.shape != target.shape:
            raise AttractorError(
                "reconstruction and target must have the same shape, got "
                f"{tuple(reconstruction.shape)} and {tuple(target.shape)}"
            )
        # A variance, the difference of two means, would be dominated by rounding in 16 bits.
        with torch.autocast(reconstruction.device.type, enabled=False):
            return loss(reconstruction.float(), target.float())

    return in_float32


def _one_minus_ssim(reconstruction: Tensor, target: Tensor) -> Tensor:
    _check_window_fits("ssim", SSIM_WINDOW, target)
    similarity, _ = structural_similarity(reconstruction, target, SSIM_WINDOW)
    return 1 - similarity.mean()


def _one_minus_ms_ssim(reconstruction: Tensor, target: Tensor) -> Tensor:
    """Return 1 - MS-SSIM over as many of the five scales as the window fits into.

    With five scales, MS-SSIM equals ``pytorch_msssim.ms_ssim``; the weights of fewer scales are
    rescaled to the sum of all five.
    """
    _check_window_fits("ms-ssim", MS_SSIM_WINDOW, target)
    structure: list[Tensor] = []  # contrast times structure of each scale, (n, c)
    similarity = target  # SSIM of the coarsest scale so far, with luminance, (n, c)
    for _ in MS_SSIM_WEIGHTS:
        if min(target.shape[2:]) < MS_SSIM_WINDOW:
            break
        similarity, contrast_structure = structural_similarity(
            reconstruction, target, MS_SSIM_WINDOW
        )
        structure.append(contrast_structure)
        odd = [side % 2 for side in target.shape[2:]]
        reconstruction, target = (F.avg_pool2d(x, 2, padding=odd) for x in (reconstruction, target))
    weights = target.new_tensor(MS_SSIM_WEIGHTS[: len(structure)])
    weights = weights * (sum(MS_SSIM_WEIGHTS) / weights.sum())
    # Negative similarities count as 0, since they have no fractional powers.
    scales = torch.stack([*structure[:-1], similarity]).relu()  # (scales, n, c)
    return 1 - (scales ** weights[:, None, None]).prod(dim=0).mean()


def _check_window_fits(name: str, window: int, images: Tensor) -> None:
    height, width = images.shape[2:]
    if min(height, width) < window:
        raise AttractorError(
            f"the loss {name!r} needs images of at least {window} x {window} pixels, "
            f"got {height} x {width}; choose another reconstruction loss"
        )


def _per_image(loss: Callable[..., Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the loss summed over pixels and averaged over images."""
    return lambda reconstruction, target: (
        loss(reconstruction, target, reduction="sum") / len(target)
    )


# Losses are created on demand, since the perceptual loss has to load weights.
_LOSSES: dict[str, Callable[[], Callable[[Tensor, Tensor], Tensor]]] = {
    "ssim": lambda: _one_minus_ssim,
    "ms-ssim": lambda: _one_minus_ms_ssim,
    "mse": lambda: _per_image(F.mse_loss),
    "l1": lambda: _per_image(F.l1_loss),
    "huber": lambda: _per_image(F.huber_loss),
    "bce": lambda: partial(F.binary_cross_entropy_with_logits, reduction="sum"),
    "perceptual": PerceptualLoss,
}

RECONSTRUCTION_LOSSES: tuple[str, ...] = tuple(_LOSSES)
"""Names of the reconstruction losses."""
