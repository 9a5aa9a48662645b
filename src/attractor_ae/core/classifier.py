"""The convolutional classifier of the MC-dropout and ensemble baselines (PROTOCOL section 2)."""

from jaxtyping import Float
from torch import Tensor, nn

from attractor_ae._errors import AttractorError
from attractor_ae._fast_layers import RowwiseLinear, drop
from attractor_ae.core.autoencoder import (
    activation_function,
    check_image_size,
    encoder_convolutions,
    encoder_site_shapes,
    scaled_widths,
)
from attractor_ae.core.masks import DropoutMasks, SiteShape, check_masks, check_rate


class ConvClassifier(nn.Module):
    """Four convolutions with dropout after each, and two linear layers without.

    Parameters
    ----------
    classes
        Number of classes, at least 2.
    dropout, activation, image_size, channels
        As for `Autoencoder`.

    Raises
    ------
    AttractorError
        If the activation is unknown or a number is out of range.

    Examples
    --------
    >>> import torch
    >>> ConvClassifier(classes=10)(torch.zeros(2, 1, 64, 64)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        classes: int,
        dropout: float = 0.33,
        activation: str = "ReLU",
        image_size: int = 64,
        channels: int = 1,
    ) -> None:
        super().__init__()
        if classes < 2:
            raise AttractorError(f"a classifier needs at least 2 classes, got {classes}")
        check_rate(dropout)
        check_image_size(image_size)
        w, f = scaled_widths(dropout)
        side = image_size // 16
        self.classes = classes
        self.dropout = dropout
        self.activation_name = activation
        self.image_size = image_size
        self.channels = channels
        self.encoder = encoder_convolutions(channels, w)
        self.hidden = RowwiseLinear(2 * w * side * side, f)
        self.output = RowwiseLinear(f, classes)
        self.activation = activation_function(activation)
        self.site_shapes: tuple[SiteShape, ...] = encoder_site_shapes(w, image_size)

    def forward(
        self, x: Float[Tensor, "n c h w"], masks: DropoutMasks | None = None
    ) -> Float[Tensor, "n classes"]:
        """Return the logits of images in [0, 1], under masks of four sites or without dropout."""
        if masks is not None:
            check_masks(masks, self.site_shapes)
        for site, convolution in enumerate(self.encoder):
            x = drop(convolution(x), self.activation, None if masks is None else masks.sites[site])
        return self.output(self.activation(self.hidden(x.flatten(1))))
