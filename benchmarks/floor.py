"""The floor: the convolutions and linears of an autoencoder, and nothing else.

No masks, no activations, no heads, no augmentation, no structural loss: PyTorch's own functions
with the weights of the model that is measured, in its dtype and layout.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from attractor_ae import Autoencoder


def encode(model: Autoencoder, x: Tensor) -> Tensor:
    """Return what the encoder's layers make of images, by PyTorch alone."""
    for layer in model.encoder:
        x = F.conv2d(x, layer.weight, layer.bias, stride=2, padding=1)
    for layer in (model.encoder_linear, model.latent):
        x = F.linear(x.flatten(1), layer.weight, layer.bias)
    return x


def decode(model: Autoencoder, z: Tensor) -> Tensor:
    """Return what the decoder's layers make of codes, by PyTorch alone."""
    for layer in model.decoder_linear:
        z = F.linear(z, layer.weight, layer.bias)
    side = model.image_shape[-1] // 16
    x = z.unflatten(1, (-1, side, side))
    for layer in (*model.decoder, model.output):
        x = F.conv_transpose2d(x, layer.weight, layer.bias, stride=2, padding=1)
    return x


def _computing_in(precision: torch.dtype) -> AbstractContextManager[object]:
    """Return the context in which convolutions are computed in ``precision``."""
    return nullcontext() if precision == torch.float32 else torch.autocast("cpu", precision)


@torch.no_grad()
def score(
    model: Autoencoder,
    images: Tensor,
    *,
    trials: int,
    recursions: int,
    batch_size: int,
    precision: torch.dtype,
) -> None:
    """Pass float images as often as scoring must.

    For each trial that is ``recursions`` passes of the encoder and ``recursions - 1`` of the
    decoder: no code depends on the last reconstruction.
    """
    for batch in images.split(batch_size):
        first = batch.contiguous(memory_format=torch.channels_last)
        with _computing_in(precision):
            for _ in range(trials):
                x = first
                for recursion in range(recursions):
                    z = encode(model, x)
                    if recursion + 1 < recursions:
                        x = decode(model, z)


def train(
    model: Autoencoder, images: Tensor, steps: int, *, batch_size: int, precision: torch.dtype
) -> None:
    """Do ``steps`` steps, forward, backward and Adam, on the mean of the output."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-9, fused=True)
    batches = [
        batch.contiguous(memory_format=torch.channels_last) for batch in images.split(batch_size)
    ]
    for step in range(steps):
        optimizer.zero_grad()
        with _computing_in(precision):
            loss = decode(model, encode(model, batches[step % len(batches)])).mean()
        loss.backward()
        optimizer.step()
