"""The dropout autoencoder of PROTOCOL section 2; the classifier is in `attractor_ae.baselines`.

Masks are passed in as an argument, so the same mask can be used in every recursion. `train()` and
`eval()` have no effect.
"""

import itertools
import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attractor_ae._errors import AttractorError
from attractor_ae._fast_layers import (
    Conv2d,
    ConvTranspose2d,
    Linear,
    activation_function,
    draw_first_weights,
    masked_activation,
)
from attractor_ae.core.masks import DropoutMasks, SiteShape, check_rate, sites_of
from attractor_ae.core.spaces import Features, make_space


class AutoencoderOutput(NamedTuple):
    """Reconstruction, of the shape of the points, and latent codes (n, latent) of one pass."""

    reconstruction: Tensor
    latent: Tensor


class Autoencoder(nn.Module):
    """Convolutional autoencoder with ten dropout sites.

    Args:
        latent_dim: Length L of the latent code.
        dropout: Dropout rate p in [0, 1); the widths of the layers grow with it.
        activation: Name of an elementwise activation of torch.nn.
        image_size: Height and width of the images, a multiple of 16.
        channels: 1 (grey) or 3 (colour).
        space: Name of the space of the points, see `attractor_ae.core.spaces`.
        generator: Random generator of the initial weights; by default PyTorch's global generator.

    Raises:
        AttractorError: If activation or space is unknown or a number is out of range.

    Examples:
        >>> Autoencoder()(torch.zeros(2, 1, 64, 64)).latent.shape
        torch.Size([2, 64])
    """

    def __init__(
        self,
        latent_dim: int = 64,
        dropout: float = 0.33,
        activation: str = "ReLU",
        image_size: int = 64,
        channels: int = 1,
        space: str = "pixels",
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if latent_dim < 1:
            raise AttractorError(f"latent dimension must be at least 1, got {latent_dim}")
        w, f, side = layer_sizes(dropout, image_size)
        self.arguments = (latent_dim, dropout, activation, image_size, channels, space)
        self.space = make_space(space)
        self.latent_dim, self.dropout = latent_dim, dropout
        self.image_shape = (channels, image_size, image_size)
        self._map_shape = (2 * w, side, side)  # after encoder 4 and decoder 2
        flat = 2 * w * side**2

        self.encoder = make_encoder(channels, w)
        self.encoder_linear = Linear(flat, f)
        self.latent = Linear(f, latent_dim)
        self.decoder_linear = nn.ModuleList([Linear(latent_dim, f), Linear(f, flat)])
        pairs = itertools.pairwise((2 * w, 2 * w, w, w))
        self.decoder = nn.ModuleList(ConvTranspose2d(a, b, 4, 2, 1) for a, b in pairs)
        self.output = ConvTranspose2d(w, channels, 4, 2, 1)
        self.activation = activation_function(activation)

        maps = encoder_sites(w, image_size)  # decoder 3 to 5: as encoder 3, 2, 1
        self.site_shapes: tuple[SiteShape, ...] = (*maps, (f,), (f,), (flat,), *maps[2::-1])
        draw_first_weights(self, generator)

    def encode(
        self, x: Float[Tensor, "n c h w"], masks: DropoutMasks | None = None
    ) -> Float[Tensor, "n latent"]:
        """Return the latent codes of images or reconstructions; no dropout if ``masks`` is None."""
        sites = sites_of(masks, self.site_shapes)
        x = self.space.points(x)
        for convolution, mask in zip(self.encoder, sites[:4], strict=True):
            x = masked_activation(convolution(x), self.activation, mask)
        x = x.flatten(1)  # (n, 2w * side * side)
        x = masked_activation(self.encoder_linear(x), self.activation, sites[4])
        return self.latent(x)

    def pooled_features(self, points: Float[Tensor, "n c h w"]) -> Float[Tensor, "n features"]:
        """Return the mean and root mean square of each map of stage 1, without dropout."""
        maps = masked_activation(self.encoder[0](points), self.activation, None)
        maps = maps.double().flatten(2)  # (n, w, positions)
        return torch.cat([maps.mean(2), maps.square().mean(2).sqrt()], dim=1)

    def decode(
        self, z: Float[Tensor, "n latent"], masks: DropoutMasks | None = None
    ) -> Float[Tensor, "n c h w"]:
        """Return reconstructions from latent codes, without an output activation."""
        sites = sites_of(masks, self.site_shapes)
        for linear, mask in zip(self.decoder_linear, sites[5:7], strict=True):
            z = masked_activation(linear(z), self.activation, mask)
        x = z.unflatten(1, self._map_shape)  # (n, 2w, side, side)
        for convolution, mask in zip(self.decoder, sites[7:], strict=True):
            x = masked_activation(convolution(x), self.activation, mask)
        return self.output(x)

    def forward(
        self, x: Float[Tensor, "n c h w"], masks: DropoutMasks | None = None
    ) -> AutoencoderOutput:
        """Apply the autoencoder once; no dropout if ``masks`` is None."""
        z = self.encode(x, masks)
        return AutoencoderOutput(self.decode(z, masks), z)


class FeatureAutoencoder(nn.Module):
    """Fully connected autoencoder of features with four dropout sites, one per hidden layer.

    Args:
        latent_dim, dropout, activation, image_size, channels, generator: As for `Autoencoder`.
        space: "features".
        extractor: Name of the frozen network, see `attractor_ae.extractors`.

    Raises:
        AttractorError: As for `Autoencoder`; if the extractor is unknown.
    """

    def __init__(
        self,
        latent_dim: int = 64,
        dropout: float = 0.33,
        activation: str = "ReLU",
        image_size: int = 96,
        channels: int = 3,
        space: str = "features",
        extractor: str = "efficientnet-lite0",
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_rate(dropout)
        self.arguments = (latent_dim, dropout, activation, image_size, channels, space, extractor)
        self.space = Features(extractor, image_size)
        self.latent_dim, self.dropout = latent_dim, dropout
        self.image_shape = (channels, image_size, image_size)
        width = math.ceil(384 * (1 + dropout))
        self.encoder = nn.ModuleList([Linear(self.space.count, width), Linear(width, width)])
        self.latent = Linear(width, latent_dim)
        self.decoder = nn.ModuleList([Linear(latent_dim, width), Linear(width, width)])
        self.output = Linear(width, self.space.count)
        self.activation = activation_function(activation)
        self.site_shapes: tuple[SiteShape, ...] = ((width,),) * 4
        draw_first_weights(self, generator)

    def encode(
        self, x: Float[Tensor, "n features"], masks: DropoutMasks | None = None
    ) -> Float[Tensor, "n latent"]:
        """Return the latent codes of points; no dropout if ``masks`` is None."""
        for linear, mask in zip(self.encoder, sites_of(masks, self.site_shapes)[:2], strict=True):
            x = masked_activation(linear(x), self.activation, mask)
        return self.latent(x)

    def decode(
        self, z: Float[Tensor, "n latent"], masks: DropoutMasks | None = None
    ) -> Float[Tensor, "n features"]:
        """Return reconstructed points, of at most the usual length, so that none diverges."""
        for linear, mask in zip(self.decoder, sites_of(masks, self.site_shapes)[2:], strict=True):
            z = masked_activation(linear(z), self.activation, mask)
        x, longest = self.output(z), math.sqrt(self.space.count)  # RMS length of training points
        return x * (longest / x.norm(dim=-1, keepdim=True).clamp_min(longest))

    def pooled_features(self, points: Float[Tensor, "n features"]) -> Float[Tensor, "n features"]:
        """Return the points themselves, the input of the first layer."""
        return points.double()

    def forward(
        self, x: Float[Tensor, "n features"], masks: DropoutMasks | None = None
    ) -> AutoencoderOutput:
        """Apply the autoencoder once to points; no dropout if ``masks`` is None."""
        z = self.encode(x, masks)
        return AutoencoderOutput(self.decode(z, masks), z)


def make_autoencoder(
    *arguments: Any,  # noqa: ANN401  as stored in a network
    generator: torch.Generator | None = None,
) -> Autoencoder | FeatureAutoencoder:
    """Return the untrained autoencoder of a space, from its ``arguments`` in their order."""
    kind = FeatureAutoencoder if "features" in arguments else Autoencoder
    return kind(*arguments, generator=generator)


def layer_sizes(p: float, image_size: int) -> tuple[int, int, int]:
    """Return the widths w and f, and the side of the feature maps after encoder stage 4."""
    check_rate(p)
    if image_size < 16 or image_size % 16:
        raise AttractorError(f"image_size must be a multiple of 16, got {image_size}")
    return math.ceil(32 * (1 + p)), math.ceil(256 * (1 + p)), image_size // 16


def make_encoder(channels: int, w: int) -> nn.ModuleList:
    """Return encoder stages 1 to 4; each halves height and width."""
    widths = (channels, w, w, 2 * w, 2 * w)
    return nn.ModuleList(Conv2d(a, b, 4, 2, 1) for a, b in itertools.pairwise(widths))


def encoder_sites(w: int, image_size: int) -> tuple[SiteShape, ...]:
    """Return the shapes of the dropout sites after encoder stages 1 to 4."""
    sides = (image_size // 2**stage for stage in (1, 2, 3, 4))
    return tuple((c, side, side) for c, side in zip((w, w, 2 * w, 2 * w), sides, strict=True))
