"""Images in, uint8 arrays out: data sets by name, own images by path, and augmentation."""

from typing import TYPE_CHECKING, Any

from attractor_ae.data.decode import ImageFormat
from attractor_ae.data.image_set import ImageSet
from attractor_ae.data.info import DatasetInfo, SplitInfo
from attractor_ae.data.load import (
    Dataset,
    DatasetStatus,
    clear,
    data_root,
    download,
    find_dataset,
    load,
    own_names,
)
from attractor_ae.data.registry import CATALOGUE

if TYPE_CHECKING:
    from attractor_ae.data.augmentation import Augmentation

__all__ = [
    "CATALOGUE",
    "Augmentation",
    "Dataset",
    "DatasetInfo",
    "DatasetStatus",
    "ImageFormat",
    "ImageSet",
    "SplitInfo",
    "clear",
    "data_root",
    "download",
    "find_dataset",
    "load",
    "own_names",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    # Imported when asked for: it needs torch, and a listing of data sets should not wait for it.
    if name == "Augmentation":
        from attractor_ae.data.augmentation import Augmentation

        return Augmentation
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
