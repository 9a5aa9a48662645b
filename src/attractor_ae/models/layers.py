"""Two places where a network spends time beside its convolutions, computed in less.

Both give what the plain expressions give, to rounding.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def drop(x: Tensor, activation: nn.Module, mask: Tensor | None) -> Tensor:
    """Return ``activation(x) * mask``; ``x`` must not be used any more.

    For ReLU it is computed in the memory of ``x``, forward and backward: a large tensor costs more
    to write than to compute, and for each new one the system has to find memory.

    Parameters
    ----------
    x
        Output of a layer, float, shape (n, features) or (n, channels, height, width).
    activation
        Elementwise.
    mask
        Mask of the site, non-negative, of the shape of ``x`` or with n = 1; None: no dropout.
    """
    if not isinstance(activation, nn.ReLU):
        x = activation(x)
        return x if mask is None else x * mask
    if mask is None:
        return x.relu_()
    if torch.is_grad_enabled() and x.requires_grad:
        return _MaskedReLU.apply(x, mask)
    # relu(x) * mask is relu(x * mask), as no mask is negative.
    return x.mul_(mask).relu_()


class _MaskedReLU(torch.autograd.Function):
    """ReLU and mask in the memory of their input, and of the gradient that comes back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor) -> Tensor:  # noqa: ANN401
        x.mul_(mask).relu_()
        ctx.mark_dirty(x)
        ctx.save_for_backward(x, mask)
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        output, mask = ctx.saved_tensors
        # A new tensor, which no one else holds: the gradient that came may be somebody's.
        gradient = torch.ops.aten.threshold_backward(gradients[0], output, 0)
        return gradient.mul_(mask), None


class OutputConvolution(nn.ConvTranspose2d):
    """The transposed convolution to the image; to a single channel it is one matrix product.

    Each input pixel makes a patch of the output, and the patches are added up where they overlap.
    Libraries compute such a convolution with the many channels of a usual one in mind.

    Parameters
    ----------
    in_channels, out_channels
        Numbers of channels.

    Examples
    --------
    >>> OutputConvolution(8, 1)(torch.zeros(2, 8, 32, 32)).shape
    torch.Size([2, 1, 64, 64])
    """

    _KERNEL, _STRIDE, _PADDING = 4, 2, 1

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, self._KERNEL, self._STRIDE, self._PADDING)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return images of twice the height and width, shape (n, out_channels, 2h, 2w)."""
        # Measured: with three channels, and on a GPU, the library is faster.
        if self.out_channels > 1 or input.device.type != "cpu" or output_size is not None:
            return super().forward(input, output_size)
        n, channels, height, width = input.shape
        # (n, c, h, w) -> (n, h * w, c), which moves nothing if the channels are last in memory
        pixels = input.permute(0, 2, 3, 1).reshape(n, height * width, channels)
        patches = pixels @ self.weight.flatten(1)  # (n, h * w, out_channels * 16)
        images = F.fold(
            patches.transpose(1, 2),
            (2 * height, 2 * width),
            self._KERNEL,
            padding=self._PADDING,
            stride=self._STRIDE,
        )
        return images if self.bias is None else images + self.bias[:, None, None]
