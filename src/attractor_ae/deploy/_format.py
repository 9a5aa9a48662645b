"""The model file: one safetensors file, with a digest over header and tensors together.

The metadata has the format's name and version, the metadata of the detector, and everything else as
JSON. The digest is the SHA-256 of the file in which the digest itself is 64 zeros.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from attractor_ae import __version__
from attractor_ae._errors import AttractorError
from attractor_ae._files import atomic_path

_FORMAT = "attractor-ae model"
_VERSION = 1
_ZEROS = "0" * 64
_FIELD = b'"sha256":"'  # in JSON text inside a value, the quotes are escaped


def write_model(
    path: Path, tensors: Mapping[str, Tensor], detector: Mapping[str, str], facts: Mapping[str, Any]
) -> str:
    """Write a model file atomically, and return its digest.

    Args:
        tensors: All tensors.
        detector: Metadata of the detector.
        facts: JSON values.
    """
    from safetensors.torch import save

    metadata = {
        "format": _FORMAT,
        "format_version": str(_VERSION),
        "written_by": __version__,
        "sha256": _ZEROS,
        "detector": json.dumps(dict(detector)),
        "facts": json.dumps(finite(facts), allow_nan=False),
    }
    data = bytearray(save({k: t.detach().cpu().contiguous() for k, t in tensors.items()}, metadata))
    digest = hashlib.sha256(data).hexdigest()
    place = data.index(_FIELD + _ZEROS.encode()) + len(_FIELD)
    data[place : place + len(digest)] = digest.encode()
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    return digest


def read_model(path: Path) -> tuple[dict[str, Tensor], dict[str, str], dict[str, Any], str]:
    """Read a model file: its tensors, metadata of the detector, facts, and digest.

    Raises:
        AttractorError: If the file is missing, not a model file, written by a newer version, or
            damaged in any byte.
    """
    from safetensors.torch import load

    try:
        data = bytearray(path.read_bytes())
    except OSError as error:
        raise AttractorError(
            f"{path}: cannot be read ({error.strerror}); give a model file, which "
            "attractor-ae fit writes"
        ) from None
    metadata = _metadata(data)
    if metadata.get("format") != _FORMAT:
        raise AttractorError(
            f"{path}: is not a model file, or its first bytes are damaged; give a file that "
            "attractor-ae fit has written"
        )
    digest, version = str(metadata.get("sha256")), str(metadata.get("format_version"))
    if version.isascii() and version.isdecimal() and int(version) > _VERSION:
        raise AttractorError(
            f"{path}: was written by attractor-ae {metadata.get('written_by')} in format {version};"
            f" version {__version__} reads format {_VERSION}; install the newer version"
        )
    place = data.find(_FIELD + digest.encode(errors="replace"))
    start = place + len(_FIELD)
    data[start : start + len(_ZEROS)] = _ZEROS.encode()
    if place < 0 or hashlib.sha256(data).hexdigest() != digest:
        raise AttractorError(
            f"{path}: is damaged or truncated (its digest differs); copy it again, or make it again"
        )
    return (
        load(bytes(data)),
        json.loads(metadata["detector"]),
        json.loads(metadata["facts"]),
        digest,
    )


def _metadata(data: bytearray) -> dict[str, Any]:
    """Return the metadata of a safetensors file; empty if it is none."""
    length = int.from_bytes(data[:8], "little")
    if not 0 < length <= len(data) - 8:
        return {}
    try:
        header = json.loads(bytes(data[8 : 8 + length]))
        metadata = header.get("__metadata__", {})
        return metadata if isinstance(metadata, dict) else {}
    except (ValueError, RecursionError, AttributeError):
        return {}


def finite(value: Any) -> Any:  # noqa: ANN401  any JSON value
    """Return a JSON value with None in place of numbers that are not finite."""
    if isinstance(value, Mapping):
        return {str(key): finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
