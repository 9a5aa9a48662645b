"""The autoencoder as a dynamical system, applied to its own output (PROTOCOL section 1).

    x_0 = input,  x_{r+1} = f(x_r),  r = 0, 1, 2, ...

The dropout mask is the same in all recursions, so each mask defines one dynamical system. z_r is
the latent code computed between x_r and x_{r+1}.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from attractor_ae._errors import AttractorError
from attractor_ae.core.autoencoder import Autoencoder, FeatureAutoencoder
from attractor_ae.core.masks import DropoutMasks


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Latent codes z_r and reconstructions x_{r+1} of an iterated autoencoder.

    If the last reconstruction was not computed, there is one fewer than latent codes.
    """

    latents: Float[Tensor, "recursions n latent"]
    reconstructions: Float[Tensor, "recursions_or_one_less n ..."]


def iterate(
    network: Autoencoder | FeatureAutoencoder,
    x: Float[Tensor, "n ..."],
    masks: DropoutMasks | None,
    recursions: int,
    *,
    last: bool = True,
) -> Trajectory:
    """Apply an autoencoder to its own output under one mask.

    ``x`` is x_0, ``masks`` are the masks of a trial (None: no dropout), and ``recursions`` is the
    number of applications. ``last``: whether to compute the last reconstruction, which the latent
    codes do not need.

    Raises:
        AttractorError: If ``recursions`` is less than 1.

    Examples:
        >>> iterate(Autoencoder(latent_dim=8), torch.zeros(2, 1, 64, 64), None, 3).latents.shape
        torch.Size([3, 2, 8])
    """
    if recursions < 1:
        raise AttractorError(f"recursions must be at least 1, got {recursions}")
    latents, reconstructions = [], []
    for r in range(recursions):
        z = network.encode(x, masks)  # z_r
        latents.append(z)
        if last or r + 1 < recursions:
            x = network.decode(z, masks)  # x_{r+1}
            reconstructions.append(x)
    points = torch.stack(reconstructions) if reconstructions else x.new_zeros(0, *x.shape)
    return Trajectory(torch.stack(latents), points)
