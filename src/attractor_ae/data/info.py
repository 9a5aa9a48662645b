"""What is known of a data set without looking at its images."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from attractor_ae.data.source import Source


@dataclass(frozen=True)
class SplitInfo:
    """Numbers of images and of classes in one split.

    Attributes
    ----------
    images
        Number of images as published; None where none is.
    classes
        Number of classes that its images are labelled with here.
    """

    images: int | None
    classes: int


@dataclass(frozen=True)
class DatasetInfo:
    """Description of a data set.

    Attributes
    ----------
    name
        Its name in configurations and on the command line.
    title
        What it shows, in a few words.
    kind
        ``"built-in"``: ships inside a package; ``"files"``: read from the data root; ``"own"``:
        no set of the catalogue, but somebody's images.
    splits
        Its splits by name.
    natural
        Whether it shows photographs, so that training on it also augments brightness and
        contrast (PROTOCOL section 3).
    source
        How its images are found and read.
    obtain
        How to get it, as the end of a sentence that says what is missing.
    licence, citation, homepage
        Terms of use of the images, who is to be cited, and where to read more.
    layout
        Its files below the data root, as a tree; empty for a built-in set.
    test_split
        The split of held-out images, which a network that was trained on the set is tested on.
    out_split
        The split that stands for the set where it is unknown (PROTOCOL sections 6 and 7); empty
        where that is ``test_split``.
    per_class
        How many images of each class are used by default (PROTOCOL section 6); -1: all.
    factors
        Its variations, e.g. cars; the first is the default. Empty for a set that has none.
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
        """The split that stands for the set where it is unknown."""
        return self.out_split or self.test_split
