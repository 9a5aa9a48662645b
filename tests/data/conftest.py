"""What the tests of data sets share."""

import pytest

from attractor_ae import data
from attractor_ae.data import ImageFormat


@pytest.fixture
def load(tmp_path):
    """Return a function that loads own images, small ones, with a cache that starts empty."""

    def load(path, split="all", **options):
        form = ImageFormat(size=16)
        return data.load(str(path), split, image_format=form, cache=tmp_path / "cache", **options)

    return load
