from typing import get_args

import pytest
import torch
from torch import nn

from attractor_ae import load
from attractor_ae._errors import AttractorError
from attractor_ae.core.autoencoder import Autoencoder, initialised_from
from attractor_ae.experiment.config import Initialization
from attractor_ae.training.initialization import INITIALIZATIONS, initialise


def network(name, seed=0):
    with initialised_from(seed):
        model = Autoencoder()
        initialise(model, name)
    return model


def weights_of(model):
    return torch.cat([p.flatten() for p in model.parameters()])


def test_the_names_are_those_of_a_config():
    assert get_args(Initialization) == INITIALIZATIONS


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(AttractorError, match=r"^unknown initialization 'kaming'.*'kaiming'"):
        initialise(Autoencoder(), "kaming")


def test_the_default_is_what_the_layers_draw_themselves():
    with initialised_from(0):
        plain = Autoencoder()
    assert torch.equal(weights_of(network("default")), weights_of(plain))


@pytest.mark.parametrize("name", [name for name in INITIALIZATIONS if name != "default"])
def test_weights_are_drawn_anew_from_the_seed_and_biases_are_zero(name):
    model = network(name)
    assert torch.equal(weights_of(model), weights_of(network(name)))
    assert not torch.equal(weights_of(model), weights_of(network(name, seed=1)))
    assert not torch.equal(weights_of(model), weights_of(network("default")))
    assert all((p == 0).all() for n, p in model.named_parameters() if n.endswith("bias"))


def site_moments(model, images):
    """Return the root mean square of what leaves each of the ten sites."""
    found = []
    handle = nn.modules.module.register_module_forward_hook(
        lambda layer, _, output: (
            found.append(output.relu().square().mean().sqrt().item())
            if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)
            else None
        )
    )
    try:
        model(images)  # without masks, which would add their own variance
    finally:
        handle.remove()
    return found


def test_kaiming_keeps_the_size_of_what_goes_through_relu_layers():
    """He et al. 2015, equation 10: the second moment of a layer's output is that of the one before.

    On real digits, whose size at the first layer the others are compared with; the latent layer has
    no ReLU, and the last two see borders of zeros. The layers' own way loses a factor a layer.
    """
    images = torch.from_numpy(load("mnist5k", per_class=4).images).float() / 255
    kaiming, plain = (site_moments(network(name), images) for name in ("kaiming", "default"))
    assert all(0.4 < moment / kaiming[0] < 2.5 for moment in kaiming), kaiming
    assert not all(0.4 < moment / plain[0] < 2.5 for moment in plain), plain
