"""Perceptrons of several recursions at once, as batched products.

`fit_perceptrons` trains as scikit-learn's `MLPClassifier`; its gradients are worked out by hand,
which is faster than autograd on matrices of this size.
"""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

EPOCHS, BATCH, LEARNING_RATE, PENALTY, TOLERANCE, PATIENCE = 2000, 200, 1e-3, 1e-4, 1e-4, 10


def perceptrons(x: Tensor, weights: list[Tensor]) -> Tensor:
    """Apply a perceptron per recursion: (recursions, m, width) -> (recursions, m, classes)."""
    w1, b1, w2, b2 = weights
    return torch.baddbmm(b2, torch.baddbmm(b1, x, w1).relu(), w2)


def fit_perceptrons(
    x: Float[Tensor, "heads m width"],
    hidden: int,
    labels: Int[Tensor, " m"],
    classes: int,
    rng: np.random.Generator,
) -> list[Tensor]:
    """Return weights and biases of the hidden and the output layer, each with all heads first."""
    heads, count, width = x.shape
    layers = ((width, hidden), (1, hidden), (hidden, classes), (1, classes))
    bounds = [(6 / (a + b)) ** 0.5 for a, b in layers[::2] for _ in range(2)]  # Glorot's
    drawn = (rng.uniform(-b, b, (heads, *s)) for b, s in zip(bounds, layers, strict=True))
    w1, b1, w2, b2 = map(torch.from_numpy, drawn)
    # The output layer is transposed, which is faster for few classes; biases are at the end.
    first = (w1, w2.mT, b1, b2.mT)
    parameters = torch.cat([part.flatten(1) for part in first], dim=1).to(x)

    def views(flat: Tensor) -> list[Tensor]:
        parts = flat.split([part[0].numel() for part in first], dim=1)
        return [a.view(-1, *b.shape[1:]) for a, b in zip(parts, first, strict=True)]

    penalised = w1[0].numel() + w2[0].numel()
    targets = F.one_hot(labels, classes).to(x)
    x = x.transpose(0, 1).contiguous()  # (m, heads, width): rows are gathered at once
    active = torch.arange(heads, device=x.device)
    state = torch.stack([parameters.clone(), *torch.zeros(2, *parameters.shape).to(x)])
    best, stale = torch.full((heads,), torch.inf).to(x), torch.zeros(heads).to(x)
    step = 0
    for epoch in range(1, EPOCHS + 1):
        losses = torch.zeros_like(best)
        flat, m, v = state
        weights, gradient = views(flat), torch.empty_like(flat)
        gradients, matrices = views(gradient), flat[:, :penalised]
        order = torch.from_numpy(rng.permutation(count)).to(x.device)
        for rows in order.split(BATCH):
            losses += _gradients(x[rows].transpose(0, 1), targets[rows].T, weights, gradients)
            losses += matrices.square().sum(1) * (PENALTY / 2)
            gradient[:, :penalised].add_(matrices, alpha=PENALTY / len(rows))
            step += 1
            m.lerp_(gradient, 0.1)
            v.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            rate = LEARNING_RATE * (1 - 0.999**step) ** 0.5 / (1 - 0.9**step)
            flat.addcdiv_(m, v.sqrt().add_(1e-8), value=-rate)
        losses /= count
        stale = torch.where(losses > best - TOLERANCE, stale + 1, 0)
        best = torch.minimum(best, losses)
        going = (stale <= PATIENCE) & (epoch < EPOCHS)
        if not bool(going.all()):
            parameters[active[~going]] = flat[~going]
            active, x, state = active[going], x[:, going], state[:, going]
            best, stale = best[going], stale[going]
            if not len(active):
                break
    w1, w2, b1, b2 = views(parameters)
    return [part.contiguous() for part in (w1, b1, w2.mT, b2.mT)]


def _gradients(
    x: Tensor, targets: Tensor, weights: list[Tensor], gradients: list[Tensor]
) -> Tensor:
    """Write the gradients of the cross entropy of a batch; return its sum, (heads,)."""
    w1, w2, b1, b2 = weights
    h = torch.baddbmm(b1, x, w1).relu_()  # (heads, n, hidden)
    log_p = torch.baddbmm(b2, w2, h.mT).log_softmax(1)  # (heads, classes, n)
    loss = -(log_p * targets).sum((1, 2))
    to_logits = log_p.exp_().sub_(targets).div_(x.shape[1])
    to_hidden = torch.ops.aten.threshold_backward(to_logits.mT @ w2, h, 0)  # that of the ReLU
    gradients[0].copy_(x.mT @ to_hidden)
    gradients[1].copy_(to_logits @ h)
    gradients[2].copy_(to_hidden.sum(1, keepdim=True))
    gradients[3].copy_(to_logits.sum(2, keepdim=True))
    return loss
