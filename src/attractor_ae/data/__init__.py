"""Images in, uint8 arrays out: data sets by name, and what is done to images before training."""

from typing import TYPE_CHECKING, Any

from attractor_ae.data.catalogue import (
    CATALOGUE,
    DatasetInfo,
    DatasetStatus,
    SplitInfo,
    available,
    data_root,
    load,
    status,
)
from attractor_ae.data.imageset import ImageSet

if TYPE_CHECKING:
    from attractor_ae.data.augmentation import Augmentation

__all__ = [
    "CATALOGUE",
    "Augmentation",
    "DatasetInfo",
    "DatasetStatus",
    "ImageSet",
    "SplitInfo",
    "available",
    "data_root",
    "load",
    "status",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    # What needs torch is imported when it is asked for: a listing of data sets starts at once.
    if name == "Augmentation":
        from attractor_ae.data.augmentation import Augmentation

        return Augmentation
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
