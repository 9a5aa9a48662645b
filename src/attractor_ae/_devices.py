"""Device and precision of computations."""

import torch

from attractor_ae._errors import AttractorError, check_known

PRECISIONS = ("auto", "float32", "bfloat16", "float16")


def resolve_device(name: str = "auto", gpu: str = "0") -> torch.device:
    """Return the device with this name, after checking that PyTorch can compute on it.

    ``"auto"``: the GPU numbered ``gpu`` if PyTorch sees one, else the CPU. As in
    ``CUDA_VISIBLE_DEVICES``, of several numbers the first is used, and "" and "-1" mean no GPU.
    """
    if name == "auto":
        number = gpu.split(",")[0]
        some = number not in ("", "-1") and torch.cuda.is_available()
        name = f"cuda:{number}" if some else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).add_(1).item()
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise AttractorError(
            f"device {name!r} cannot be used ({reason}); use auto, cpu, or a device of this machine"
        ) from None
    return device


def mixed_precision(device: torch.device, precision: str) -> torch.dtype:
    """Return the floating-point dtype of convolutions.

    ``"auto"``: a 16-bit dtype if the device has instructions for it, else float32.
    """
    check_known("precision", precision, PRECISIONS)
    if precision != "auto":
        return getattr(torch, precision)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    # Without these instructions PyTorch emulates the dtype, which is slower than float32.
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    fast = any(getattr(torch.cpu, name, lambda: False)() for name in names)
    return torch.bfloat16 if device.type == "cpu" and fast else torch.float32


def pixels(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return images, uint8 in 0..255 or float in [0, 1], as float32 in [0, 1] on a device.

    Features of images, (n, features), are returned as float32.
    """
    moved = images.detach().to(device)
    return moved.float().div_(255) if moved.dtype == torch.uint8 else moved.float()
