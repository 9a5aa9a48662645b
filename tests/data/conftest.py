"""What the tests of own images share."""

import pytest

from attractor_ae import data
from attractor_ae.data import ImageFormat


@pytest.fixture
def load(tmp_path):
    """Return a function that loads own images, small ones, with a cache that starts empty."""

    def load(path, split="all", form=ImageFormat(size=16), **options):  # noqa: B008
        return data.load(str(path), split, form=form, cache=tmp_path / "cache", **options)

    return load
