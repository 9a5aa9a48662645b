"""What the tests of data sets share."""

import json
from pathlib import Path

import pytest

from attractor_ae import data
from attractor_ae.data import ImageFormat


@pytest.fixture
def load(tmp_path):
    """Return a function that loads own images, small ones, with a cache that starts empty."""

    def load(path, split="all", form=ImageFormat(size=16), **options):  # noqa: B008
        return data.load(str(path), split, form=form, cache=tmp_path / "cache", **options)

    return load


@pytest.fixture
def broken_files():
    """Return a function that reads what the newest manifest in a cache lists as left out."""

    def broken_files(cache):
        newest = max(Path(cache).rglob("manifest.json"), key=lambda path: path.stat().st_mtime)
        return [tuple(pair) for pair in json.loads(newest.read_text())["broken"]]

    return broken_files
