"""Distances and nearest neighbours, in operations that ONNX has, too."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

_ROWS = 1024  # points whose neighbours are looked for at once


def distances(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """Return the Euclidean distances between the rows of two matrices."""
    if torch.compiler.is_compiling():  # ONNX does not have cdist
        squares = a.square().sum(-1, keepdim=True) + b.square().sum(-1) - 2 * a @ b.mT
        return squares.clamp_min(0).sqrt()
    return torch.cdist(a, b)


def votes(
    x: Float[Tensor, "n d"],
    known: Float[Tensor, "m d"],
    labels: Int[Tensor, " m"],
    classes: int,
    k: int,
) -> Float[Tensor, "n classes"]:
    """Return the votes of the k nearest neighbours (all, if fewer), weighted by inverse distance.

    As scikit-learn's `KNeighborsClassifier`: if some neighbours are equal to a point, only they
    vote. Computed in float64.
    """
    found, known = [], known.double()
    for some in [x] if torch.compiler.is_compiling() else x.split(_ROWS):
        near = distances(some.double(), known).topk(min(k, len(known)), largest=False)
        weights = 1 / near.values  # (rows, k)
        same = weights.isinf()
        weights = torch.where(same.any(-1, keepdim=True), same.double(), weights)
        of_each = weights[..., None] * F.one_hot(labels[near.indices], classes)
        found.append(of_each.sum(1) / weights.sum(1, keepdim=True))
    return torch.cat(found)
