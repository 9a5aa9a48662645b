"""LSUN's scene categories, each a database of encoded images.

torchvision's class pickles a list of keys into the current folder and reads it back; here the
databases are read directly, with the package ``lmdb``.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attractor_ae._errors import AttractorError, optional_package
from attractor_ae.data.cache import Encoded, prepare
from attractor_ae.data.image_set import ImageSet, Wanted
from attractor_ae.data.sources import Source


@dataclass(frozen=True)
class LsunFiles(Source):
    """Source of the ten scene categories, in ``lsun/<category>_train_lmdb`` below the root.

    The ``classes`` are in torchvision's order. The test images have no category: all have label 0.
    """

    name: str
    folder: str
    classes: tuple[str, ...]

    def expected(self, split: str, root: Path, factor: str = "") -> tuple[str, ...]:
        """Return the files of the ten databases."""
        return tuple(str(path / "data.mdb") for path in self._databases(split, root))

    def load(self, split: str, root: Path, wanted: Wanted) -> ImageSet:
        """Return the wanted images, category by category, in the order of their keys."""
        databases = self._databases(split, root)

        def read() -> tuple[Iterator[Encoded], NDArray[np.int64]]:
            rows = []
            for label, path in enumerate(databases):
                with _open(path) as environment:
                    entries = environment.stat()["entries"]
                rows.append(wanted.rows(np.full(entries, label)))
            labels = np.repeat(np.arange(len(rows)), [len(chosen) for chosen in rows])
            return _pictures(databases, rows), labels

        files = self.expected(split, root)
        return prepare(
            self.name, split, files, read, self.classes, key=(wanted.selection,), wanted=wanted
        )

    def _databases(self, split: str, root: Path) -> list[Path]:
        categories = ("test",) if split == "test" else (f"{c}_{split}" for c in self.classes)
        return [root / self.folder / f"{category}_lmdb" for category in categories]


def _pictures(databases: list[Path], rows: list[NDArray[np.int64]]) -> Iterator[Encoded]:
    """Yield the wanted images of each database, still encoded."""
    for path, wanted in zip(databases, rows, strict=True):
        chosen, last = set(wanted.tolist()), wanted[-1] if len(wanted) else -1
        with _open(path) as environment, environment.begin(buffers=True) as transaction:
            for place, (key, value) in enumerate(transaction.cursor()):
                if place > last:
                    break
                if place in chosen:
                    name = f"{path}: image {bytes(key).decode(errors='replace')!r}"
                    yield Encoded(name, bytes(value))


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """Open a database for reading; nothing is written. Raise an AttractorError if it is damaged."""
    lmdb = optional_package("lmdb", "lsun", "data set 'lsun'")
    try:
        with lmdb.open(
            str(path), readonly=True, lock=False, readahead=False, create=False
        ) as environment:
            # Reading beyond the end of a truncated file would kill the process.
            pages = environment.info()["last_pgno"] + 1
            expected, size = pages * environment.stat()["psize"], (path / "data.mdb").stat().st_size
            if size < expected:
                raise lmdb.Error(f"truncated: {size} of {expected} bytes")
            yield environment
    except lmdb.Error as error:
        raise AttractorError(
            f"{path}: is not an LMDB database ({error}); download it again"
        ) from None
