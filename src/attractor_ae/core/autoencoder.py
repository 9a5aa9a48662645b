"""The dropout autoencoder; read it beside the table of PROTOCOL section 2."""

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attractor_ae._errors import AttractorError, unknown_name
from attractor_ae._fast_layers import (
    EvenConvolution,
    EvenTransposedConvolution,
    OutputConvolution,
    RowwiseLinear,
    drop,
)
from attractor_ae.core.masks import DropoutMasks, SiteShape, check_masks, check_rate


class AutoencoderOutput(NamedTuple):
    """What one pass gives: the reconstruction (n, c, h, w) and the latent codes (n, latent)."""

    reconstruction: Tensor
    latent: Tensor


def activation_function(name: str) -> nn.Module:
    """Return the `torch.nn` activation of that name, e.g. ``"ReLU"``, with its default arguments.

    Raises
    ------
    AttractorError
        If `torch.nn` has no elementwise activation of that name.
    """
    if name not in ACTIVATIONS:
        raise unknown_name("activation", name, ACTIVATIONS)
    return getattr(nn, name)()


# The elementwise ones: the others mix features, draw random numbers, or need arguments.
ACTIVATIONS = tuple(
    name
    for name in nn.modules.activation.__all__
    if name
    not in {
        "GLU",
        "LogSoftmax",
        "MultiheadAttention",
        "RReLU",
        "Softmax",
        "Softmax2d",
        "Softmin",
        "Threshold",
    }
)


def scaled_widths(dropout: float) -> tuple[int, int]:
    """Return (w, f), the layers' widths, which grow with the dropout rate.

    Examples
    --------
    >>> scaled_widths(0.33)
    (43, 341)
    """
    return math.ceil(32 * (1 + dropout)), math.ceil(256 * (1 + dropout))


def check_image_size(image_size: int) -> None:
    """Raise an AttractorError unless four halvings of ``image_size`` leave whole pixels."""
    if image_size < 16 or image_size % 16:
        raise AttractorError(
            f"image_size must be a multiple of 16, got {image_size}; the published size is 64"
        )


def encoder_convolutions(channels: int, w: int) -> nn.ModuleList:
    """Return encoder stages 1 to 4: each halves height and width."""
    widths = (channels, w, w, 2 * w, 2 * w)
    return nn.ModuleList(EvenConvolution(a, b, 4, 2, 1) for a, b in itertools.pairwise(widths))


