"""Out-of-distribution scores, one pure function each; larger is more out of distribution.

x_0, x_1, ... are the input and its reconstructions, z_r the code between x_r and x_{r+1}, and p_t
the class distribution that the head of recursion r computes from z_r under the mask of trial t. A
member is the autoencoder under the mask of one trial. PROTOCOL is docs/protocol.md.
Entropy and mutual information: Gal, "Uncertainty in Deep Learning", 2016, section 3.3.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from attractor_ae._logistic import LinearClassifier
from attractor_ae._neighbours import distances
from attractor_ae._ssim import structural_similarity


def mean_distribution(p: Float[Tensor, "... trials n classes"]) -> Float[Tensor, "... n classes"]:
    """Return p_r(x), the mean over trials of p_t (PROTOCOL section 1)."""
    return p.mean(-3)


def prediction(p: Float[Tensor, "... n classes"]) -> Int[Tensor, "... n"]:
    """Return the index of the predicted class, argmax of p_r (PROTOCOL section 1)."""
    return p.argmax(-1)


def normalised_entropy(p: Float[Tensor, "*n classes"]) -> Float[Tensor, "*n"]:
    """Return H(p) / ln(classes), in [0, 1]; of p_r, the uncertainty u_r (PROTOCOL section 1)."""
    p = p.double()
    p = p / p.sum(-1, keepdim=True)  # in float32 the sum differs from 1 by rounding
    return (torch.special.entr(p).sum(-1) / math.log(max(2, p.shape[-1]))).clamp_max(1)


def entropy(p: Float[Tensor, "... trials n classes"]) -> Float[Tensor, "... n"]:
    """Uncertainty: the entropy of the mean over trials, not the mean of the entropies."""
    return normalised_entropy(mean_distribution(p))


def member_entropy(p: Float[Tensor, "... trials n classes"]) -> Float[Tensor, "... n"]:
    """Mean over trials of H(p_t) / ln(classes): uncertainty of the members, in [0, 1]."""
    return normalised_entropy(p).mean(-2)


def mutual_information(p: Float[Tensor, "... trials n classes"]) -> Float[Tensor, "... n"]:
    """Entropy minus member entropy: disagreement of the members, in [0, 1]."""
    return (entropy(p) - member_entropy(p)).clamp_min(0)


Points = Float[Tensor, "n ..."]


def reconstruction_error(x0: Points, x: Points, after: Points) -> Float[Tensor, " n"]:
    """RMSE between x_{r+1} and x_0 of one trial, in units of the space."""
    return _rmse(after, x0)


def ssim_distance(x0: Points, x: Points, after: Points) -> Float[Tensor, " n"]:
    """1 - SSIM(x_{r+1}, x_0) of one trial, in [0, 2]."""
    return 1 - structural_similarity(after, x0)[0].mean(1)


def cosine_distance(x0: Points, x: Points, after: Points) -> Float[Tensor, " n"]:
    """1 - cosine of the angle between x_{r+1} and x_0 of one trial, in [0, 2]."""
    return 1 - F.cosine_similarity(after.flatten(1), x0.flatten(1))


def step(x0: Points, x: Points, after: Points) -> Float[Tensor, " n"]:
    """RMSE between x_{r+1} and x_r of one trial: size of the last step."""
    return _rmse(after, x)


def _rmse(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().flatten(1).mean(1).sqrt()


@dataclass(frozen=True, eq=False)
class KnownLatents:
    """Training codes of one recursion, scaled to length 1, since only directions are compared.

    ``whitening`` is a matrix W such that W W^T is the inverse of the covariance within classes:
    Mahalanobis distances are Euclidean distances after multiplication by W. ``centres`` are the
    class means multiplied by W.
    """

    directions: Float[Tensor, "m latent"]
    labels: Int[Tensor, " m"]
    centres: Float[Tensor, "classes latent"]
    whitening: Float[Tensor, "latent latent"]

    @classmethod
    def of(
        cls, z: Float[Tensor, "m latent"], labels: Int[Tensor, " m"], classes: int
    ) -> "KnownLatents":
        """Return the statistics of training codes."""
        z = F.normalize(z, dim=-1)
        return cls(z, labels.clone(), *_within_classes(z, labels, classes, 0.01))


def _within_classes(
    f: Tensor, labels: Tensor, classes: int, shrinkage: float
) -> tuple[Tensor, Tensor]:
    """Return the class means times W, and W; W W^T inverts the covariance within classes."""
    centres = torch.stack([f[labels == c].mean(0) for c in range(classes)])
    around = f - centres[labels]
    covariance = around.mT @ around / len(around)
    # With few images the covariance is singular without this term.
    size = covariance.diagonal().mean().clamp_min(1e-12)
    covariance += shrinkage * size * torch.eye(f.shape[-1]).to(f)
    # Contiguous as if read from a file, since the last digits of products depend on the layout.
    whitening = torch.linalg.cholesky(torch.linalg.inv(covariance)).contiguous()
    return centres @ whitening, whitening


Latents = Float[Tensor, "trials n latent"]


def feature_norm(z: Latents, known: KnownLatents) -> Float[Tensor, " n"]:
    """Negative mean length of codes, shorter for unknown images (Dhamija et al., NeurIPS 2018)."""
    return -z.norm(dim=-1).mean(0)


def circular_variance(z: Latents, known: KnownLatents) -> Float[Tensor, " n"]:
    """1 - length of the mean direction over trials, in [0, 1]: disagreement of the members."""
    return 1 - F.normalize(z, dim=-1).mean(0).norm(dim=-1)


def mahalanobis(z: Latents, known: KnownLatents) -> Float[Tensor, " n"]:
    """Mean Mahalanobis distance to the nearest class mean (Lee et al., NeurIPS 2018)."""
    white = F.normalize(z, dim=-1).flatten(0, 1) @ known.whitening
    return distances(white, known.centres).amin(-1).view(z.shape[:2]).mean(0)


def knn_distance(z: Latents, known: KnownLatents, k: int = 5) -> Float[Tensor, " n"]:
    """Mean distance to the k-th nearest training code, in [0, 2] (Sun et al., ICML 2022)."""
    return _nearest(z, known, k).values[..., -1].view(z.shape[:2]).mean(0)


def vote_diversity(z: Latents, known: KnownLatents) -> Float[Tensor, " n"]:
    """Gini-Simpson index 1 - sum_c v_c^2, in [0, 1); v_c: fraction of trials nearest to class c."""
    classes = known.labels[_nearest(z, known, 1).indices[..., 0]].view(z.shape[:2])
    return 1 - F.one_hot(classes, len(known.centres)).float().mean(0).square().sum(-1)


def _nearest(z: Tensor, known: KnownLatents, k: int) -> torch.return_types.topk:
    found = distances(F.normalize(z, dim=-1).flatten(0, 1), known.directions)
    return found.topk(min(k, len(known.directions)), largest=False)


@dataclass(frozen=True, eq=False)
class KnownFeatures:
    """Standardised features of training images; ``centres``, ``whitening``: as `KnownLatents`."""

    mean: Float[Tensor, " features"]
    deviation: Float[Tensor, " features"]
    centres: Float[Tensor, "classes features"]
    whitening: Float[Tensor, "features features"]

    @classmethod
    def of(cls, f: Tensor, labels: Tensor, classes: int, shrinkage: float) -> "KnownFeatures":
        """Return the statistics of the features (m, features) of training images."""
        mean, deviation = f.mean(0), f.std(0)
        # A feature that is the same in all training images must not dominate distances.
        deviation = deviation.clamp_min(1e-9 + 0.1 * deviation.mean().item())
        within = _within_classes((f - mean) / deviation, labels, classes, shrinkage)
        return cls(mean, deviation, *within)

    def distance(self, f: Float[Tensor, "n features"]) -> Float[Tensor, " n"]:
        """Return the Mahalanobis distance to the nearest class mean."""
        white = (f - self.mean) / self.deviation @ self.whitening
        return distances(white, self.centres).amin(-1)


KnownImages = dict[str, Any]
PARTS = {"pooled": KnownFeatures, "detail": KnownFeatures, "linear": LinearClassifier}
"""Statistics of training images: of the first layer's features, of `detail`, of points."""


