"""Training through recursion: the network's earlier outputs are given back to it as inputs.

A known image is an attractor if the network takes its own output for it back to the image. That is
asked for here: a share of a batch's inputs are what the network made of the same images when it met
them before, under another mask, and the target stays the clean image. An output that was made of an
output is one recursion deeper, so depths follow a geometric distribution. It costs no further pass.
"""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor


class Feedback:
    """The last output for each training image.

    Parameters
    ----------
    images
        The training images, which stand for the first outputs.
    share
        Probability that an input is an earlier output, in [0, 1].

    Attributes
    ----------
    outputs
        float16, of the shape of ``images``, on their device: half the memory, and a rounding far
        below what a mask changes.
    """

    def __init__(self, images: UInt8[Tensor, "n c h w"], share: float) -> None:
        self.share = share
        self.outputs = images.half().div_(255)

    def mix(
        self, x: Float[Tensor, "m c h w"], rows: NDArray[np.int64], rng: np.random.Generator
    ) -> Float[Tensor, "m c h w"]:
        """Return inputs of which some are replaced by earlier outputs.

        Parameters
        ----------
        x
            Augmented images.
        rows
            Where they are among the training images, int64 of shape (m,).
        rng
            What is replaced is drawn from it.
        """
        chosen = rng.random(len(rows)) < self.share
        mixed = x.clone()
        mixed[torch.from_numpy(chosen).to(x.device)] = self.outputs[
            torch.from_numpy(rows[chosen]).to(x.device)
        ].to(x.dtype)
        return mixed

    def keep(self, output: Float[Tensor, "m c h w"], rows: NDArray[np.int64]) -> None:
        """Remember what the network made of the images at ``rows``, whatever the input was."""
        self.outputs[torch.from_numpy(rows).to(output.device)] = output.detach().half()
