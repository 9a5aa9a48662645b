"""Descriptions of data sets."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from attractor_ae.data.sources import Source

ALL = "all"
"""Name of the split of all images."""

AugmentationKind = Literal["grey", "natural", "cars"]
"""Kind of images, which determines the steps of their augmentation."""

STEPS: Mapping[AugmentationKind, tuple[str, ...]] = {
    "grey": ("blur", "noise"),
    "natural": ("brightness-contrast", "blur", "noise"),
    "cars": ("blur", "brightness-contrast", "noise"),
}
"""Steps of the augmentation by kind of images, in order (PROTOCOL section 3)."""


@dataclass(frozen=True)
class SplitInfo:
    """Published number of images of a split (None: not stated), and number of classes."""

    images: int | None
    classes: int


@dataclass(frozen=True)
class DatasetInfo:
    """Description of a data set.

    Attributes:
        kind: ``"built-in"``: ships inside a package; ``"files"``: read from the data root; or
            ``"own"``: the user's images.
        augmentation: Kind of the images, which determines their augmentation in training.
        obtain: How to get the set; ends the error message about missing files.
        layout: Tree of the files below the data root; empty for a built-in set.
        test_split, out_split: Split of held-out images, and split that is used if the set is a
            D_out (PROTOCOL sections 6 and 7).
        per_class: Default number of images per class (PROTOCOL section 6); -1: all.
        optional_splits: Splits without which the set counts as present.
        factors: Variants of the set, e.g. cars; the first is the default.
    """

    name: str
    title: str
    kind: Literal["built-in", "files", "own"]
    splits: Mapping[str, SplitInfo]
    augmentation: AugmentationKind
    source: Source
    obtain: str
    licence: str
    citation: str
    homepage: str
    layout: str = ""
    test_split: str = "test"
    out_split: str = "test"
    per_class: int = 250
    factors: tuple[str, ...] = ()
    optional_splits: tuple[str, ...] = ()

    @property
    def every_image(self) -> str:
        """Split of all images of an own set; of a built-in one, that of held-out images."""
        return ALL if ALL in self.splits else self.test_split