def layer_mahalanobis(x: Tensor, features: Tensor, known: KnownImages) -> Float[Tensor, " n"]:
    """As `mahalanobis`, for the first layer's features; for points, to the overall mean."""
    return known["pooled"].distance(features)


def linear_energy(x: Tensor, features: Tensor, known: KnownImages) -> Float[Tensor, " n"]:
    """Negative log-sum-exp of a linear classifier's logits (Liu et al., NeurIPS 2020)."""
    return -known["linear"].logits(features).logsumexp(-1)


def contrast(x: Tensor, features: Tensor, known: KnownImages) -> Float[Tensor, " n"]:
    """Standard deviation of the pixels; independent of the training images."""
    return x.double().flatten(1).std(1)


def detail_mahalanobis(x: Tensor, features: Tensor, known: KnownImages) -> Float[Tensor, " n"]:
    """As `mahalanobis`, for `detail`."""
    return known["detail"].distance(detail(x))


def detail(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 2"]:
    """Return logarithms of the total variation and of the mean squared Laplacian."""
    x = x.double()
    variation = x.diff(dim=-1).abs().flatten(1).mean(1) + x.diff(dim=-2).abs().flatten(1).mean(1)
    around = x[..., :-2, 1:-1] + x[..., 2:, 1:-1] + x[..., 1:-1, :-2] + x[..., 1:-1, 2:]
    energy = 1e8 * (x[..., 1:-1, 1:-1] * 4 - around).square().flatten(1).mean(1)  # ONNX drops +1e-8
    return torch.stack([(variation + 1e-3).log(), energy.log1p() - math.log(1e8)], dim=1)


DISTRIBUTION_SCORES = {f.__name__: f for f in (entropy, member_entropy, mutual_information)}
"""Scores of class distributions, available for every method."""
POINT_SCORES = {f.__name__: f for f in (reconstruction_error, ssim_distance, cosine_distance, step)}
"""Scores of reconstructions; the mean over trials is reported."""
LATENT_SCORES = {
    f.__name__: f
    for f in (feature_norm, circular_variance, mahalanobis, knn_distance, vote_diversity)
}
"""Scores of latent codes."""
IMAGE_SCORES = {
    f.__name__: f for f in (layer_mahalanobis, linear_energy, contrast, detail_mahalanobis)
}
"""Scores of an image before the first recursion, the same at all recursions."""
OOD_SCORE = "ood_score"
"""The calibrated combination of other scores (`attractor_ae.conformal`)."""
SCORES = (*DISTRIBUTION_SCORES, *POINT_SCORES, *LATENT_SCORES, *IMAGE_SCORES, OOD_SCORE)
