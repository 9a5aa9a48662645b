"""SVIRO and SVIRO-Uncertainty: rendered vehicle interiors whose names give the labels.

A name ends in ``GT_a_b_c``: the classes of the left, the middle and the right seat (PROTOCOL
section 6).
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from attractor_ae._errors import AttractorError
from attractor_ae.data.image_set import ImageSet, Wanted
from attractor_ae.data.sources import Source, is_there, load_files

SEATINGS = ("0_0_0", "0_0_3", "0_3_0", "3_0_0", "0_3_3", "3_0_3", "3_3_0", "3_3_3")
"""Occupants of the left, middle and right seat in the order of the labels; 0: empty, 3: adult."""

EMPTY, ADULT = 0, 3
"""Two of the classes of a seat; the others are 1 (infant seat), 2 (child seat), 4 (everyday
object), 5 (empty infant seat) and 6 (empty child seat)."""

_SEATS = re.compile(r"GT_([0-6])_([0-6])_([0-6])$")


@dataclass(frozen=True)
class SeatFolders(Source):
    """Source of a set whose labels are in the names of its files or folders.

    ``pattern``: the images of a split, below the data root, with ``{car}``, ``{split}`` and, for a
    set that has two pictures of a scene, ``{picture}``; ``factor``: the default variant, a car or
    ``car/picture``; ``named``: whether a file or its folder is named after its label;
    ``others``: treatment of a seat that is neither empty nor occupied by an adult.
    """

    name: str
    pattern: str
    factor: str
    named: Literal["file", "folder"]
    others: Literal["empty", "left out"]
    classes: tuple[str, ...] = SEATINGS

    def expected(self, split: str, root: Path, factor: str = "") -> tuple[str, ...]:
        """Return the pattern of a split's files."""
        return (str(root / self._pattern(split, factor)),)

    def missing(self, split: str, root: Path, factor: str = "") -> tuple[str, ...]:
        """Return the pattern if its folder is missing."""
        folder = root / self._pattern(split, factor).split("/*")[0]  # before the first wildcard
        return () if is_there(folder) else self.expected(split, root, factor)

    def load(self, split: str, root: Path, wanted: Wanted) -> ImageSet:
        """Return the wanted images, cropped to their centre, in the order of their names."""
        form = replace(wanted.image_format, crop=True)
        wanted = replace(wanted, factor=wanted.factor or self.factor, image_format=form)
        # Sorted by path, as in the released code.
        found = sorted(root.glob(self._pattern(split, wanted.factor)))
        seatings = {path: self._seating(path) for path in found}
        paths = [path for path, seating in seatings.items() if seating in SEATINGS]
        if not paths:
            raise AttractorError(
                f"data set {self.name!r}: no image of empty seats and adults matches "
                f"{self.expected(split, root, wanted.factor)[0]}; check the files"
            )
        labels = np.array([SEATINGS.index(seatings[path]) for path in paths], dtype=np.int64)
        return load_files(self.name, split, paths, labels, SEATINGS, wanted)

    def _pattern(self, split: str, factor: str) -> str:
        car, _, picture = (factor or self.factor).partition("/")
        car = "*" if car == "all" else car
        return self.pattern.format(car=car, split=split, picture=picture or "ir")

    def _seating(self, path: Path) -> str:
        """Return the seating; seats of other classes become empty or keep their class."""
        name = path.stem if self.named == "file" else path.parent.name
        match = _SEATS.search(name)
        if not match:
            raise AttractorError(
                f"{path}: the name of the {self.named} should end in GT_a_b_c, the classes 0..6 of "
                "the left, middle and right seat; rename it or move it elsewhere"
            )
        seats = [int(seat) for seat in match.groups()]
        if self.others == "empty":
            seats = [seat if seat == ADULT else EMPTY for seat in seats]
        return "_".join(map(str, seats))
