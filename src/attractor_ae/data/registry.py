"""Registry of data sets; a new set needs an entry in catalogue.toml."""

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from attractor_ae.data.info import DatasetInfo, SplitInfo
from attractor_ae.data.sources import Layouts, Source, builtin, lsun, sviro, torchvision

_KINDS: dict[str, Any] = {
    "package": builtin.Packaged,
    "torchvision": torchvision.TorchvisionSet,
    "idx": torchvision.IdxFiles,
    "lsun": lsun.LsunFiles,
    "seats": sviro.SeatFolders,
}
"""Class of a source by its ``kind`` in the catalogue."""


def _source(name: str, entry: dict[str, Any]) -> Source:
    form, released = entry.pop("kind"), entry.pop("released", {})
    for fields in (entry, released):
        if "read" in fields:  # a function of the module of the class
            fields["read"] = getattr(builtin if form == "package" else torchvision, fields["read"])
    if form != "package":
        entry["name"] = name
    source = _KINDS[form](**entry)
    return Layouts((source, replace(source, **released))) if released else source


def _described(name: str, entry: dict[str, Any]) -> DatasetInfo:
    entry["splits"] = {
        split: SplitInfo(None if images < 0 else images, classes)
        for split, (images, classes) in entry["splits"].items()
    }
    return DatasetInfo(name=name, source=_source(name, entry.pop("source")), **entry)


def _frozen(value: Any) -> Any:  # noqa: ANN401
    """Return nested values with tuples in place of lists."""
    if isinstance(value, dict):
        return {key: _frozen(inner) for key, inner in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


_TEXT = Path(__file__).with_name("catalogue.toml").read_text(encoding="utf-8")
CATALOGUE: Mapping[str, DatasetInfo] = MappingProxyType(
    {name: _described(name, entry) for name, entry in _frozen(tomllib.loads(_TEXT)).items()}
)
"""All built-in and published data sets, by name."""
