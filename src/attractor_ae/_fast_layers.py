"""Layers computed in less time than the library takes for the plain expressions.

All give what the plain expressions give, to rounding.
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
    """ReLU and mask in the memory of their input.

    What both let through is one factor for each element, for the way forward and for the way back.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor) -> Tensor:  # noqa: ANN401
        # The mask where x is positive, else 0: the gradient of a ReLU does just that.
        factor = torch.ops.aten.threshold_backward(mask.expand_as(x), x, 0)
        x.mul_(factor)
        ctx.mark_dirty(x)
        ctx.save_for_backward(factor)
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        (factor,) = ctx.saved_tensors
        # A new tensor, which no one else holds: the gradient that came may be somebody's.
        return gradients[0] * factor, None


class RowwiseLinear(nn.Linear):
    """A linear layer whose result for one row does not depend on the others, to the last bit.

    A library adds up in an order that depends on the number of rows, and in 16 bits the last bit of
    a code can turn an image's score. So without gradients rows are computed so many at once, on a
    CPU; the few that lack are zeros.
    """

    ROWS: ClassVar[int] = 64

    def forward(self, input: Tensor) -> Tensor:
        """Return (n, out_features) of (n, in_features)."""
        if torch.is_grad_enabled() or input.device.type != "cpu":
            return super().forward(input)
        rows = len(input)
        padded = F.pad(input, (0, 0, 0, -rows % self.ROWS))
        blocks = [F.linear(block, self.weight, self.bias) for block in padded.split(self.ROWS)]
        return torch.cat(blocks)[:rows]


class EvenConvolution(nn.Conv2d):
    """A convolution whose gradient by its input is fast in 16 bits too.

    That gradient is a transposed convolution from the outputs. The library's is several times
    slower on a CPU where their number is no multiple of ``_LANES``, so zeros are added to the
    gradient that comes back.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return what the convolution makes of (n, in_channels, h, w)."""
        if self.bias is None or not (input.requires_grad and _lacking(self.out_channels, input)):
            return super().forward(input)
        dtype = _computed_in(input)
        return _EvenGradient.apply(
            input.to(dtype), self.weight.to(dtype), self.bias.to(dtype), self.stride, self.padding
        )


class _EvenGradient(torch.autograd.Function):
    """A convolution, and its gradients by way of more outputs."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        stride: tuple[int, int],
        padding: tuple[int, int],
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        x, weight = ctx.saved_tensors
        count = len(weight)
        lacking = -count % _LANES
        gradient = F.pad(gradients[0], (0, 0, 0, 0, 0, lacking))
        more = F.pad(weight, (0, 0, 0, 0, 0, 0, 0, lacking))
        for_x, for_weight, _ = torch.ops.aten.convolution_backward(
            gradient.contiguous(memory_format=torch.channels_last),
            x,
            more.contiguous(memory_format=torch.channels_last),
            None,
            ctx.stride,
            ctx.padding,
            (1, 1),
            False,
            (0, 0),
            1,
            (True, True, False),
        )
        return for_x, for_weight[:count], gradients[0].sum((0, 2, 3)), None, None


class EvenTransposedConvolution(nn.ConvTranspose2d):
    """A transposed convolution that is fast in 16 bits whatever its number of inputs.

    As of `EvenConvolution`: inputs that are always zero are added.
    """

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return what the convolution makes of (n, in_channels, h, w)."""
        lacking = _lacking(self.in_channels, input)
        if not lacking or output_size is not None:
            return super().forward(input, output_size)
        assert isinstance(self.padding, tuple)  # never a name here
        return F.conv_transpose2d(
            F.pad(input, (0, 0, 0, 0, 0, lacking)),
            F.pad(self.weight, (0, 0, 0, 0, 0, 0, 0, lacking)),
            self.bias,
            self.stride,
            self.padding,
        )


_LANES = 16
"""What the library's 16-bit transposed convolutions want their number of inputs a multiple of."""
_FEW = 64
"""Below so many the larger images make the added ones cost more than they spare."""


def _lacking(channels: int, x: Tensor) -> int:
    """Return how many channels are to be added where ``x`` is about to be convolved."""
    if x.device.type != "cpu" or channels < _FEW or _computed_in(x).itemsize > 2:
        return 0
    return -channels % _LANES


def _computed_in(x: Tensor) -> torch.dtype:
    """Return the type that a convolution of ``x`` is computed in: autocast's, or its own."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


class OutputConvolution(nn.ConvTranspose2d):
    """The transposed convolution to the image; to a single channel by what is cheaper.

    Libraries compute such a convolution with the many channels of a usual one in mind. In 16 bits
    it is a usual convolution to the four pixels that each input pixel becomes. In 32 bits it is
    one matrix product: each input pixel makes a patch of the output, and the patches are added up
    where they overlap.

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
        return _ToOneChannel.apply(input.to(_computed_in(input)), self.weight, bias)


class _ToOneChannel(torch.autograd.Function):
    """The transposed convolution to a single channel, and its gradients.

    The gradient of the input is a convolution from a single channel, which is cheaper than going
    back through the overlapping patches.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(x, weight)
        if x.dtype.itemsize == 2:
            kernel = _four_pixels(weight).to(x.dtype)
            pixels = F.conv2d(x, kernel, bias.to(x.dtype).expand(4), padding=1)  # (n, 4, h, w)
            return F.pixel_shuffle(pixels, 2)
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


def _four_pixels(weight: Tensor) -> Tensor:
    """Return the kernel of the convolution to the four pixels that each input pixel becomes.

    Output 2i + a meets input i + d through tap a + 1 - 2d of the transposed convolution, for d in
    -1, 0, 1 where there is such a tap. (c, 1, 4, 4) -> (4, c, 3, 3)
    """
    # With a zero at either end the tap is number a + 2 (1 - d) of six.
    taps = F.pad(weight, (1, 1, 1, 1)).view(-1, 3, 2, 3, 2)  # (c, 1 - d, a, 1 - d, a)
    return taps.flip(1, 3).permute(2, 4, 0, 1, 3).reshape(4, -1, 3, 3)
