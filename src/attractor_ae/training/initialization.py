"""How the first weights of a network are drawn.

Sources: "kaiming" is He et al., "Delving Deep into Rectifiers", 2015; "xavier" is Glorot and
Bengio, "Understanding the difficulty of training deep feedforward neural networks", 2010;
"orthogonal" is Saxe et al., "Exact solutions to the nonlinear dynamics of learning in deep linear
neural networks", 2013.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from attractor_ae._errors import unknown_name


def initialise(network: nn.Module, name: str) -> None:
    """Draw the weights of all convolutions and linear layers anew; biases become zero.

    They are drawn from PyTorch's global generator: see `initialised_from`.

    Parameters
    ----------
    network
        It is changed.
    name
        One of ``INITIALIZATIONS``. "default" leaves the weights as each layer draws them itself.
        "kaiming" keeps the second moment of what goes through ReLU layers as it is, "xavier" that
        of what goes through linear layers and of the gradients, "orthogonal" the length of what
        goes through a linear layer, times the square root of 2 for ReLU.

    Raises
    ------
    AttractorError
        If there is no initialisation of that name.

    Examples
    --------
    >>> layer = nn.Linear(3, 3)
    >>> initialise(layer, "orthogonal")
    >>> torch.allclose(layer.weight @ layer.weight.T, 2 * torch.eye(3), atol=1e-5)
    True
    """
    if name not in _DRAWN:
        raise unknown_name("initialization", name, INITIALIZATIONS)
    if name == "default":
        return
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            _DRAWN[name](layer)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _kaiming(layer: nn.Module) -> None:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    if not isinstance(layer, nn.ConvTranspose2d):
        nn.init.kaiming_normal_(weight, nonlinearity="relu")
        return
    # The library counts inputs and outputs of a transposed convolution the other way round, and an
    # output meets one tap of the kernel in stride x stride.
    nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")
    with torch.no_grad():
        weight.mul_(math.sqrt(math.prod(layer.stride)))


def _xavier(layer: nn.Module) -> None:
    assert isinstance(layer.weight, Tensor)
    nn.init.xavier_uniform_(layer.weight)


def _orthogonal(layer: nn.Module) -> None:
    assert isinstance(layer.weight, Tensor)
    nn.init.orthogonal_(layer.weight, nn.init.calculate_gain("relu"))


_DRAWN: dict[str, Callable[[nn.Module], None]] = {
    "default": lambda _: None,
    "kaiming": _kaiming,
    "xavier": _xavier,
    "orthogonal": _orthogonal,
}

INITIALIZATIONS: tuple[str, ...] = tuple(_DRAWN)
"""Names of the initialisations."""
