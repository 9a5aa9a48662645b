"""Detectors as ensembles of torch-uncertainty."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attractor_ae._detector import Detector


class EnsembleModule(nn.Module):
    """Members of a detector as a module, see `as_ensemble_module`."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector, self.num_estimators = detector, detector.trials

    @torch.no_grad()
    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "members_n classes"]:
        """Return the logits of every member: all images of the first member, of the second, ..."""
        if self.detector.device != x.device:
            self.detector.to(x.device)
        p = self.detector.sample_proba(x)  # (members, n, classes)
        logits = p.clamp_min(torch.finfo(p.dtype).tiny).log()
        return logits.flatten(0, 1).to(x.device)  # (members * n, classes)


def as_ensemble_module(detector: Detector) -> EnsembleModule:
    """Return a module for torch-uncertainty's routines (``is_ensemble=True``) and metrics.

    It maps images (n, c, h, w) in [0, 1] to logits (members * n, classes), in the order that
    torch-uncertainty documents for ensembles, ``"(m b) c"``. A member is a trial of the detector,
    and the softmax of its logits is its class distribution, see `Detector.sample_proba`. Class i is
    ``classes_[i]``. The module has no parameters and is not trained; it moves the detector to the
    device of the images.
    """
    return EnsembleModule(detector)
