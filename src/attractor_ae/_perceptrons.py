"""Training of scikit-learn's `MLPClassifier` for several inputs at once, as batched products.

Gradients are worked out by hand, which is faster than autograd on matrices of this size.
"""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

EPOCHS, BATCH, LEARNING_RATE, PENALTY, TOLERANCE, PATIENCE = 2000, 200, 1e-3, 1e-4, 1e-4, 10


def fit_perceptrons(
    x: Float[Tensor, "heads m width"],
    hidden: int,
    labels: Int[Tensor, " m"],
    classes: int,
    rng: np.random.Generator,
) -> list[Tensor]:
    """Return weights and biases of the hidden and the output layer, each with all heads first."""
    heads, count, width = x.shape
    shapes = [(width, hidden), (1, hidden), (hidden, classes), (1, classes)]
    sizes = [a * b for a, b in shapes]
    fans = [width + hidden, width + hidden, hidden + classes, hidden + classes]
    draws = [
        rng.uniform(-((6 / fan) ** 0.5), (6 / fan) ** 0.5, (heads, size))
        for fan, size in zip(fans, sizes, strict=True)
    ]  # Glorot's uniform distribution, for the biases too
    parameters = torch.cat([torch.from_numpy(draw) for draw in draws], dim=1).to(x)

    def views(flat: Tensor) -> list[Tensor]:
        parts = flat.split(sizes, dim=1)
        return [part.view(-1, *shape) for part, shape in zip(parts, shapes, strict=True)]

    targets = F.one_hot(labels, classes).to(x)
    active = torch.arange(heads, device=x.device)
    state = torch.stack([parameters.clone(), *torch.zeros(2, *parameters.shape).to(x)])
    best, stale = torch.full((heads,), torch.inf).to(x), torch.zeros(heads).to(x)
    step = 0
    for epoch in range(1, EPOCHS + 1):
        losses = torch.zeros_like(best)
        flat, m, v = state
        weights, gradient = views(flat), torch.empty_like(flat)
        gradients = views(gradient)
        order = torch.from_numpy(rng.permutation(count)).to(x.device)
        for rows in order.split(BATCH):
            losses += _gradients(x[:, rows], targets[rows], weights, gradients)
            step += 1
            m.lerp_(gradient, 0.1)
            v.lerp_(gradient * gradient, 0.001)
            rate = LEARNING_RATE * (1 - 0.999**step) ** 0.5 / (1 - 0.9**step)
            flat.addcdiv_(m, v.sqrt().add_(1e-8), value=-rate)
        losses /= count
        stale = torch.where(losses > best - TOLERANCE, stale + 1, 0)
        best = torch.minimum(best, losses)
        going = (stale <= PATIENCE) & (epoch < EPOCHS)
        if not bool(going.all()):
            parameters[active[~going]] = flat[~going]
            active, x, state = active[going], x[going], state[:, going]
            best, stale = best[going], stale[going]
            if not len(active):
                break
    return [part.contiguous() for part in views(parameters)]


def _gradients(
    x: Tensor, targets: Tensor, weights: list[Tensor], gradients: list[Tensor]
) -> Tensor:
    """Write the gradients of a batch; return the batch's summed loss, (heads,)."""
    w1, b1, w2, b2 = weights
    n, decay = x.shape[1], PENALTY / x.shape[1]
    h = torch.baddbmm(b1, x, w1).relu_()  # (heads, n, hidden)
    log_p = torch.baddbmm(b2, h, w2).log_softmax(-1)  # (heads, n, classes)
    penalty = (w1.square().sum((1, 2)) + w2.square().sum((1, 2))) * (decay / 2)
    loss = penalty * n - (log_p * targets).sum((1, 2))
    to_logits = (log_p.exp_() - targets) / n
    to_hidden = (to_logits @ w2.mT).mul_(h > 0)
    for left, right, w, b, i in ((x, to_hidden, w1, 1, 0), (h, to_logits, w2, 3, 2)):
        gradients[i].copy_(torch.baddbmm(w, left.mT, right, beta=decay))
        gradients[b].copy_(right.sum(1, keepdim=True))
    return loss
