"""The model file: one safetensors file, with a digest over header and tensors together.

The metadata has the format's name and version, the metadata of the detector, and everything else as
JSON.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from attractor_ae import __version__
from attractor_ae._errors import AttractorError
from attractor_ae._files import finite, read_tensors, write_tensors

_FORMAT = "attractor-ae model"
_VERSION, _OLDEST = 3, 2  # written, and read
_REMEDY = "give a model file that attractor-ae fit has written"


def write_model(
    path: Path, tensors: Mapping[str, Tensor], detector: Mapping[str, str], facts: Mapping[str, Any]
) -> str:
    """Write a model file atomically, with metadata of its detector; return the digest."""
    metadata = {
        "format": _FORMAT,
        "format_version": str(_VERSION),
        "written_by": __version__,
        "detector": json.dumps(dict(detector)),
        "facts": json.dumps(finite(facts), allow_nan=False),
    }
    return write_tensors(path, tensors, metadata)


def read_model(path: Path) -> tuple[dict[str, Tensor], dict[str, str], dict[str, Any], str]:
    """Read a model file: its tensors, metadata of the detector, facts, and digest."""
    tensors, metadata = read_tensors(path, _REMEDY)
    digest = metadata.get("sha256", "").removeprefix("sha256:")
    version = metadata.get("format_version", "")
    if metadata.get("format") != _FORMAT or not digest:
        raise AttractorError(f"{path}: is not a model file; {_REMEDY}")
    if version not in map(str, range(_OLDEST, _VERSION + 1)):
        raise AttractorError(
            f"{path}: was written by attractor-ae {metadata.get('written_by')} in format {version};"
            f" version {__version__} reads {_OLDEST} to {_VERSION}; use the other one, or fit again"
        )
    return tensors, json.loads(metadata["detector"]), json.loads(metadata["facts"]), digest
