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

from attractor_ae._errors import AttractorError, check_known
from attractor_ae.data.info import STEPS


@dataclass(frozen=True)
class Augmentation:
    """Augmentation of PROTOCOL section 3: ``steps``, each applied to an image with ``probability``.

    The result of each step is clipped to [0, 1]. The steps:

    * ``"blur"``: box blur with an odd kernel of 3, 5, ... ``max_blur`` pixels, all equally
      probable; 1: none. The border is mirrored without repeating the edge pixel, as in torchvision
      ("reflect" padding).
    * ``"noise"``: one factor per pixel, shared by its channels, uniform in ``noise``.
    * ``"brightness-contrast"``: x * alpha + beta * mean(x * alpha), with alpha uniform in
      [1, 1 + ``brightness_contrast``], beta uniform in [0, ``brightness_contrast``], and the mean
      over all pixels and channels of an image, before clipping.

    Raises:
        AttractorError: If a value is out of range.

    Examples:
        >>> augment = Augmentation()
        >>> images = torch.full((2, 1, 64, 64), 0.5)
        >>> augment(images, np.random.default_rng(0)).shape
        torch.Size([2, 1, 64, 64])
    """

    steps: tuple[str, ...] = STEPS["grey"]
    probability: float = 0.4
    max_blur: int = 7
    noise: tuple[float, float] = (0.75, 1.25)
    brightness_contrast: float = 0.33

    def __post_init__(self) -> None:
        for step in self.steps:
            check_known("augmentation step", step, STEPS["natural"])
        low, high = self.noise
        for name, good, rule in (
            ("probability", 0 <= self.probability <= 1, "in [0, 1]"),
            ("max_blur", self.max_blur > 0 and self.max_blur % 2, "an odd number of pixels"),
            ("noise", 0 <= low <= high < math.inf, "a smallest and a largest factor, at least 0"),
            ("brightness_contrast", 0 <= self.brightness_contrast < math.inf, "at least 0"),
        ):
            if not good:
                raise AttractorError(f"{name} must be {rule}, got {getattr(self, name)}")

    def __call__(
        self, images: Float[Tensor, "n c h w"], generator: np.random.Generator
    ) -> Float[Tensor, "n c h w"]:
        """Return augmented copies of images.

        ``images`` are floats in [0, 1], shape (n, channels, height, width), and so is the result.
        The numbers drawn from ``generator`` depend on their shape, not on their values or device.
        """
        n, _, height, width = images.shape
        # The fourth row is not used; without it, seeds would give other numbers than before.
        blurred, noisy, changed, _ = (
            np.flatnonzero(chosen) for chosen in generator.random((4, n)) < self.probability
        )
        sizes = generator.integers(max(self.max_blur // 2, 1), size=n)  # 0, 1, ... for 3, 5, ...
        factors = self.brightness_contrast * generator.random((2, n)) + [[1], [0]]
        a, b = torch.from_numpy(factors[:, changed]).to(images)[..., None, None, None]
        low, high = self.noise
        noise = generator.random((len(noisy), 1, height, width), dtype=np.float32)
        noise *= high - low
        noise += low

        result = images.clone()
        for step in self.steps:
            if step == "blur" and self.max_blur > 1:
                _change(result, blurred, lambda x: _box_blur(x, sizes[blurred], self.max_blur))
            elif step == "noise":
                _change(result, noisy, lambda x: x * torch.from_numpy(noise).to(x))
            elif step == "brightness-contrast":
                _change(result, changed, lambda x: (s := x * a) + b * s.mean((1, 2, 3), True))
        return result


def shifted(images: Tensor, moves: NDArray[np.int64]) -> Tensor:
    """Return square images (n, c, h, h) shifted by ``moves`` (2, n) pixels down and right.

    The pixels of an edge are repeated in the area that becomes free.
    """
    side = np.arange(images.shape[-1])
    y, x = (
        torch.from_numpy((side - m[:, None]).clip(0, side[-1])).to(images.device) for m in moves
    )
    n, c = (torch.arange(size, device=images.device) for size in images.shape[:2])
    return images[n[:, None, None, None], c[:, None, None], y[:, None, :, None], x[:, None, None]]


def _change(images: Tensor, rows: NDArray[np.int64], change: Callable[[Tensor], Tensor]) -> None:
    """Change the images at ``rows`` in place, and clip them to [0, 1]."""
    if len(rows) == 0:
        return
    index = torch.from_numpy(rows).to(images.device)
    # Under autocast the matrix products of the blur would be computed in 16 bits.
    with torch.autocast(images.device.type, enabled=False):
        images[index] = change(images[index]).clamp_(0, 1)


def _box_blur(images: Tensor, sizes: NDArray[np.int64], max_blur: int) -> Tensor:
    """Blur each image with its own kernel: 3 pixels wide for size 0, 5 for 1, ...

    A box blur is a product with a banded matrix from the left and one from the right. Batched
    matrix products take a fraction of the time of a separate pooling for each kernel.
    """
    height, width = images.shape[2:]
    which = torch.from_numpy(sizes).to(images.device)
    vertical, horizontal = (
        _blur_matrices(side, max_blur).to(images)[which, None] for side in (height, width)
    )  # (n, 1, side, side)
    return vertical @ images @ horizontal.mT


@functools.lru_cache(maxsize=8)
def _blur_matrices(side: int, max_blur: int) -> Tensor:
    """Return the blur matrices of kernels 3, 5, ... ``max_blur``, shape (kernels, side, side)."""
    matrices = []
    for kernel in range(3, max_blur + 1, 2):
        mirrored = np.pad(np.arange(side), kernel // 2, mode="reflect")
        sources = sliding_window_view(mirrored, kernel)  # (side, kernel)
        matrix = np.zeros((side, side), dtype=np.float32)
        np.add.at(matrix, (np.arange(side)[:, None], sources), 1 / kernel)
        matrices.append(matrix)
    return torch.from_numpy(np.stack(matrices))
