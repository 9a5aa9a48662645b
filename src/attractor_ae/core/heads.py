"""Classifiers that read the latent codes, one for each recursion (PROTOCOL section 4)."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from attractor_ae._errors import unknown_name
from attractor_ae._random import Stream, generator
from attractor_ae.experiment.config import HeadInput

HEAD_INPUTS: tuple[str, ...] = get_args(HeadInput)
"""What a head may read at recursion r: z_r, or z_0 .. z_r."""


class Head(ABC):
    """A classifier for each recursion, fitted on latent codes.

    Fitted state is tensors alone, so that it can be stored without code.

    Parameters
    ----------
    reads
        What the classifier of recursion r sees: ``"code"``, z_r, as in the original; or ``"path"``,
        z_0 .. z_r side by side, which knows where a code came from and so loses nothing on the way.
    """

    def __init__(self, reads: str = "code") -> None:
        if reads not in HEAD_INPUTS:
            raise unknown_name("head input", reads, HEAD_INPUTS)
        self.reads = reads

    @abstractmethod
    def fit(
        self,
        latents: Float[Tensor, "recursions m latent"],
        labels: Int[Tensor, " m"],
        classes: int,
        seed: int,
    ) -> "Head":
        """Fit the classifier of every recursion on the codes of that recursion.

        Parameters
        ----------
        latents
            z_r of the training images, finite.
        labels
            int64 in 0 .. classes - 1.
        classes
            Number of classes.
        seed
            What the fit's random numbers are derived from.
        """

    @abstractmethod
    def predict_proba(
        self, latents: Float[Tensor, "recursions m latent"]
    ) -> Float[Tensor, "recursions m classes"]:
        """Return class probabilities, float32, on the device of ``latents``."""

    def calibrate(  # noqa: B027, as most heads have nothing to do
        self, latents: Float[Tensor, "recursions trials n latent"], labels: Int[Tensor, " n"]
    ) -> None:
        """Make the members' mean distribution as sure as it is right, if the head can.

        Parameters
        ----------
        latents
            Codes of known images that nothing was fitted on, finite.
        labels
            int64 in 0 .. classes - 1.
        """

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Return the fitted state; `from_state` restores it."""

    @classmethod
    @abstractmethod
    def from_state(cls, state: Mapping[str, Tensor], reads: str = "code") -> "Head":
        """Return the head with that fitted state."""

    @abstractmethod
    def to(self, device: torch.device) -> "Head":
        """Move the fitted state to a device, and return self."""


