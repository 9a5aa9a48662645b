"""What the kinds of own images have in common: images in their order, with names of classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from attractor_ae.data.cache import Broken


@dataclass(frozen=True)
class Found:
    """What a folder, a table or an array holds, as it stands there.

    Attributes
    ----------
    path
        The folder or file.
    labels, splits
        Of each image the name of its class, and of its split; "" for none.
    paths
        The files of the images; empty for an array, which holds them itself. They are text, as
        there may be very many.
    unusable
        Files that look like images and cannot be used, each with the reason.
    ignored
        Images that lie where none belong, each with the reason.
    classes
        Names of the classes, if they are given and not gathered from the labels.
    """

    path: Path
    labels: Sequence[str]
    splits: Sequence[str]
    paths: tuple[str, ...] = ()
    unusable: tuple[Broken, ...] = ()
    ignored: tuple[Broken, ...] = ()
    classes: tuple[str, ...] | None = None