def encoder_site_shapes(w: int, image_size: int) -> tuple[SiteShape, ...]:
    """Return the shapes of the activations after encoder stages 1 to 4."""
    channels = (w, w, 2 * w, 2 * w)
    sides = (image_size // 2**stage for stage in (1, 2, 3, 4))
    return tuple((c, side, side) for c, side in zip(channels, sides, strict=True))


class Autoencoder(nn.Module):
    """Convolutional autoencoder with ten dropout sites (PROTOCOL section 2).

    Dropout is no layer: `forward` takes the masks as an argument, so that one mask can be kept for
    all recursions. Train and eval mode are the same to it.

    Parameters
    ----------
    latent_dim
        Length L of the latent code.
    dropout
        Dropout rate in [0, 1). It also sets the widths of the layers.
    activation
        Name of an elementwise activation in `torch.nn`.
    image_size
        Height and width of the images, a multiple of 16.
    channels
        1 (grey) or 3 (colour).

    Raises
    ------
    AttractorError
        If the activation is unknown or a number is out of range.

    Examples
    --------
    >>> import torch
    >>> model = Autoencoder()
    >>> model(torch.zeros(2, 1, 64, 64)).latent.shape
    torch.Size([2, 64])
    """

    DEFAULT_IMAGE_SIZE: ClassVar[int] = 64

    def __init__(
        self,
        latent_dim: int = 64,
        dropout: float = 0.33,
        activation: str = "ReLU",
        image_size: int = DEFAULT_IMAGE_SIZE,
        channels: int = 1,
    ) -> None:
        super().__init__()
        if latent_dim < 1:
            raise AttractorError(f"latent dimension must be at least 1, got {latent_dim}")
        check_rate(dropout)
        check_image_size(image_size)
        w, f = scaled_widths(dropout)
        side = image_size // 16
        self.latent_dim = latent_dim
        self.dropout = dropout
        self.activation_name = activation
        self.image_size = image_size
        self.channels = channels
        self._code_shape = (2 * w, side, side)

        self.encoder = encoder_convolutions(channels, w)
        self.encoder_linear = RowwiseLinear(2 * w * side * side, f)
        self.latent = RowwiseLinear(f, latent_dim)
        self.decoder_linear = nn.ModuleList(
            [RowwiseLinear(latent_dim, f), RowwiseLinear(f, 2 * w * side * side)]
        )
        widths = (2 * w, 2 * w, w, w)
        self.decoder = nn.ModuleList(
            EvenTransposedConvolution(a, b, 4, 2, 1) for a, b in itertools.pairwise(widths)
        )
        self.output = OutputConvolution(w, channels)
        self.activation = activation_function(activation)

        convolutions = encoder_site_shapes(w, image_size)
        self.site_shapes: tuple[SiteShape, ...] = (
            *convolutions,
            (f,),
            (f,),
            (2 * w * side * side,),
            *reversed(convolutions[:3]),
        )

    def encode(
        self,
        x: Float[Tensor, "n c h w"],
        masks: DropoutMasks | None = None,
        *,
        first: Float[Tensor, "n features h_half w_half"] | None = None,
    ) -> Float[Tensor, "n latent"]:
        """Return the latent codes of images, under ``masks`` or without dropout.

        Parameters
        ----------
        x
            Images in [0, 1], or an earlier output.
        masks
            Masks of the ten sites; none leaves dropout off.
        first
            What the first convolution, ``encoder[0]``, makes of ``x``, if that is known already: it
            is the same for all masks.
        """
        sites = self._sites(masks)
        known = first is not None
        x = drop(
            first if known else self.encoder[0](x), self.activation, sites[0], keep_input=known
        )
        for convolution, mask in zip(self.encoder[1:], sites[1:4], strict=True):
            x = drop(convolution(x), self.activation, mask)
        x = x.flatten(1)  # (n, 2w * side * side)
        return self.latent(drop(self.encoder_linear(x), self.activation, sites[4]))

    def decode(
        self, z: Float[Tensor, "n latent"], masks: DropoutMasks | None = None
    ) -> Float[Tensor, "n c h w"]:
        """Return the images of latent codes, under ``masks`` or without dropout."""
        sites = self._sites(masks)
        for linear, mask in zip(self.decoder_linear, sites[5:7], strict=True):
            z = drop(linear(z), self.activation, mask)
        x = z.unflatten(1, self._code_shape)  # (n, 2w, side, side)
        for convolution, mask in zip(self.decoder, sites[7:], strict=True):
            x = drop(convolution(x), self.activation, mask)
        return self.output(x)

    def forward(
        self, x: Float[Tensor, "n c h w"], masks: DropoutMasks | None = None
    ) -> AutoencoderOutput:
        """Apply the autoencoder once.

        Parameters
        ----------
        x
            Images in [0, 1], or an earlier output.
        masks
            Masks of the ten sites; none leaves dropout off.

        Returns
        -------
        AutoencoderOutput
            The reconstruction, of the shape of ``x`` and without output activation, and the code.
        """
        z = self.encode(x, masks)
        return AutoencoderOutput(self.decode(z, masks), z)

    def _sites(self, masks: DropoutMasks | None) -> tuple[Tensor | None, ...]:
        if masks is None:
            return (None,) * len(self.site_shapes)
        check_masks(masks, self.site_shapes)
        return masks.sites


@contextmanager
def initialised_from(seed: int) -> Iterator[None]:
    """Build networks in this context to have their weights drawn from ``seed``.

    The layers draw as they do by default; the global random state is left as it was.

    Parameters
    ----------
    seed
        Non-negative integer.

    Examples
    --------
    >>> with initialised_from(3):
    ...     model = Autoencoder()
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