class MLPHead(Head):
    """A multilayer perceptron with one hidden layer, as wide as the latent code.

    All recursions' perceptrons are trained at once, as one batched matrix product, which takes
    seconds where training them one by one takes minutes.

    Parameters
    ----------
    reads
        As for `Head`.
    epochs, batch_size, learning_rate, weight_decay
        Settings of the AdamW optimiser; the learning rate falls to zero along half a cosine.
    """

    def __init__(
        self,
        reads: str = "code",
        epochs: int = 60,
        batch_size: int = 256,
        learning_rate: float = 3e-3,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(reads)
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay

    def fit(
        self,
        latents: Float[Tensor, "recursions m latent"],
        labels: Int[Tensor, " m"],
        classes: int,
        seed: int,
    ) -> "MLPHead":
        """Fit the perceptrons (arguments as for `Head.fit`)."""
        recursions, count, hidden = latents.shape
        device = latents.device
        rng = generator(seed, Stream.HEAD_TRAINING)
        # Codes of different recursions differ in scale: standardise each feature of each.
        self.mean_ = latents.mean(1, keepdim=True)  # (recursions, 1, latent)
        self.scale_ = latents.std(1, keepdim=True).clamp_min(1e-6)
        x = self._inputs(latents)
        width = x.shape[-1]

        def uniform(fan_in: int, *shape: int) -> Tensor:
            # As torch.nn.Linear initialises, the same draw for every recursion.
            bound = fan_in**-0.5
            values = torch.from_numpy(rng.uniform(-bound, bound, shape)).to(device, torch.float32)
            return values.expand(recursions, *shape).clone().requires_grad_()

        weights = [
            uniform(width, width, hidden),
            uniform(width, 1, hidden),
            uniform(hidden, hidden, classes),
            uniform(hidden, 1, classes),
        ]
        optimizer = torch.optim.AdamW(
            weights, lr=self.learning_rate, weight_decay=self.weight_decay
        )
        steps = self.epochs * -(-count // self.batch_size)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        with torch.enable_grad():
            for _ in range(self.epochs):
                order = torch.from_numpy(rng.permutation(count)).to(device)
                for rows in order.split(self.batch_size):
                    optimizer.zero_grad()
                    logits = _perceptrons(x[:, rows], weights)  # (recursions, rows, classes)
                    target = labels[rows].expand(recursions, -1)
                    # The sum over recursions: they are separate problems.
                    loss = F.cross_entropy(logits.flatten(0, 1), target.flatten()) * recursions
                    loss.backward()
                    optimizer.step()
                    schedule.step()
        self.weights_ = [w.detach() for w in weights]
        self.temperature_ = torch.ones(recursions, 1, 1, device=device)
        return self

    def calibrate(
        self, latents: Float[Tensor, "recursions trials n latent"], labels: Int[Tensor, " n"]
    ) -> None:
        """Divide each recursion's outputs by their `best_temperature`."""
        logits = self._logits(latents.flatten(1, 2)).unflatten(1, latents.shape[1:3])
        found = [best_temperature(of_one, labels) for of_one in logits]
        self.temperature_ = self.temperature_.new_tensor(found)[:, None, None]

    def predict_proba(
        self, latents: Float[Tensor, "recursions m latent"]
    ) -> Float[Tensor, "recursions m classes"]:
        """Return the softmax of the perceptrons' outputs, divided by their temperature."""
        return (self._logits(latents) / self.temperature_).softmax(-1)

    def _logits(self, latents: Tensor) -> Tensor:
        return _perceptrons(self._inputs(latents), self.weights_)

    def _inputs(self, latents: Tensor) -> Tensor:
        """Return what the perceptrons read: one width for all, for they are one product."""
        x = (latents - self.mean_) / self.scale_
        if self.reads == "code":
            return x
        paths = [_path(x, r) for r in range(len(x))]
        most = paths[-1].shape[-1]  # recursions * latent; zero beyond z_r
        return torch.stack([F.pad(path, (0, most - path.shape[-1])) for path in paths])

    def state(self) -> dict[str, Tensor]:
        """Return means, scales, temperatures, weights and biases."""
        return {
            "mean": self.mean_,
            "scale": self.scale_,
            "temperature": self.temperature_,
            **{f"weights.{i}": w for i, w in enumerate(self.weights_)},
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor], reads: str = "code") -> "MLPHead":
        """Return the head with that fitted state."""
        head = cls(reads)
        head.mean_, head.scale_ = state["mean"], state["scale"]
        head.temperature_ = state["temperature"]
        head.weights_ = [state[f"weights.{i}"] for i in range(4)]
        return head

    def to(self, device: torch.device) -> "MLPHead":
        """Move the fitted state to a device, and return self."""
        self.mean_, self.scale_ = self.mean_.to(device), self.scale_.to(device)
        self.temperature_ = self.temperature_.to(device)
        self.weights_ = [w.to(device) for w in self.weights_]
        return self


def _path(latents: Tensor, r: int) -> Tensor:
    """Return z_0 .. z_r side by side: (recursions, m, latent) -> (m, (r + 1) * latent)."""
    return latents[: r + 1].transpose(0, 1).flatten(1)


def _perceptrons(x: Tensor, weights: list[Tensor]) -> Tensor:
    """Apply one perceptron a recursion: (recursions, m, latent) -> (recursions, m, classes)."""
    w1, b1, w2, b2 = weights
    return torch.baddbmm(b2, torch.baddbmm(b1, x, w1).relu(), w2)


def best_temperature(
    logits: Float[Tensor, "members n classes"], labels: Int[Tensor, " n"]
) -> float:
    """Return what to divide logits by for the greatest likelihood of known labels.

    After Guo et al., "On Calibration of Modern Neural Networks", ICML 2017; here it is the
    members' mean distribution whose likelihood counts, as it is what is reported.

    Parameters
    ----------
    logits
        What each member says of images that nothing was fitted on, finite.
    labels
        int64 in 0 .. classes - 1.

    Returns
    -------
    float
        Between exp(-3) and exp(3).
    """
    logits = logits.double()
    index = labels[None, :, None].expand(len(logits), -1, 1)

    def loss(log_temperature: float) -> float:
        p = (logits / math.exp(log_temperature)).softmax(-1).gather(-1, index).mean(0)
        return float(-p.clamp_min(1e-12).log().mean())

    return math.exp(minimize_scalar(loss, bounds=(-3.0, 3.0), method="bounded").x)


class KNNHead(Head):
    """k nearest neighbours, weighted by the inverse of their distance.

    Parameters
    ----------
    reads
        As for `Head`.
    k
        Number of neighbours; all training codes where there are fewer.
    """

    def __init__(self, reads: str = "code", k: int = 50) -> None:
        super().__init__(reads)
        self.k = k

    def fit(
        self,
        latents: Float[Tensor, "recursions m latent"],
        labels: Int[Tensor, " m"],
        classes: int,
        seed: int,
    ) -> "KNNHead":
        """Keep the codes (arguments as for `Head.fit`; nothing is random)."""
        self.latents_, self.labels_, self.classes_ = latents.cpu(), labels.cpu(), classes
        self._neighbours = [
            KNeighborsClassifier(min(self.k, len(labels)), weights="distance").fit(
                self._inputs(self.latents_, r), self.labels_.numpy()
            )
            for r in range(len(self.latents_))
        ]
        return self

    def predict_proba(
        self, latents: Float[Tensor, "recursions m latent"]
    ) -> Float[Tensor, "recursions m classes"]:
        """Return the neighbours' votes; a code that was trained on votes alone."""
        # scikit-learn has columns for the classes that it saw alone, in order.
        seen = torch.unique(self.labels_)
        votes = torch.zeros(*latents.shape[:2], self.classes_)
        codes = latents.cpu()
        for r, model in enumerate(self._neighbours):
            found = model.predict_proba(self._inputs(codes, r))
            votes[r, :, seen] = torch.from_numpy(found).float()
        return votes.to(latents.device)

    def _inputs(self, latents: Tensor, r: int) -> NDArray[np.float32]:
        """Return what the neighbours of recursion r are found by."""
        return (latents[r] if self.reads == "code" else _path(latents, r)).numpy()

    def state(self) -> dict[str, Tensor]:
        """Return the training codes and their labels."""
        numbers = torch.tensor([self.k, self.classes_])
        return {"latents": self.latents_, "labels": self.labels_, "numbers": numbers}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor], reads: str = "code") -> "KNNHead":
        """Return the head with that fitted state."""
        k, classes = state["numbers"].tolist()
        return cls(reads, k).fit(state["latents"], state["labels"], classes, seed=0)

    def to(self, device: torch.device) -> "KNNHead":
        """Return self: scikit-learn computes on the CPU."""
        return self


HEADS: dict[str, type[Head]] = {"mlp": MLPHead, "knn": KNNHead}


def head_class(name: str) -> type[Head]:
    """Return the class of a head by its name in the config.

    Raises
    ------
    AttractorError
        If there is no head of that name.
    """
    if name not in HEADS:
        raise unknown_name("head", name, HEADS)
    return HEADS[name]
