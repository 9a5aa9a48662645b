"""A request for images of a split."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attractor_ae._errors import AttractorError
from attractor_ae._reporter import SILENT, Reporter
from attractor_ae.data.decode import ImageFormat
from attractor_ae.data.image_set import first_rows, random_rows


@dataclass(frozen=True)
class Wanted:
    """The images of a split that are wanted.

    ``per_class``: number of images per class, -1: all; ``subset_seed``: None: the first of each
    class in the set's own order, else the seed that draws them; ``factor``: the variation, empty:
    the set's default; ``cache``: folder of prepared images, None: the user's; ``max_broken``:
    fraction of broken files, in [0, 1], up to which they are left out.
    """

    per_class: int = -1
    subset_seed: int | None = None
    factor: str = ""
    image_format: ImageFormat = field(default_factory=ImageFormat)
    cache: Path | None = None
    max_broken: float = 0.01
    reporter: Reporter = SILENT

    def __post_init__(self) -> None:
        if self.per_class < 1 and self.per_class != -1:
            raise AttractorError(
                f"{self.per_class} images per class: give 1 or more, or -1 for all"
            )
        if self.subset_seed is not None and self.subset_seed < 0:
            raise AttractorError(f"subset_seed must be at least 0, got {self.subset_seed}")

    def rows(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the indices of the wanted images among those with these labels, ascending."""
        if self.subset_seed is None:
            return first_rows(labels, self.per_class)
        return random_rows(labels, self.per_class, self.subset_seed)

    @property
    def selection(self) -> str:
        """The choice of images, for the key of the cache."""
        return f"{self.factor}, {self.per_class} per class, seed {self.subset_seed}"
