"""Replacements for layers of `torch.nn` that are faster on a CPU; results agree up to rounding.

The layers do not initialise their weights: a network draws them from its own generator.
docs/speed.md has the speed-up of each optimisation.
"""

import copy
import math
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.compiler import is_compiling

from attractor_ae._errors import check_known

N = TypeVar("N", bound=nn.Module)

_ROWS = 64  # rows of a linear layer computed at once
_LANES = 16  # 16-bit transposed convolutions are fast for multiples of this number of inputs
_FEW = 64  # below this number of channels, padding costs more time than it saves


# Not elementwise, random, or with required arguments: not offered.
_OTHERS = {"GLU", "LogSoftmax", "MultiheadAttention", "RReLU", "Softmax", "Softmax2d", "Softmin"}
ACTIVATIONS = tuple(n for n in nn.modules.activation.__all__ if n not in {*_OTHERS, "Threshold"})
"""Names of the elementwise activations of `torch.nn`."""


def activation_function(name: str) -> nn.Module:
    """Return the activation with this name from ``ACTIVATIONS``, with default arguments."""
    check_known("activation", name, ACTIVATIONS)
    return getattr(nn, name)()


def draw_first_weights(network: nn.Module, generator: torch.Generator | None) -> None:
    """Draw all weights and biases from PyTorch's default distributions, layer by layer."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
            bound = 1 / math.sqrt(nn.init._calculate_fan_in_and_fan_out(layer.weight)[0])
            assert layer.bias is not None
            nn.init.uniform_(layer.bias, -bound, bound, generator=generator)


def masked_activation(x: Tensor, activation: nn.Module, mask: Tensor | None) -> Tensor:
    """Return ``activation(x) * mask``; for ReLU the result overwrites ``x``.

    ``mask`` is non-negative, of the shape of ``x`` or with n = 1; None: no dropout.
    """
    if is_compiling():  # without overwriting, and each of several masks for as many rows
        x = activation(x)
        if mask is None:
            return x
        return (x.unflatten(0, (len(mask), -1)) * mask[:, None]).flatten(0, 1)
    if not isinstance(activation, nn.ReLU):
        x = activation(x)
        return x if mask is None else x * mask
    if mask is None:
        return x.relu_()
    if torch.is_grad_enabled() and x.requires_grad:
        return _MaskedReLU.apply(x, mask)
    return x.mul_(mask).relu_()  # relu(x) * mask, as no mask is negative


class _MaskedReLU(torch.autograd.Function):
    """ReLU and mask as one factor per element, forward and backward; overwrites the input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor) -> Tensor:  # noqa: ANN401
        # The mask where x is positive, else 0: the gradient of the masked ReLU.
        factor = torch.ops.aten.threshold_backward(mask.expand_as(x), x, 0)
        x.mul_(factor)
        ctx.mark_dirty(x)
        ctx.save_for_backward(factor)
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        (factor,) = ctx.saved_tensors
        return gradients[0] * factor, None


def plain_layers(network: N) -> N:
    """Return a copy in float64 whose layers are those of `torch.nn`, for `torch.func`."""
    plain = copy.deepcopy(network).double()
    for layer in plain.modules():
        if isinstance(layer, _Undrawn):
            layer.__class__ = type(layer).__bases__[1]
        if isinstance(getattr(layer, "activation", None), nn.ReLU):
            layer.activation = nn.Threshold(0, 0)  # the same, but not in place
    return plain


class _Undrawn:
    def reset_parameters(self) -> None:
        """Leave the weights to the network."""


class Linear(_Undrawn, nn.Linear):
    """A linear layer whose result for one row is bitwise independent of the other rows.

    PyTorch's order of summation depends on the number of rows. Without gradients, on a CPU, rows
    are therefore processed in zero-padded blocks of 64.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return (n, out_features) for (n, in_features)."""
        if torch.is_grad_enabled() or input.device.type != "cpu" or is_compiling():
            return super().forward(input)
        rows = len(input)
        padded = F.pad(input, (0, 0, 0, -rows % _ROWS))
        blocks = [F.linear(block, self.weight, self.bias) for block in padded.split(_ROWS)]
        return torch.cat(blocks)[:rows]


class Conv2d(_Undrawn, nn.Conv2d):
    """A convolution whose input gradient is fast in 16 bits.

    That gradient is a transposed convolution, which is slow on a CPU if the number of channels is
    not a multiple of 16: the output gradient is therefore padded with zero channels.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the convolution of (n, in_channels, h, w)."""
        if self.bias is None or not (input.requires_grad and _lacking(self.out_channels, input)):
            return super().forward(input)
        dtype = _compute_dtype(input)
        return _PaddedGradient.apply(
            input.to(dtype), self.weight.to(dtype), self.bias.to(dtype), self.stride, self.padding
        )


