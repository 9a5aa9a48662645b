import copy
from typing import get_args

import pytest
import torch
from torch import nn

from attractor_ae._errors import AttractorError
from attractor_ae._fast_layers import (
    ACTIVATIONS,
    Conv2d,
    ConvTranspose2d,
    Linear,
    activation_function,
    draw_first_weights,
    masked_activation,
)
from attractor_ae.experiment import config


def images(*shape, seed=0, grad=False):
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.requires_grad_(grad)


def filled(layer):
    """A layer with weights drawn, which is left to the network otherwise."""
    draw_first_weights(layer, torch.Generator().manual_seed(0))
    return layer


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.SiLU()])
@pytest.mark.parametrize("shared", [1, 5])
@pytest.mark.parametrize("masked", [True, False])
def test_a_masked_activation_is_the_activation_times_the_mask(activation, shared, masked):
    mask = (images(shared, 3, 4, 4, seed=1) > 0).double() * 1.5 if masked else None
    x, same = images(5, 3, 4, 4, grad=True), images(5, 3, 4, 4, grad=True)
    plain = activation(same) if mask is None else activation(same) * mask
    weights = images(5, 3, 4, 4, seed=2)
    result = masked_activation(x * 1.0, activation, mask)
    assert torch.equal(result, plain)
    (result * weights).sum().backward()
    (plain * weights).sum().backward()
    assert torch.equal(x.grad, same.grad)
    with torch.no_grad():
        assert torch.equal(masked_activation(x * 1.0, activation, mask), plain)


def test_the_gradient_of_a_masked_activation_is_that_of_differences():
    mask = (images(2, 6, seed=1) > 0).double() * 1.5
    function = lambda x: masked_activation(x * 1.0, nn.ReLU(), mask)  # noqa: E731
    assert torch.autograd.gradcheck(function, images(2, 6, grad=True))


def test_the_incoming_gradient_is_left_as_it_is():
    x, mask = images(2, 6, grad=True), torch.full((2, 6), 2.0, dtype=torch.float64)
    incoming = torch.ones(2, 6, dtype=torch.float64)
    masked_activation(x * 1.0, nn.ReLU(), mask).backward(incoming)
    assert torch.equal(incoming, torch.ones_like(incoming))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_output_convolution_is_pytorchs(channels, layout):
    ours = filled(ConvTranspose2d(7, channels, 4, 2, 1)).double()
    oracle = nn.ConvTranspose2d(7, channels, 4, 2, 1).double()
    oracle.load_state_dict(ours.state_dict())
    x, same = (images(2, 7, 5, 6).to(memory_format=layout).requires_grad_() for _ in range(2))
    weights = images(2, channels, 10, 12, seed=1)
    torch.testing.assert_close(ours(x), oracle(same), rtol=1e-12, atol=1e-12)
    (ours(x) * weights).sum().backward()
    (oracle(same) * weights).sum().backward()
    pairs = [(x.grad, same.grad)]
    pairs += [(p.grad, q.grad) for p, q in zip(ours.parameters(), oracle.parameters(), strict=True)]
    for found, expected in pairs:
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("ours", "library", "channels"),
    [
        (lambda: filled(Conv2d(43, 86, 4, 2, 1)), nn.Conv2d(43, 86, 4, 2, 1), 43),
        (lambda: filled(ConvTranspose2d(86, 43, 4, 2, 1)), nn.ConvTranspose2d(86, 43, 4, 2, 1), 86),
        (lambda: filled(ConvTranspose2d(43, 1, 4, 2, 1)), nn.ConvTranspose2d(43, 1, 4, 2, 1), 43),
    ],
)
@pytest.mark.parametrize("autocast", [True, False])
def test_in_16_bits_convolutions_are_pytorchs_to_their_rounding(ours, library, channels, autocast):
    """Against PyTorch's own layer in float64: forward, and every gradient."""
    ours, oracle = ours(), copy.deepcopy(library).double()
    oracle.load_state_dict(ours.state_dict())
    x, same = (images(3, channels, 8, 8).requires_grad_() for _ in range(2))
    weights = images(*oracle(same).shape, seed=1)
    (oracle(same) * weights).sum().backward()
    if autocast:
        x = x.detach().float().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            result = ours(x)
    else:
        ours = ours.bfloat16()
        x = x.detach().bfloat16().requires_grad_()
        result = ours(x)
    assert result.dtype == torch.bfloat16
    (result * weights.to(result.dtype)).sum().backward()
    pairs = [(result, oracle(same)), (x.grad, same.grad)]
    pairs += [(p.grad, q.grad) for p, q in zip(ours.parameters(), oracle.parameters(), strict=True)]
    for found, expected in pairs:
        # Eight bits of each factor: some thousandths of the largest sum.
        error = (found.double() - expected).abs().max() / expected.abs().max()
        assert error < 0.02


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_of_a_linear_layer_does_not_depend_on_the_others(dtype):
    layer = filled(Linear(1376, 341)).to(dtype)
    x = images(150, 1376).to(dtype)
    with torch.no_grad():
        whole = layer(x)
        for start, count in ((0, 1), (63, 3), (70, 70)):
            assert torch.equal(layer(x[start : start + count]), whole[start : start + count])
        assert layer(x[:0]).shape == (0, 341)
    oracle = nn.functional.linear(x.double(), layer.weight.double(), layer.bias.double())
    torch.testing.assert_close(whole.double(), oracle, rtol=0.02, atol=0.02)
    assert layer(x).requires_grad  # in training it is PyTorch's


def test_the_activations_of_a_config_are_the_elementwise_ones_of_pytorch():
    assert set(get_args(config.ActivationName)) == set(ACTIVATIONS)
    assert isinstance(activation_function("SiLU"), nn.SiLU)
    with pytest.raises(AttractorError, match="did you mean 'ReLU6'"):
        activation_function("relu6")
