"""Spaces of the autoencoder's inputs (points), with the scores that compare points.

Dynamics, heads, scores and calibration work on points of a space, tensors of shape (n, ...). Only
this module converts images to points.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attractor_ae._errors import AttractorError, check_known
from attractor_ae.conformal import DEFAULT_COMPONENTS, FEATURE_COMPONENTS
from attractor_ae.extractors import make_extractor

Images = Float[Tensor, "n c h w"]


class Pixels:
    """Pixel space: points are images, values in [0, 1], shape (n, channels, height, width)."""

    scores = ("reconstruction_error", "ssim_distance", "cosine_distance", "step")
    """Scores of `attractor_ae.core.scores` that compare points of this space."""
    image_scores = ("layer_mahalanobis", "contrast", "detail_mahalanobis")
    """Scores of an image that can be computed in this space."""
    components = DEFAULT_COMPONENTS
    """Components of the OOD score."""

    def points(self, x: Images) -> Images:
        """Return images or reconstructions as points."""
        return x


class Standardised(Pixels):
    """Images with their own brightness and contrast removed: mean 0.5, standard deviation 0.25.

    Without this, brightness and contrast dominate the codes of natural images. Reconstructions are
    standardised before each recursion, too. With these values a point is still a picture, with
    nearly all values in [0, 1].
    """

    def points(self, x: Images) -> Images:
        """Return images or reconstructions, each standardised over all its pixels and channels."""
        x = x if x.dtype == torch.float64 else x.float()
        centred = x - _mean(x)
        # An image of one grey level stays constant.
        deviation = _mean(centred.square()).clamp_min(_LEAST_CONTRAST**2).sqrt()
        return 0.5 + 0.25 * centred / deviation


_LEAST_CONTRAST = 0.01  # standard deviation below which contrast is noise


def _mean(x: Images) -> Float[Tensor, "n 1 1 1"]:
    # In two steps, as PyTorch's order of addition depends on the batch for large images.
    return x.flatten(1).unflatten(1, (-1, 16)).mean(2).mean(1)[:, None, None, None]


class Features(nn.Module):
    """Features of a frozen pretrained network, standardised: points have the shape (n, features).

    The mean and deviation of the training images and the digest of the extractor are stored with
    the weights of the autoencoder; the weights of the extractor are not.

    Args:
        extractor: Name of the extractor, see `attractor_ae.extractors`.
        image_size: Height and width of the images.
    """

    scores = ("reconstruction_error", "cosine_distance", "step")
    image_scores = ("layer_mahalanobis", "linear_energy")
    components = FEATURE_COMPONENTS
    mean: Tensor
    deviation: Tensor
    digest: Tensor

    def __init__(self, extractor: str, image_size: int) -> None:
        super().__init__()
        self.name = extractor
        self.count = make_extractor(extractor).count(image_size)
        self.register_buffer("mean", torch.zeros(self.count))
        self.register_buffer("deviation", torch.ones(self.count))
        self.register_buffer("digest", torch.zeros(32, dtype=torch.uint8))

    def fit(self, features: Float[Tensor, "n features"]) -> None:
        """Take mean and deviation from the features of training images."""
        self.mean.copy_(features.mean(0))
        # A feature that is nearly the same in all training images must not dominate distances.
        deviation = features.std(0)
        self.deviation.copy_(deviation.clamp_min(1e-6 + 0.1 * deviation.mean().item()))
        self.digest.copy_(torch.tensor(list(bytes.fromhex(make_extractor(self.name).digest))))

    def points(self, x: Tensor) -> Float[Tensor, "n features"]:
        """Return images (n, c, h, w), or their features, as points.

        Raises:
            AttractorError: If the autoencoder was trained with other weights of the extractor.
        """
        extractor = make_extractor(self.name)
        exported = torch.compiler.is_compiling()  # weights then have no values
        if not exported and bytes(self.digest.tolist()).hex() != extractor.digest:
            raise AttractorError(
                f"extractor {self.name!r} does not have the weights used in training; install "
                "the version used then, or train again"
            )
        features = extractor.to(x.device)(x) if x.ndim == 4 else x
        return (features - self.mean) / self.deviation


SPACES = {"pixels": Pixels, "standardised": Standardised}
"""The spaces of images, by the value of ``model.space``."""


def make_space(name: str) -> Pixels:
    """Return the space of a name in ``SPACES``; raise an AttractorError if it is unknown."""
    check_known("space", name, SPACES)
    return SPACES[name]()
