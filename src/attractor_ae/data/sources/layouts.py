"""Sets whose files may lie in one of two layouts: torchvision's, or that of the released code."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attractor_ae.data.image_set import ImageSet, Wanted


@dataclass(frozen=True)
class Layouts:
    """Source that reads the first of ``sources``, of one class, whose files are present."""

    sources: tuple[Any, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, if they do not depend on the files."""
        return getattr(self.sources[0], "classes", ())

    def expected(self, split: str, root: Path, factor: str = "") -> tuple[str, ...]:
        """Return the expected files and folders of the layout that is used."""
        return self.used(split, root, factor).expected(split, root, factor)

    def missing(self, split: str, root: Path, factor: str = "") -> tuple[str, ...]:
        """Return the missing files and folders of the layout that is used."""
        return self.used(split, root, factor).missing(split, root, factor)

    def load(self, split: str, root: Path, wanted: Wanted) -> ImageSet:
        """Return the wanted images of a split."""
        return self.used(split, root, wanted.factor).load(split, root, wanted)

    def listing(self, split: str, root: Path) -> Any:  # noqa: ANN401
        """Return the listing of a `TorchvisionSet`."""
        return self.used(split, root).listing(split, root)

    def used(self, split: str, root: Path, factor: str = "") -> Any:  # noqa: ANN401
        """Return the first source without missing files, or the first of all."""
        complete = (s for s in self.sources if not s.missing(split, root, factor))
        return next(complete, self.sources[0])


class DownloadableLayouts(Layouts):
    """Layouts of which the first can be downloaded."""

    def download(self, root: Path) -> None:
        """Download the files of all splits to the data root, and verify their checksums."""
        self.sources[0].download(root)
