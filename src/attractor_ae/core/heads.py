"""Heads: one classifier per recursion, fitted on latent codes (PROTOCOL section 4)."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from attractor_ae._errors import check_known
from attractor_ae._logistic import best_temperature
from attractor_ae._neighbours import votes
from attractor_ae._perceptrons import fit_perceptrons, perceptrons
from attractor_ae._random import Stream, generator

HEAD_INPUTS = ("code", "path")
"""Input of the head of recursion r: z_r, as published, or z_0 .. z_r concatenated."""


class Head(ABC):
    """One classifier per recursion, on one of ``HEAD_INPUTS``; ``state`` has the fitted tensors."""

    def __init__(self, reads: str = "code", state: Mapping[str, Tensor] | None = None) -> None:
        check_known("head input", reads, HEAD_INPUTS)
        self.reads = reads
        self.state: dict[str, Tensor] = dict(state or {})

    @abstractmethod
    def fit(
        self,
        latents: Float[Tensor, "recursions m latent"],
        labels: Int[Tensor, " m"],
        classes: int,
        seed: int,
    ) -> "Head":
        """Fit on finite z_r of training images, with labels in 0 .. classes - 1."""

    @abstractmethod
    def predict_proba(
        self, latents: Float[Tensor, "computed m latent"], at: Sequence[int]
    ) -> Float[Tensor, "recursions m classes"]:
        """Return class probabilities at recursions ``at``, float32, from the codes z_0, z_1, ..."""

    def calibrate(  # noqa: B027, not every head can be calibrated
        self, latents: Float[Tensor, "recursions trials n latent"], labels: Int[Tensor, " n"]
    ) -> None:
        """Fit the temperature, if the head has one, on known images."""

    def _input(self, latents: Tensor, r: int) -> Tensor:
        """Return the input of head r from all codes: (m, latent), or (m, (r + 1) * latent)."""
        return latents[r] if self.reads == "code" else latents[: r + 1].transpose(0, 1).flatten(1)

    def _inputs(self, latents: Tensor, at: Sequence[int], recursions: int) -> Tensor:
        """Return the inputs of heads, zero-padded to one width so that they can be batched."""
        width = latents.shape[-1] * (recursions if self.reads == "path" else 1)
        inputs = [self._input(latents, r) for r in at]
        return torch.stack([F.pad(one, (0, width - one.shape[-1])) for one in inputs])


class MLPHead(Head):
    """A multilayer perceptron per recursion, with one hidden layer of L units.

    All recursions are trained at once as batched matrix products: AdamW, 60 epochs, batch 256,
    learning rate 3e-3 with cosine decay to zero, weight decay 1e-2.
    """

    EPOCHS, BATCH, LEARNING_RATE, WEIGHT_DECAY = 60, 256, 3e-3, 1e-2

    def fit(self, latents: Tensor, labels: Tensor, classes: int, seed: int) -> "MLPHead":
        """Fit all perceptrons at once."""
        recursions, count, hidden = latents.shape
        rng = generator(seed, Stream.HEAD_TRAINING)
        # Standardise each feature, separately for each recursion, as recursions differ in scale.
        self.state = {
            "mean": latents.mean(1, keepdim=True),  # (recursions, 1, latent)
            "scale": latents.std(1, keepdim=True).clamp_min(1e-6),
            "temperature": latents.new_ones(recursions, 1, 1),
        }
        x = self._inputs(self._standardised(latents), range(recursions), recursions)
        width = x.shape[-1]

        def uniform(fan_in: int, *shape: int) -> Tensor:
            # The default of torch.nn.Linear, the same draw for every recursion.
            values = torch.from_numpy(rng.uniform(-(fan_in**-0.5), fan_in**-0.5, shape)).to(x)
            return values.expand(recursions, *shape).clone().requires_grad_()

        weights = [uniform(width, width, hidden), uniform(width, 1, hidden)]
        weights += [uniform(hidden, hidden, classes), uniform(hidden, 1, classes)]
        adam = torch.optim.AdamW(weights, lr=self.LEARNING_RATE, weight_decay=self.WEIGHT_DECAY)
        steps = self.EPOCHS * -(-count // self.BATCH)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
        with torch.enable_grad():
            for _ in range(self.EPOCHS):
                order = torch.from_numpy(rng.permutation(count)).to(x.device)
                for rows in order.split(self.BATCH):
                    adam.zero_grad()
                    logits = perceptrons(x[:, rows], weights)  # (recursions, rows, classes)
                    target = labels[rows].expand(recursions, -1)
                    # The sum over recursions gives each head the gradient of separate training.
                    loss = F.cross_entropy(logits.flatten(0, 1), target.flatten()) * recursions
                    loss.backward()
                    adam.step()
                    schedule.step()
        self.state |= {f"weights.{i}": w.detach() for i, w in enumerate(weights)}
        return self

    def calibrate(self, latents: Tensor, labels: Tensor) -> None:
        """Set the temperature of each recursion to its `best_temperature`."""
        logits = self._logits(latents.flatten(1, 2), range(len(latents)))
        logits = logits.unflatten(1, latents.shape[1:3])
        found = [best_temperature(of_one, labels) for of_one in logits]
        self.state["temperature"] = logits.new_tensor(found)[:, None, None]

    def predict_proba(self, latents: Tensor, at: Sequence[int]) -> Tensor:
        """Return the softmax of the logits divided by their temperature."""
        return (self._logits(latents, at) / self.state["temperature"][list(at)]).softmax(-1)

    def _logits(self, latents: Tensor, at: Sequence[int]) -> Tensor:
        weights = [self.state[f"weights.{i}"][list(at)] for i in range(4)]
        inputs = self._inputs(self._standardised(latents), at, len(self.state["mean"]))
        return perceptrons(inputs, weights)

    def _standardised(self, latents: Tensor) -> Tensor:
        count = len(latents)
        return (latents - self.state["mean"][:count]) / self.state["scale"][:count]


class PaperMLPHead(Head):
    """The perceptron of the released code, one per recursion: scikit-learn's `MLPClassifier`.

    The algorithm of ``MLPClassifier(hidden_layer_sizes=L, max_iter=2000)``: Adam, batches of 200,
    an L2 penalty, and a stop once the loss has not decreased by 1e-4 for more than ten epochs. For
    two classes, scikit-learn has one logistic output instead of two softmax outputs.
    """

    def fit(self, latents: Tensor, labels: Tensor, classes: int, seed: int) -> "PaperMLPHead":
        """Fit all perceptrons at once; a perceptron that has stopped leaves the batch."""
        x = self._inputs(latents, range(len(latents)), len(latents))
        rng = generator(seed, Stream.HEAD_TRAINING)
        weights = fit_perceptrons(x, latents.shape[-1], labels, classes, rng)
        self.state = {f"weights.{i}": w for i, w in enumerate(weights)}
        return self

    def predict_proba(self, latents: Tensor, at: Sequence[int]) -> Tensor:
        """Return the softmax of the logits."""
        weights = [self.state[f"weights.{i}"] for i in range(4)]
        inputs = self._inputs(latents, at, len(weights[0]))
        return perceptrons(inputs, [w[list(at)] for w in weights]).softmax(-1)


class KNNHead(Head):
    """Vote of the k = 50 nearest neighbours (all, if fewer), weighted by inverse distance."""

    K = 50

    def fit(self, latents: Tensor, labels: Tensor, classes: int, seed: int) -> "KNNHead":
        """Store the codes; nothing is random."""
        numbers = torch.tensor([self.K, classes])
        self.state = {"latents": latents, "labels": labels, "numbers": numbers}
        return self

    def predict_proba(self, latents: Tensor, at: Sequence[int]) -> Tensor:
        """Return the votes of the neighbours."""
        known, labels = self.state["latents"], self.state["labels"]
        k, classes = self.state["numbers"].tolist()
        inputs = [(self._input(latents, r), self._input(known, r)) for r in at]
        return torch.stack([votes(*pair, labels, classes, k) for pair in inputs]).float()


HEADS: dict[str, type[Head]] = {"mlp": MLPHead, "paper-mlp": PaperMLPHead, "knn": KNNHead}


def make_head(name: str, reads: str, state: Mapping[str, Tensor] | None = None) -> Head:
    """Return a head by name, with a stored state if given."""
    check_known("head", name, HEADS)
    return HEADS[name](reads, state)
