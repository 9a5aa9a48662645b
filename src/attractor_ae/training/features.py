"""Features of data sets, which are computed once and memory-mapped afterwards.

CACHE/features/EXTRACTOR/KEY.npy is a float32 array of shape (n, features). KEY is the SHA-256 of
the extractor's weights and of the images. A file is written under a temporary name and renamed.
"""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray

from attractor_ae._devices import pixels
from attractor_ae._errors import AttractorError
from attractor_ae._files import atomic_path, file_name
from attractor_ae._reporter import SILENT, Reporter
from attractor_ae.data import ImageSet
from attractor_ae.data.cache import REMEDY, cache_root
from attractor_ae.experiment.config import ExperimentConfig
from attractor_ae.extractors import Extractor, make_extractor

_AT_ONCE = 128  # images


def with_features(
    config: ExperimentConfig, images: ImageSet, reporter: Reporter = SILENT
) -> ImageSet:
    """Return images with their features, if the network of a config needs them."""
    if config.model.space != "features" or images.features is not None:
        return images
    extractor = make_extractor(config.model.extractor)
    return replace(images, features=features_of(images, extractor, reporter=reporter))


def features_of(
    images: ImageSet,
    extractor: Extractor,
    *,
    cache: Path | None = None,
    reporter: Reporter = SILENT,
) -> NDArray[np.float32]:
    """Return the features of images, float32 (n, features), from the cache if they are there.

    Raises:
        AttractorError: If the cache cannot be written.
    """
    key = hashlib.sha256(extractor.digest.encode() + repr(images.images.shape).encode())
    key.update(images.images.data)
    folder = cache_root(cache) / "features" / file_name(extractor.name)
    path = folder / f"{key.hexdigest()[:32]}.npy"
    shape = (len(images), extractor.count(images.images.shape[-1]))
    if not len(images):
        return np.empty(shape, dtype=np.float32)
    found = _opened(path, shape)
    if found is None:
        with atomic_path(path, REMEDY) as temporary, temporary.open("wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            npy.write_array_header_1_0(file, header)
            for start in range(0, len(images), _AT_ONCE):
                some = torch.tensor(images.images[start : start + _AT_ONCE])
                features = extractor(pixels(some, some.device)).numpy().astype("<f4")
                file.write(np.ascontiguousarray(features).data)
                done = start + len(features)
                reporter.progress(f"features of {images.name}", done, len(images))
        found = _opened(path, shape)
        if found is None:
            raise AttractorError(f"{path}: cannot be read after writing; remove it")
    return found


def _opened(path: Path, shape: tuple[int, int]) -> NDArray[np.float32] | None:
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return found if (found.shape, found.dtype) == (shape, np.float32) else None
