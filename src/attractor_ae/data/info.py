"""Descriptions of data sets."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from attractor_ae.data.sources import Source


@dataclass(frozen=True)
class SplitInfo:
    """Number of images of a split as published (None: not stated), and number of classes."""

    images: int | None
    classes: int


@dataclass(frozen=True)
class DatasetInfo:
    """Description of a data set.

    Attributes:
        kind: ``"built-in"``: ships inside a package; ``"files"``: read from the data root; or
            ``"own"``.
        natural: Whether it shows photographs, so that training on it also augments brightness and
            contrast (PROTOCOL section 3).
        obtain: How to get it, as the end of a sentence that says what is missing.
        layout: Its files below the data root, as a tree; empty for a built-in set.
        test_split, out_split: The split of held-out images, and the one that is used where the set
            is a D_out (PROTOCOL sections 6 and 7); by default the same.
        per_class: Number of images per class that is used by default (PROTOCOL section 6); -1: all.
        factors: Its variations, e.g. cars; the first is the default.
    """

    name: str
    title: str
    kind: Literal["built-in", "files", "own"]
    splits: Mapping[str, SplitInfo]
    natural: bool
    source: Source
    obtain: str
    licence: str
    citation: str
    homepage: str
    layout: str = ""
    test_split: str = "test"
    out_split: str = ""
    per_class: int = 250
    factors: tuple[str, ...] = ()

    @property
    def split_as_out(self) -> str:
        """The split that is used where the set is a D_out."""
        return self.out_split or self.test_split
