"""Scores of how unknown an image is: pure functions of what one pass of sampling gives.

Larger is more unknown, for every score. ``t`` counts the T trials (members), ``c`` the C classes,
``r`` the recursions; ``x_0`` is the image, ``x_{r+1}`` the reconstruction made from the code
``z_r``, and ``p_t`` the class distribution that the head reads off member t's ``z_r``.

| name | formula at recursion r | range |
|---|---|---|
| ``entropy`` | H(mean_t p_t) / ln C, the paper's score (PROTOCOL section 1) | [0, 1] |
| ``member_entropy`` | mean_t H(p_t) / ln C: how unsure the members are | [0, 1] |
| ``mutual_information`` | the difference of the two: how much they disagree | [0, 1] |
| ``reconstruction_error`` | mean_t rms(x_{r+1} - x_0): how far the image moved | [0, oo) |
| ``ssim_distance`` | mean_t (1 - SSIM(x_{r+1}, x_0)) | [0, 2] |
| ``step`` | mean_t rms(x_{r+1} - x_r): how much it still moves | [0, oo) |
| ``feature_norm`` | minus mean_t of the length of z_r: unknown images have short codes | (-oo, 0] |
| ``circular_variance`` | 1 - length of the mean over t of the codes' directions | [0, 1] |
| ``mahalanobis`` | mean_t min_c of the Mahalanobis distance of z_r to class c | [0, oo) |
| ``knn_distance`` | mean_t distance of z_r to the k-th nearest training code | [0, 2] |
| ``vote_diversity`` | 1 - sum_c v_c^2, v_c the share of members nearest to an image of c | [0, 1) |

Where the codes diverge under any member, the image and latent scores are 1e6, and ``vote_diversity`` 1.

rms is the root of the mean square over pixels and channels, in grey values of [0, 1]. The last four
look at directions: codes are scaled to unit length first, since the metric losses that shape them
compare directions, and since the known have the longer codes, which would pass for far away.
``circular_variance`` and ``vote_diversity`` ask whether the members land on one attractor.

Sources: entropy and mutual information of an ensemble, Gal, "Uncertainty in Deep Learning", 2016,
section 3.3; length of features, Dhamija et al., "Reducing Network Agnostophobia", NeurIPS 2018;
Mahalanobis distance with one covariance for all classes, Lee et al., NeurIPS 2018; distance of
features of unit length to the k-th nearest neighbour, Sun et al., ICML 2022; 1 - length of the mean
direction is the circular variance of directional statistics.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from attractor_ae.losses.reconstruction import structural_similarity

DISTRIBUTION_SCORES = ("entropy", "member_entropy", "mutual_information")
"""Scores that need the members' class distributions alone: every method has them."""
IMAGE_SCORES = ("reconstruction_error", "ssim_distance", "step")
"""Scores that compare images with their reconstructions."""
LATENT_SCORES = (
    "feature_norm",
    "circular_variance",
    "mahalanobis",
    "knn_distance",
    "vote_diversity",
)
"""Scores that compare latent codes with those of the training images."""
OOD_SCORE = "ood_score"
"""The score that combines others (`attractor_ae.conformal`)."""
SCORES = DISTRIBUTION_SCORES + IMAGE_SCORES + LATENT_SCORES + (OOD_SCORE,)
"""Every score."""

Scores = dict[str, Tensor]
"""Name of a score -> its values, float, of shape (recursions, n)."""


def distribution_scores(
    p: Float[Tensor, "recursions trials n classes"],
) -> dict[str, Float[Tensor, "recursions n"]]:
    """Return ``DISTRIBUTION_SCORES`` of the members' class distributions, which sum to 1."""
    largest = math.log(p.shape[-1])
    # Rounded in float32, a distribution sums to a little more or less than 1.
    p = p / p.sum(-1, keepdim=True)
    entropy = (_entropy(p.mean(1)) / largest).clamp_max(1)
    member_entropy = (_entropy(p) / largest).clamp_max(1).mean(1)
    # Not below 0, as rounding might have it: entropy is concave.
    disagreement = (entropy - member_entropy).clamp_min(0)
    return {
        "entropy": entropy,
        "member_entropy": member_entropy,
        "mutual_information": disagreement,
    }


def _entropy(p: Tensor) -> Tensor:
    return torch.special.entr(p).sum(-1)


