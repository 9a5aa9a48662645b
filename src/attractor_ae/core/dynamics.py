"""The autoencoder as a dynamical system: apply it to its own output, again and again."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from attractor_ae._errors import AttractorError
from attractor_ae.core.autoencoder import Autoencoder
from attractor_ae.core.masks import DropoutMasks


@dataclass(frozen=True, eq=False)
class Trajectory:
    """What an iterated autoencoder passes through (PROTOCOL section 1).

    Attributes
    ----------
    latents
        z_r of every recursion r, float, shape (recursions, n, latent).
    reconstructions
        x_{r+1}, computed through z_r, float, shape (recursions, n, channels, height, width).
    """

    latents: Float[Tensor, "recursions n latent"]
    reconstructions: Float[Tensor, "recursions n c h w"]

    def image(self, index: int) -> "Trajectory":
        """Return the trajectory of one image, with n = 1."""
        rows = slice(index, index + 1)
        return Trajectory(self.latents[:, rows], self.reconstructions[:, rows])


def iterate(
    model: Autoencoder, x: Float[Tensor, "n c h w"], masks: DropoutMasks | None, recursions: int
) -> Trajectory:
    """Apply ``model`` to its own output under one and the same mask.

    Parameters
    ----------
    model
        The autoencoder.
    x
        Images in [0, 1], shape (n, channels, height, width): x_0.
    masks
        The trial's masks, kept for all recursions; none leaves dropout off.
    recursions
        How often the model is applied, at least 1.

    Returns
    -------
    Trajectory
        Latent codes and reconstructions of every recursion.

    Examples
    --------
    >>> model = Autoencoder(latent_dim=8)
    >>> iterate(model, torch.zeros(2, 1, 64, 64), None, 3).latents.shape
    torch.Size([3, 2, 8])
    """
    _check_recursions(recursions)
    latents, reconstructions = [], []
    for _ in range(recursions):
        x, z = model(x, masks)
        latents.append(z)
        reconstructions.append(x)
    return Trajectory(torch.stack(latents), torch.stack(reconstructions))


def iterate_latents(
    model: Autoencoder,
    x: Float[Tensor, "n c h w"],
    trials: Iterable[DropoutMasks | None],
    recursions: int,
    on_step: Callable[[Tensor, Tensor], None] | None = None,
) -> Float[Tensor, "recursions trials n latent"]:
    """Return the latents of `iterate` alone, under one mask after the other.

    What is the same for all masks is computed once, and the last reconstruction, which no latent
    code depends on, not at all unless it is asked for.

    Parameters
    ----------
    model, x, recursions
        As for `iterate`.
    trials
        Masks of each trial.
    on_step
        Called with x_r and x_{r+1} of every recursion of every trial, in their order.
    """
    _check_recursions(recursions)
    first = model.encoder[0](x)
    codes = []
    for masks in trials:
        latents = [model.encode(x, masks, first=first)]
        before = x
        while len(latents) < recursions or on_step is not None:
            after = model.decode(latents[-1], masks)
            if on_step is not None:
                on_step(before, after)
                if len(latents) == recursions:
                    break
            latents.append(model.encode(after, masks))
            before = after
        codes.append(torch.stack(latents))
    return torch.stack(codes, dim=1)


def _check_recursions(recursions: int) -> None:
    if recursions < 1:
        raise AttractorError(f"recursions must be at least 1, got {recursions}")
