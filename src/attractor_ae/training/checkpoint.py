"""The state of an unfinished training in one file."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from attractor_ae._detector import part_of
from attractor_ae._errors import AttractorError
from attractor_ae._files import load_weights, read_tensors, write_tensors

_STATE = {
    torch.optim.Adam: frozenset({"step", "exp_avg", "exp_avg_sq"}),
    torch.optim.AdamW: frozenset({"step", "exp_avg", "exp_avg_sq"}),
    torch.optim.SGD: frozenset({"momentum_buffer"}),
}
"""Names of the state tensors per parameter, by optimiser."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Weights and optimiser after a number of finished epochs.

    Random numbers have no state: they are derived from the seed and the epoch. ``images`` is the
    `ImageSet.digest` of the training images. ``restarted``: whether the training has started again.
    Tensors are ``weights.NAME`` and
    ``optimizer.PARAMETER.NAME``; ``scaler`` is the state of the gradient scaler, if there is one.
    """

    epoch: int
    images: str
    restarted: bool
    tensors: dict[str, Tensor]
    scaler: dict[str, float]

    @classmethod
    def take(
        cls,
        epoch: int,
        images: str,
        restarted: bool,
        trained: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
    ) -> "Checkpoint":
        """Copy the state of a training."""
        tensors = {f"weights.{name}": t for name, t in trained.state_dict().items()}
        for index, kept in optimizer.state_dict()["state"].items():
            tensors |= {
                f"optimizer.{index}.{name}": value
                for name, value in kept.items()
                if isinstance(value, Tensor)
            }
        copies = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
        return cls(epoch, images, restarted, copies, scaler.state_dict())

    def restore(
        self,
        trained: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        path: Path,
    ) -> None:
        """Restore the state; ``path`` is for the error message if it does not fit."""
        damaged = AttractorError(
            f"{path}: does not fit this network; remove the run folder and train again"
        )
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        states: dict[int, dict[str, Tensor]] = {}
        for index, parameter in enumerate(parameters):
            states[index] = state = part_of(self.tensors, f"optimizer.{index}")
            if state.keys() != _STATE[type(optimizer)]:
                raise damaged
            for key, tensor in state.items():
                if tensor.shape == parameter.shape:
                    # Fused optimisers read state and parameter in memory order, so both need the
                    # same layout; the file is in row-major order.
                    state[key] = torch.empty_like(parameter).copy_(tensor)
        load_weights(trained, part_of(self.tensors, "weights"), path)
        optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
        if self.scaler:
            scaler.load_state_dict(self.scaler)

    def write(self, path: Path) -> None:
        """Write the checkpoint atomically."""
        metadata = {
            "epoch": str(self.epoch),
            "images": self.images,
            "restarted": json.dumps(self.restarted),
            "scaler": json.dumps(self.scaler),
        }
        write_tensors(path, self.tensors, metadata)

    @classmethod
    def read(cls, path: Path) -> "Checkpoint":
        """Read a checkpoint."""
        tensors, metadata = read_tensors(path)
        try:
            scaler = json.loads(metadata["scaler"])
            restarted = json.loads(metadata["restarted"])
            return cls(int(metadata["epoch"]), metadata["images"], restarted, tensors, scaler)
        except (KeyError, ValueError):
            raise AttractorError(
                f"{path}: is not a checkpoint; remove it and train without --resume"
            ) from None
