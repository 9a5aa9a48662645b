"""Metric losses on latent codes, by name: codes of one class together, of other classes apart.

PROTOCOL section 3. They are those of pytorch-metric-learning with its defaults, without a miner:
every pair or triplet of a batch counts, except that "npair" takes one pair of each class.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attractor_ae._errors import unknown_name

MetricLoss = Callable[[Float[Tensor, "n latent"], Int[Tensor, " n"]], Float[Tensor, ""]]
"""(latent codes, labels) -> scalar to minimise"""

# Name -> (class in pytorch_metric_learning.losses, arguments that differ from its defaults).
_LOSSES: Mapping[str, tuple[str, Mapping[str, float]]] = MappingProxyType(
    {
        "triplet": ("TripletMarginLoss", {"margin": 0.2, "swap": True}),
        "angular": ("AngularLoss", {}),
        "npair": ("NPairsLoss", {}),
        "ntxent": ("NTXentLoss", {}),
        "contrastive": ("ContrastiveLoss", {}),
    }
)

METRIC_LOSSES: tuple[str, ...] = tuple(_LOSSES)
"""Names of the metric losses."""


def metric_loss(name: str) -> MetricLoss:
    """Return a metric loss of PROTOCOL section 3.

    * "triplet": Euclidean distances of codes scaled to unit length, margin 0.2, with swap: the
      negative is compared with the anchor or the positive, whichever it is nearer to. Mean over the
      triplets that violate the margin (Balntas et al., BMVC 2016).
    * "angular": alpha 40 degrees (Wang et al., ICCV 2017). The library scales anchors and positives
      to unit length but takes negatives as they are.
    * "npair": cosine similarities, one anchor and one positive of each class, the first two in the
      batch (Sohn, NIPS 2016, with codes of unit length in place of a penalty on their norms).
    * "ntxent": cosine similarities, temperature 0.07 (Chen et al., ICML 2020).
    * "contrastive": Euclidean distances of codes scaled to unit length, negative margin 1. Mean
      over the positive pairs plus mean over the negative ones within the margin (Hadsell et al.,
      CVPR 2006, with the distances not squared).

    It is a function of latent codes, float (n, latent), and labels, integers (n,), and returns a
    scalar to minimise, computed in float32 even under autocast; a batch without a pair of a class,
    or with a single class, may have the loss 0.

    Raises:
        AttractorError: If the name is not one of ``METRIC_LOSSES``.
    """
    if name not in _LOSSES:
        raise unknown_name("metric loss", name, METRIC_LOSSES)
    # The library is slow to import and needed by few.
    from pytorch_metric_learning import losses

    class_name, arguments = _LOSSES[name]
    loss = getattr(losses, class_name)(**arguments)

    def in_float32(
        latent: Float[Tensor, "n latent"], labels: Int[Tensor, " n"]
    ) -> Float[Tensor, ""]:
        with torch.autocast(latent.device.type, enabled=False):
            return loss(latent.float(), labels)

    return in_float32
