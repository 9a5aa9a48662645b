"""Metric losses on latent codes: they pull codes of a class together and push classes apart.

PROTOCOL section 3. The implementations are from pytorch-metric-learning, with its defaults and no
miner: all pairs or triplets of a batch are used, except that "npair" uses one pair per class.
"ntxent" is its NTXentLoss, too, but computed from one matrix of similarities: the library's matrix
of all positive by all negative pairs takes half of the time of a training on features.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from attractor_ae._errors import check_known

MetricLoss = Callable[[Float[Tensor, "n latent"], Int[Tensor, " n"]], Float[Tensor, ""]]
"""Function (latent codes, labels) -> scalar to minimise."""

# Name -> (class in pytorch_metric_learning.losses, its non-default arguments).
_LOSSES: dict[str, tuple[str, dict[str, float]]] = {
    "triplet": ("TripletMarginLoss", {"margin": 0.2, "swap": True}),
    "angular": ("AngularLoss", {}),
    "npair": ("NPairsLoss", {}),
    "contrastive": ("ContrastiveLoss", {}),
}

METRIC_LOSSES: tuple[str, ...] = (*_LOSSES, "ntxent")
"""Names of the metric losses."""


def metric_loss(name: str) -> MetricLoss:
    """Return a metric loss of PROTOCOL section 3.

    * "triplet": Euclidean distances of codes scaled to unit length, margin 0.2, with swap: the
      negative is compared with the anchor or the positive, whichever is nearer. Mean over the
      triplets that violate the margin (Balntas et al., BMVC 2016).
    * "angular": alpha 40 degrees (Wang et al., ICCV 2017). The library scales anchors and
      positives, but not negatives, to unit length.
    * "npair": cosine similarities, one anchor and one positive of each class, the first two in the
      batch (Sohn, NIPS 2016; codes of unit length replace the penalty on their norms).
    * "ntxent": cosine similarities, temperature 0.07 (Chen et al., ICML 2020).
    * "contrastive": Euclidean distances of codes scaled to unit length, negative margin 1. Mean
      over the positive pairs plus mean over the negative ones within the margin (Hadsell et al.,
      CVPR 2006, but without squaring the distances).

    The loss is a function of latent codes, float (n, latent), and labels, integers (n,). It returns
    a scalar to minimise, computed in float32 even under autocast. The scalar may be 0 if the batch
    has only one class, or no two images of a class.
    """
    check_known("metric loss", name, METRIC_LOSSES)
    if name == "ntxent":
        loss = _ntxent
    else:
        # The library is slow to import and rarely needed.
        from pytorch_metric_learning import losses

        class_name, arguments = _LOSSES[name]
        loss = getattr(losses, class_name)(**arguments)

    def in_float32(
        latent: Float[Tensor, "n latent"], labels: Int[Tensor, " n"]
    ) -> Float[Tensor, ""]:
        with torch.autocast(latent.device.type, enabled=False):
            return loss(latent.float(), labels)

    return in_float32


def _ntxent(latent: Tensor, labels: Tensor, temperature: float = 0.07) -> Tensor:
    codes = F.normalize(latent, dim=-1)
    similarity = codes @ codes.mT / temperature  # (n, n)
    same = labels[:, None] == labels
    negatives = similarity.masked_fill(same, -1e9).logsumexp(1, keepdim=True)
    # -log(p / (p + sum of negatives)), for p the exponential of the similarity of a positive pair.
    losses = F.softplus(negatives - similarity)
    positive = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    return (losses * positive).sum() / positive.sum().clamp_min(1)