class _PaddedGradient(torch.autograd.Function):
    """A convolution whose gradients are computed with additional zero output channels."""

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
        padded = F.pad(weight, (0, 0, 0, 0, 0, 0, 0, lacking))
        for_x, for_weight, _ = torch.ops.aten.convolution_backward(
            gradient.contiguous(memory_format=torch.channels_last),
            x,
            padded.contiguous(memory_format=torch.channels_last),
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


class ConvTranspose2d(_Undrawn, nn.ConvTranspose2d):
    """A transposed convolution that is fast in 16 bits, and with a single output channel."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return the transposed convolution of (n, in_channels, h, w)."""
        if output_size is not None or input.device.type != "cpu" or is_compiling():
            return super().forward(input, output_size)
        # With three output channels PyTorch's layer was measured to be faster.
        sizes = (self.out_channels, self.kernel_size, self.stride, self.padding)
        if sizes == (1, (4, 4), (2, 2), (1, 1)) and self.bias is not None:
            return _ToOneChannel.apply(input.to(_compute_dtype(input)), self.weight, self.bias)
        lacking = _lacking(self.in_channels, input)
        if not lacking:
            return super().forward(input)
        assert isinstance(self.padding, tuple)
        return F.conv_transpose2d(
            F.pad(input, (0, 0, 0, 0, 0, lacking)),
            F.pad(self.weight, (0, 0, 0, 0, 0, 0, 0, lacking)),
            self.bias,
            self.stride,
            self.padding,
        )


class _ToOneChannel(torch.autograd.Function):
    """The transposed convolution (kernel 4, stride 2, padding 1) to a single channel.

    In 16 bits it is computed as a convolution that returns, for each input pixel, the four output
    pixels in its place. In 32 bits it is one matrix product: each input pixel gives a patch of the
    output, and overlapping patches are summed. The input gradient is a convolution of one channel.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(x, weight)
        if x.dtype.itemsize == 2:
            kernel = _four_pixels(weight).to(x.dtype)
            pixels = F.conv2d(x, kernel, bias.to(x.dtype).expand(4), padding=1)  # (n, 4, h, w)
            return F.pixel_shuffle(pixels, 2)
        n, channels, height, width = x.shape
        # (n, c, h, w) -> (n, h * w, c), without a copy if the channels are last in memory
        pixels = x.permute(0, 2, 3, 1).reshape(n, height * width, channels)
        patches = pixels @ weight.flatten(1).to(x.dtype)  # (n, h * w, 16)
        size = (2 * height, 2 * width)
        images = F.fold(patches.transpose(1, 2), size, kernel_size=4, padding=1, stride=2)
        return images.add_(bias[:, None, None].to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ANN401
        x, weight = ctx.saved_tensors
        gradient = gradients[0].contiguous()  # (n, 1, 2h, 2w)
        with torch.enable_grad():
            weight = weight.to(x.dtype).detach().requires_grad_()
            for_x = F.conv2d(gradient, weight, None, stride=2, padding=1)
            # The output is linear in x and in weight, so <gradient, output> = <for_x, x>, and the
            # derivative of this product by the weight is the gradient of the weight.
            (for_weight,) = torch.autograd.grad(for_x, weight, x)
        return for_x.detach(), for_weight, gradient.sum((0, 2, 3))


def _four_pixels(weight: Tensor) -> Tensor:
    """Return the kernel of the equivalent convolution to four output pixels per input pixel.

    Output 2i + a depends on input i + d through tap a + 1 - 2d of the transposed convolution, for
    d in -1, 0, 1 if that tap exists. (c, 1, 4, 4) -> (4, c, 3, 3)
    """
    # Padded with a zero at either end, there are six taps, and this one is at a + 2 (1 - d).
    taps = F.pad(weight, (1, 1, 1, 1)).view(-1, 3, 2, 3, 2)  # (c, 1 - d, a, 1 - d, a)
    return taps.flip(1, 3).permute(2, 4, 0, 1, 3).reshape(4, -1, 3, 3)


def _lacking(channels: int, x: Tensor) -> int:
    """Return the number of zero channels to add before ``x`` is convolved."""
    if x.device.type != "cpu" or channels < _FEW or _compute_dtype(x).itemsize > 2:
        return 0
    return -channels % _LANES


def _compute_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype in which a convolution of ``x`` is computed."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
