"""Images in, uint8 arrays out: data sets by name, and what is done to images before training."""

from typing import TYPE_CHECKING, Any

from attractor_ae.data.catalogue import CATALOGUE
from attractor_ae.data.decoding import ImageFormat
from attractor_ae.data.imageset import ImageSet
from attractor_ae.data.info import DatasetInfo, SplitInfo
from attractor_ae.data.loading import (
    DatasetStatus,
    available,
    check_present,
    clear,
    data_root,
    dataset_info,
    download,
    load,
    own_names,
    status,
)

if TYPE_CHECKING:
    from attractor_ae.data.augmentation import Augmentation

__all__ = [
    "CATALOGUE",
    "Augmentation",
    "DatasetInfo",
    "DatasetStatus",
    "ImageFormat",
    "ImageSet",
    "SplitInfo",
    "available",
    "check_present",
    "clear",
    "data_root",
    "dataset_info",
    "download",
    "load",
    "own_names",
    "status",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    # What needs torch is imported when it is asked for: a listing of data sets starts at once.
    if name == "Augmentation":
        from attractor_ae.data.augmentation import Augmentation

        return Augmentation
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
