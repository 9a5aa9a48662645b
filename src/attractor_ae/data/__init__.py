"""Images in, uint8 arrays out: data sets by name and own images by path."""

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
from attractor_ae.data.wanted import Wanted

__all__ = [
    "CATALOGUE",
    "Dataset",
    "DatasetInfo",
    "DatasetStatus",
    "ImageFormat",
    "ImageSet",
    "SplitInfo",
    "Wanted",
    "clear",
    "data_root",
    "download",
    "find_dataset",
    "load",
    "own_names",
]
