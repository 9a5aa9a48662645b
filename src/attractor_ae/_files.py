"""Reading files, and writing them atomically.

A file is written under a temporary name and renamed, so it is either complete or missing. Nothing
is pickled, so reading a file cannot run code.
"""

import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attractor_ae._errors import AttractorError

if TYPE_CHECKING:
    import torch

_REMEDY = "free space, or choose another folder"


@contextmanager
def atomic_path(path: Path, remedy: str = _REMEDY) -> Iterator[Path]:
    """Yield a temporary name in the folder of ``path``, and rename it when the block ends.

    If the block fails, ``path`` stays as it was and the temporary file is removed. ``remedy`` ends
    the message if the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise cannot_write(path, error, remedy) from None
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.umask(mask := os.umask(0))  # the umask can only be read by setting it
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
    except OSError as error:
        raise cannot_write(path, error, remedy) from None
    finally:
        temporary.unlink(missing_ok=True)


def file_name(label: str) -> str:
    """Return a label as a file name, without characters that some systems refuse.

    Examples:
        >>> file_name("MC-AE, fused"), file_name("sviro:tesla")
        ('MC-AE-fused', 'sviro-tesla')
    """
    return re.sub(r"[^\w.-]+", "-", label).strip("-.") or "unnamed"


def cannot_write(path: Path, error: OSError, remedy: str = _REMEDY) -> AttractorError:
    """Return the error for a path that cannot be written."""
    return AttractorError(
        f"{error.filename or path}: cannot be written ({error.strerror or error}); {remedy}"
    )


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(values, indent=2, allow_nan=False) + "\n")


def write_tensors(
    path: Path, tensors: Mapping[str, "torch.Tensor"], metadata: Mapping[str, str]
) -> None:
    """Write tensors with metadata to a safetensors file, atomically."""
    from safetensors.torch import save

    data = save({k: t.detach().cpu().contiguous() for k, t in tensors.items()}, dict(metadata))
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def read_tensors(path: Path) -> tuple[dict[str, "torch.Tensor"], dict[str, str]]:
    """Read a safetensors file: its tensors, on the CPU, and its metadata."""
    from safetensors import SafetensorError, safe_open

    if not os.path.isfile(path):  # noqa: PTH113 - returns False if access is denied
        raise AttractorError(f"{path}: no such file; create it again")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise AttractorError(
            f"{path}: is truncated or damaged ({error}); create it again"
        ) from None


def load_weights(
    model: "torch.nn.Module", tensors: Mapping[str, "torch.Tensor"], path: Path
) -> None:
    """Load ``tensors``, which were read from ``path``, into ``model``."""
    try:
        model.load_state_dict(dict(tensors))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise AttractorError(
            f"{path}: does not contain the weights of this model ({reason}); "
            "use the config that they were trained with"
        ) from None