def image_distances(
    original: Float[Tensor, "n c h w"],
    before: Float[Tensor, "n c h w"],
    after: Float[Tensor, "n c h w"],
) -> Float[Tensor, "3 n"]:
    """Return the terms of ``IMAGE_SCORES`` of one member, in their order.

    Parameters
    ----------
    original
        x_0.
    before, after
        x_r and x_{r+1}.
    """
    # A variance, as a difference of means of squares, is noise in 16 bits.
    with torch.autocast(original.device.type, enabled=False):
        original, before, after = original.float(), before.float(), after.float()
        similarity, _ = structural_similarity(after, original)
        return torch.stack([_rms(after - original), 1 - similarity.mean(1), _rms(after - before)])


def _rms(difference: Tensor) -> Tensor:
    return difference.square().mean((1, 2, 3)).sqrt()


@dataclass(frozen=True, eq=False)
class KnownLatents:
    """The training images' codes, which ``LATENT_SCORES`` compare others with.

    Attributes
    ----------
    codes
        Their directions: the codes at unit length, shape (recursions, m, latent).
    labels
        Class of each, int64 in 0 .. C - 1.
    centres
        Mean code of each class, whitened, shape (recursions, classes, latent).
    whitening
        W with W W^T the inverse of the codes' covariance around their class means, shape
        (recursions, latent, latent): Mahalanobis distances are Euclidean ones after it.
    k
        Which neighbour ``knn_distance`` measures the distance to.
    """

    codes: Float[Tensor, "recursions m latent"]
    labels: Int[Tensor, " m"]
    centres: Float[Tensor, "recursions classes latent"]
    whitening: Float[Tensor, "recursions latent latent"]
    k: int

    @classmethod
    def of(
        cls,
        latents: Float[Tensor, "recursions m latent"],
        labels: Int[Tensor, " m"],
        classes: int,
        k: int = 5,
    ) -> "KnownLatents":
        """Return what training codes amount to; ``k`` is at most their number."""
        codes = F.normalize(latents, dim=-1)
        centres = torch.stack([codes[:, labels == c].mean(1) for c in range(classes)], dim=1)
        around = codes - centres[:, labels]  # (recursions, m, latent)
        covariance = around.mT @ around / around.shape[1]
        # A little of the identity: few images do not show every direction.
        size = covariance.diagonal(dim1=1, dim2=2).mean(1)[:, None, None].clamp_min(1e-12)
        covariance += 0.01 * size * torch.eye(codes.shape[-1]).to(codes)
        whitening = torch.linalg.cholesky(torch.linalg.inv(covariance))
        return cls(codes, labels.clone(), centres @ whitening, whitening, min(k, codes.shape[1]))

    def scores(
        self, latents: Float[Tensor, "recursions trials n latent"]
    ) -> dict[str, Float[Tensor, "recursions n"]]:
        """Return ``LATENT_SCORES`` of codes."""
        recursions, trials, n, _ = latents.shape
        z = F.normalize(latents, dim=-1)
        flat = z.flatten(1, 2)  # (recursions, trials * n, latent)
        to_classes = torch.cdist(flat @ self.whitening, self.centres)
        to_codes = torch.cdist(flat, self.codes)  # (recursions, trials * n, m)
        nearest = to_codes.topk(self.k, largest=False)
        classes = self.labels[nearest.indices[..., 0]].unflatten(1, (trials, n))
        shares = F.one_hot(classes, self.centres.shape[1]).float().mean(1)

        def mean_over_trials(values: Tensor) -> Tensor:
            return values.reshape(recursions, trials, n).mean(1)

        return {
            "feature_norm": -latents.norm(dim=-1).mean(1),
            "circular_variance": 1 - z.mean(1).norm(dim=-1),
            "mahalanobis": mean_over_trials(to_classes.amin(-1)),
            "knn_distance": mean_over_trials(nearest.values[..., -1]),
            "vote_diversity": 1 - shares.square().sum(-1),
        }

    def state(self) -> dict[str, Tensor]:
        """Return the tensors that `from_state` restores it from."""
        return {
            "codes": self.codes,
            "labels": self.labels,
            "centres": self.centres,
            "whitening": self.whitening,
            "k": torch.tensor(self.k),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> "KnownLatents":
        """Return what `state` was taken of."""
        return cls(**{**state, "k": int(state["k"])})

    def to(self, device: torch.device) -> "KnownLatents":
        """Return it on another device."""
        return KnownLatents.from_state({k: t.to(device) for k, t in self.state().items()})
