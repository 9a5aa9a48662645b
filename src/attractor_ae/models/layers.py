"""Two places where a network spends time beside its convolutions, computed in less.

Both give what the plain expressions give, to rounding.
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def drop(
    x: Tensor, activation: nn.Module, mask: Tensor | None, *, keep_input: bool = False
) -> Tensor:
    """Return ``activation(x) * mask``; ``x`` must not be used any more, unless it is to be kept.

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
    keep_input
        Leave ``x`` as it is.
    """
    with_gradient = torch.is_grad_enabled() and x.requires_grad
    if not isinstance(activation, nn.ReLU) or (keep_input and with_gradient):
        x = activation(x)
        return x if mask is None else x * mask
    if with_gradient:
        return x.relu_() if mask is None else _MaskedReLU.apply(x, mask)
    # relu(x) * mask is relu(x * mask), as no mask is negative.
    if mask is not None:
        x = x * mask if keep_input else x.mul_(mask)
    elif keep_input:
        return x.relu()
    return x.relu_()


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

    KERNEL: ClassVar[int] = 4
    STRIDE: ClassVar[int] = 2
    PADDING: ClassVar[int] = 1

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, self.KERNEL, self.STRIDE, self.PADDING)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return images of twice the height and width, shape (n, out_channels, 2h, 2w)."""
        # Measured: with three channels, and on a GPU, the library is faster.
        if self.out_channels > 1 or input.device.type != "cpu" or output_size is not None:
            return super().forward(input, output_size)
        bias = input.new_zeros(1) if self.bias is None else self.bias
        return _ToOneChannel.apply(input, self.weight, bias)


class _ToOneChannel(torch.autograd.Function):
    """The transposed convolution to a single channel as a matrix product, and its gradients.

    The gradient of the input is a convolution from a single channel, which is cheaper than going
    back through the overlapping patches.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(x, weight)
        n, channels, height, width = x.shape
        # (n, c, h, w) -> (n, h * w, c), which moves nothing if the channels are last in memory
        pixels = x.permute(0, 2, 3, 1).reshape(n, height * width, channels)
        patches = pixels @ weight.flatten(1).to(x.dtype)  # (n, h * w, 16)
        images = F.fold(
            patches.transpose(1, 2),
            (2 * height, 2 * width),
            OutputConvolution.KERNEL,
            padding=OutputConvolution.PADDING,
            stride=OutputConvolution.STRIDE,
        )
        return images.add_(bias[:, None, None].to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ANN401
        x, weight = ctx.saved_tensors
        gradient = gradients[0].contiguous()  # (n, 1, 2h, 2w)
        with torch.enable_grad():
            weight = weight.to(x.dtype).detach().requires_grad_()
            for_x = F.conv2d(
                gradient, weight, None, OutputConvolution.STRIDE, OutputConvolution.PADDING
            )
            # The output is linear in x and in weight: <gradient, output> is <for_x, x>, whose
            # derivative by the weight is the one that is wanted.
            (for_weight,) = torch.autograd.grad(for_x, weight, x)
        return for_x.detach(), for_weight, gradient.sum((0, 2, 3))
