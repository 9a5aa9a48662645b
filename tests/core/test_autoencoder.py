import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attractor_ae._errors import AttractorError
from attractor_ae._fast_layers import ACTIVATIONS
from attractor_ae._random import Stream, generator
from attractor_ae.core.autoencoder import Autoencoder
from attractor_ae.core.masks import draw_masks

# PROTOCOL section 2, the table's layers in order: (kind, in, out) with w = 43, f = 341, L = 64.
W, FEATURES, L = 43, 341, 64
TABLE = [
    (nn.Conv2d, 1, W),
    (nn.Conv2d, W, W),
    (nn.Conv2d, W, 2 * W),
    (nn.Conv2d, 2 * W, 2 * W),
    (nn.Linear, 32 * W, FEATURES),
    (nn.Linear, FEATURES, L),
    (nn.Linear, L, FEATURES),
    (nn.Linear, FEATURES, 32 * W),
    (nn.ConvTranspose2d, 2 * W, 2 * W),
    (nn.ConvTranspose2d, 2 * W, W),
    (nn.ConvTranspose2d, W, W),
    (nn.ConvTranspose2d, W, 1),
]
# The table's output shapes of the ten stages with dropout.
SITES = (
    (W, 32, 32),
    (W, 16, 16),
    (2 * W, 8, 8),
    (2 * W, 4, 4),
    (FEATURES,),
    (FEATURES,),
    (32 * W,),
    (2 * W, 8, 8),
    (W, 16, 16),
    (W, 32, 32),
)


def layers(model):
    kinds = nn.Linear | nn.Conv2d | nn.ConvTranspose2d
    return [module for module in model.modules() if isinstance(module, kinds)]


def test_layers_and_shapes_are_those_of_the_table(autoencoder):
    found, shapes = [], []

    def record(module, _inputs, output):
        convolution = not isinstance(module, nn.Linear)
        sizes = "channels" if convolution else "features"
        kind = next(k for k in (nn.Linear, nn.Conv2d, nn.ConvTranspose2d) if isinstance(module, k))
        found.append((kind, getattr(module, f"in_{sizes}"), getattr(module, f"out_{sizes}")))
        shapes.append(tuple(output.shape[1:]))
        if convolution:
            assert (module.kernel_size, module.stride, module.padding) == ((4, 4), (2, 2), (1, 1))

    for layer in layers(autoencoder):
        layer.register_forward_hook(record)
    output = autoencoder(torch.rand(2, 1, 64, 64))
    assert found == TABLE
    flat = {s for s in SITES if len(s) == 1}
    assert [s for s in shapes if s not in {(L,), (1, 64, 64)}] == list(SITES)
    assert flat == {(FEATURES,), (32 * W,)}
    assert autoencoder.site_shapes == SITES
    assert output.reconstruction.shape == (2, 1, 64, 64)
    assert output.latent.shape == (2, L)


def test_number_of_parameters_is_the_tables():
    expected = sum(a * b * (1 if kind is nn.Linear else 16) + b for kind, a, b in TABLE)
    assert sum(p.numel() for p in Autoencoder().parameters()) == expected == 1_400_185


@pytest.mark.parametrize(("rate", "w", "f"), [(0.0, 32, 256), (0.1, 36, 282), (0.5, 48, 384)])
def test_widths_grow_with_the_dropout_rate(rate, w, f):
    model = Autoencoder(dropout=rate)
    assert model.encoder[0].out_channels == w == math.ceil(32 * (1 + rate))
    assert model.encoder_linear.out_features == f


def test_masks_act_as_pytorchs_dropout_would(autoencoder):
    """The same network with nn.Dropout in it, made to draw our masks, gives the same numbers."""
    x = torch.rand(3, 1, 64, 64)
    masks = draw_masks(autoencoder.site_shapes, 0.33, 3, generator(0, Stream.TRAINING))
    sites = iter(masks.sites)
    h = x
    for conv in autoencoder.encoder:
        h = F.relu(conv(h)) * next(sites)
    z = autoencoder.latent(F.relu(autoencoder.encoder_linear(h.flatten(1))) * next(sites))
    h = z
    for linear in autoencoder.decoder_linear:
        h = F.relu(linear(h)) * next(sites)
    h = h.view(3, 2 * W, 4, 4)
    for conv in autoencoder.decoder:
        h = F.relu(conv(h)) * next(sites)
    expected = autoencoder.output(h)
    output = autoencoder(x, masks)
    torch.testing.assert_close(output.latent, z)
    torch.testing.assert_close(output.reconstruction, expected)


def test_expectation_over_masks_of_one_linear_layer_is_the_layer_without(autoencoder):
    """1/(1-p) is what keeps the mean: the latent layer is linear in the last encoder mask."""
    x = torch.rand(1, 1, 64, 64)
    rng = generator(1, Stream.TRAINING)
    many = draw_masks([(FEATURES,)], 0.33, 4000, rng).sites[0]
    with torch.no_grad():
        h = x
        for conv in autoencoder.encoder:
            h = F.relu(conv(h))
        h = F.relu(autoencoder.encoder_linear(h.flatten(1)))
        under_masks = autoencoder.latent(h * many)
        plain = autoencoder(x).latent
    error = under_masks.std(0) / math.sqrt(4000)
    assert ((under_masks.mean(0) - plain[0]).abs() < 5 * error).all()


def test_output_has_no_activation(autoencoder):
    with torch.no_grad():
        autoencoder.output.bias.fill_(-3.0)
        autoencoder.output.weight.zero_()
        assert (autoencoder(torch.rand(1, 1, 64, 64)).reconstruction == -3).all()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_of_pytorch_by_name(name):
    model = Autoencoder(activation=name)
    x = torch.rand(2, 1, 64, 64)
    assert isinstance(model.activation, getattr(nn, name))
    assert torch.isfinite(model(x).reconstruction).all()


def test_other_image_sizes_and_colour():
    model = Autoencoder(image_size=32, channels=3)
    output = model(torch.rand(2, 3, 32, 32))
    assert output.reconstruction.shape == (2, 3, 32, 32)
    assert model.site_shapes[3] == (86, 2, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"activation": "relu6"}, "did you mean 'ReLU6'"),
        ({"activation": "Softmax"}, "unknown activation"),
        ({"dropout": 1.0}, "dropout rate"),
        ({"latent_dim": 0}, "latent dimension"),
        ({"image_size": 60}, "multiple of 16"),
    ],
)
def test_impossible_settings_are_refused(arguments, message):
    with pytest.raises(AttractorError, match=message):
        Autoencoder(**arguments)


@pytest.mark.parametrize("seed", [0, 3])
def test_first_weights_are_those_that_pytorch_draws_from_its_global_generator(
    seed, unchanged_random_state
):
    """Bit by bit, layer by layer, in the order of the table."""
    network = Autoencoder(generator=torch.Generator().manual_seed(seed))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in layers(network):
            kind = next(
                k for k in (nn.Linear, nn.Conv2d, nn.ConvTranspose2d) if isinstance(layer, k)
            )
            if kind is nn.Linear:
                plain = kind(layer.in_features, layer.out_features)
            else:
                plain = kind(layer.in_channels, layer.out_channels, 4, 2, 1)
            assert torch.equal(layer.weight, plain.weight)
            assert torch.equal(layer.bias, plain.bias)
    other = Autoencoder(generator=torch.Generator().manual_seed(seed + 1))
    assert not torch.equal(other.output.weight, network.output.weight)
