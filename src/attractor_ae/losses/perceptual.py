"""The perceptual loss: a distance between VGG16 features."""

import copy
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attractor_ae._errors import AttractorError

# Blocks of VGG16's feature layers, which end with relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3.
_BLOCKS = ((0, 4), (4, 9), (9, 16), (16, 23), (23, 30))
_SMALLEST_SIDE = 16  # four poolings leave one pixel


class PerceptualLoss(nn.Module):
    """Distance between the VGG16 features of two images: LPIPS without its linear weights.

    The feature map of each of five layers (relu1_2, relu2_2, relu3_3, relu4_3, relu5_3) is scaled
    to unit length over the channels at every pixel. The squared difference is summed over channels,
    averaged over pixels, summed over layers, and averaged over the batch.

    Args:
        features: ``vgg16().features`` of torchvision, which is copied; by default with ImageNet
            weights (``VGG16_Weights.IMAGENET1K_V1``), downloaded if not in torchvision's cache.

    Raises:
        AttractorError: If the default weights cannot be loaded, or ``features`` has fewer than 30
            layers.

    References:
        Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR
        2018; the variant without learned linear weights.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, features: nn.Sequential | None = None) -> None:
        super().__init__()
        layers = _imagenet_features() if features is None else copy.deepcopy(features)
        last = _BLOCKS[-1][1]
        if len(layers) < last:
            raise AttractorError(
                f"features must have the {last} layers of VGG16, got {len(layers)}; "
                "give torchvision.models.vgg16().features"
            )
        self.blocks = nn.ModuleList(layers[start:end] for start, end in _BLOCKS)
        # ImageNet's mean and standard deviation, for images in [-1, 1] (LPIPS's scaling layer).
        shift, scale = torch.tensor([[-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]])
        self.register_buffer("shift", shift.view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", scale.view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.eval()

    def forward(
        self, reconstruction: Float[Tensor, "n c h w"], target: Float[Tensor, "n c h w"]
    ) -> Float[Tensor, ""]:
        """Return the mean distance between images, float32 (n, 1 or 3, h, w); target in [0, 1]."""
        _, channels, height, width = target.shape
        if channels not in (1, 3) or min(height, width) < _SMALLEST_SIDE:
            raise AttractorError(
                f"the perceptual loss needs 1 or 3 channels and at least {_SMALLEST_SIDE} x "
                f"{_SMALLEST_SIDE} pixels, got {channels} channels of {height} x {width}; choose "
                "another reconstruction loss"
            )
        self.to(target.device)
        distance = target.new_zeros(len(target))
        x, y = self._normalise(reconstruction), self._normalise(target)  # (n, 3, h, w)
        for block in self.blocks:
            x, y = block(x), block(y)  # (n, features, h', w')
            # Zero where no feature is active.
            of_x, of_y = (F.normalize(features, dim=1, eps=1e-10) for features in (x, y))
            squared = (of_x - of_y).square().sum(dim=1)  # (n, h', w')
            distance = distance + squared.mean(dim=(1, 2))
        return distance.mean()

    def _normalise(self, images: Tensor) -> Tensor:
        # A grey image becomes three channels by broadcasting.
        return (2 * images - 1 - self.shift) / self.scale


def _imagenet_features() -> nn.Sequential:
    """Return VGG16's feature layers with ImageNet weights, downloaded if not in the cache."""
    from torchvision.models import VGG16_Weights, vgg16  # slow to import

    weights = VGG16_Weights.IMAGENET1K_V1
    path = Path(torch.hub.get_dir(), "checkpoints", weights.url.rpartition("/")[2])
    try:
        # On the meta device no weights are initialised and no random numbers are drawn.
        with torch.device("meta"):
            features = vgg16().features
        state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
        of_features = {k: v for k, v in state.items() if k.startswith("features.")}
        nn.ModuleDict({"features": features}).load_state_dict(of_features, assign=True)
    except Exception as error:  # no network, a damaged file: many types of error
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise AttractorError(
            f"{path}: the VGG16 weights of the perceptual loss cannot be loaded ({reason}); "
            f"download {weights.url} to this path"
        ) from None
    return nn.Sequential(*features.children())
