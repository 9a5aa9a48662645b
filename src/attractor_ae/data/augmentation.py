"""Augmentation of the input images in training: blur, noise, brightness and contrast."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor

from attractor_ae._errors import AttractorError

# The brightness of colour, as torchvision's and PIL's conversion to grey weigh it.
_GREY_OF_COLOUR = (0.2989, 0.587, 0.114)


@dataclass(frozen=True)
class Augmentation:
    """The augmentations of PROTOCOL section 3, each applied to each image with one probability.

    In this order, and clipped to [0, 1] after each:

    1. box blur, the kernel one of 3, 5, ... ``max_blur`` (odd; 1: none) with equal probability. The
       border is mirrored without repeating the edge pixel, as by torchvision ("reflect" padding);
    2. multiplicative noise, one factor for each pixel, shared by its channels, uniform in
       ``noise``;
    3. brightness: the image times a factor, uniform in [1, 1 + ``brightness_contrast``]; PROTOCOL
       has 0.33 for natural images and vehicle interiors, 0: none;
    4. contrast: the distance of the image from its mean grey times such a factor of its own.

    Raises:
        AttractorError: If a value is out of range.

    Examples:
        >>> augment = Augmentation()
        >>> images = torch.full((2, 1, 64, 64), 0.5)
        >>> augment(images, np.random.default_rng(0)).shape
        torch.Size([2, 1, 64, 64])
    """

    probability: float = 0.4
    max_blur: int = 7
    noise: tuple[float, float] = (0.75, 1.25)
    brightness_contrast: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise AttractorError(f"probability must be in [0, 1], got {self.probability}")
        if self.max_blur < 1 or self.max_blur % 2 == 0:
            raise AttractorError(
                f"max_blur must be an odd number of pixels, got {self.max_blur}; 1 does not blur"
            )
        low, high = self.noise
        if not 0 <= low <= high < math.inf:
            raise AttractorError(
                f"noise must be a smallest and a largest factor, both at least 0, got {self.noise}"
            )
        if not 0 <= self.brightness_contrast < math.inf:
            raise AttractorError(
                f"brightness_contrast must be at least 0, got {self.brightness_contrast}"
            )

    def __call__(
        self, images: Float[Tensor, "n c h w"], generator: np.random.Generator
    ) -> Float[Tensor, "n c h w"]:
        """Return augmented copies of images.

        ``images`` are floats in [0, 1], shape (n, channels, height, width), and so is the result.
        What is drawn from ``generator`` depends on their shape, not on their values or device.
        """
        n, _, height, width = images.shape
        blurred, noisy, brighter, contrasted = (
            np.flatnonzero(chosen) for chosen in generator.random((4, n)) < self.probability
        )
        sizes = generator.integers(max(self.max_blur // 2, 1), size=n)  # 0, 1, ... for 3, 5, ...
        factors = 1 + self.brightness_contrast * generator.random((2, n))
        low, high = self.noise
        noise = generator.random((len(noisy), 1, height, width), dtype=np.float32)
        noise *= high - low
        noise += low

        result = images.clone()
        if self.max_blur > 1:
            _change(result, blurred, lambda x: _box_blur(x, sizes[blurred], self.max_blur))
        _change(result, noisy, lambda x: x * torch.from_numpy(noise).to(x))
        if self.brightness_contrast > 0:
            _change(result, brighter, lambda x: x * _one_per_image(factors[0, brighter], x))
            _change(
                result,
                contrasted,
                lambda x: _contrast(x, _one_per_image(factors[1, contrasted], x)),
            )
        return result


def _change(images: Tensor, rows: NDArray[np.int64], change: Callable[[Tensor], Tensor]) -> None:
    """Change the images at ``rows`` in place, and clip them to [0, 1]."""
    if len(rows) == 0:
        return
    index = torch.from_numpy(rows).to(images.device)
    # Under autocast the products of the blur would come back in 16 bit.
    with torch.autocast(images.device.type, enabled=False):
        images[index] = change(images[index]).clamp_(0, 1)


def _one_per_image(values: NDArray[np.float64], images: Tensor) -> Tensor:
    return torch.from_numpy(values).to(images)[:, None, None, None]


def _box_blur(images: Tensor, sizes: NDArray[np.int64], max_blur: int) -> Tensor:
    """Blur each image with its own kernel: 3 pixels wide for size 0, 5 for 1, ...

    A box blur is a banded matrix from the left and one from the right. As a batch of products of
    matrices it takes a fraction of the time of a pooling for each kernel.
    """
    height, width = images.shape[2:]
    which = torch.from_numpy(sizes).to(images.device)
    vertical, horizontal = (
        _blur_matrices(side, max_blur).to(images)[which, None] for side in (height, width)
    )  # (n, 1, side, side)
    return vertical @ images @ horizontal.mT


@functools.lru_cache(maxsize=8)
def _blur_matrices(side: int, max_blur: int) -> Tensor:
    """Return the matrices of the kernels 3, 5, ... ``max_blur``, of shape (kernels, side, side)."""
    matrices = []
    for kernel in range(3, max_blur + 1, 2):
        mirrored = np.pad(np.arange(side), kernel // 2, mode="reflect")
        sources = sliding_window_view(mirrored, kernel)  # (side, kernel)
        matrix = np.zeros((side, side), dtype=np.float32)
        np.add.at(matrix, (np.arange(side)[:, None], sources), 1 / kernel)
        matrices.append(matrix)
    return torch.from_numpy(np.stack(matrices))


def _contrast(images: Tensor, factors: Tensor) -> Tensor:
    grey = images
    if images.shape[1] == 3:
        grey = (images * images.new_tensor(_GREY_OF_COLOUR)[:, None, None]).sum(dim=1, keepdim=True)
    mean = grey.mean(dim=(1, 2, 3), keepdim=True)
    return mean * (1 - factors) + images * factors
