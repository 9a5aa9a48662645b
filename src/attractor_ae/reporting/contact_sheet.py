"""Contact sheet of a data set, with one row per class."""

from collections import Counter

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from attractor_ae.data import ImageSet
from attractor_ae.data.image_set import first_rows
from attractor_ae.reporting.style import plain, styled

_CELL = 0.42  # inches
_LETTER = 0.058  # inches, of the labels' font
_LONGEST = 32  # letters of a class name
_GAP = 4  # pixels between images, in images of 64


def contact_sheet(images: ImageSet, *, columns: int = 12, rows: int = 40) -> Figure:
    """Draw the first images of each class, one row per class, with the class's number of images.

    Images without a label are in the last row. At most ``rows`` rows are drawn.
    """
    counts = Counter(images.labels.tolist())
    # Classes without images are shown as well, so that they are noticed.
    labels = [*range(len(images.classes)), *([-1] if -1 in counts or not images.classes else [])]
    shown = labels[:rows]
    columns = min(columns, max(counts.values(), default=1))
    few = images.take(first_rows(images.labels, columns))
    sheet = np.concatenate([_row(few.images[few.labels == label], columns) for label in shown])
    captions = [_caption(images, label, counts[label]) for label in shown]
    margin = _LETTER * max(max(len(line) for line in c.split("\n")) for c in captions) + 0.15
    title = f"{plain(images.name)}, {images.split}: " + _counted(len(images.labels), "image")
    if images.classes:
        title += " of " + _counted(len(images.classes), "class", "classes")
    if len(shown) < len(labels):
        title += f"; the first {len(shown)} classes"
    wide, high = _CELL * columns, _CELL * len(shown)  # of the images
    width = max(margin + wide, 1.25 * _LETTER * len(title)) + 0.12
    height = high + 0.35
    with styled():
        figure = Figure(figsize=(width, height))
        figure.set_layout_engine("none")
        axes = figure.add_axes((margin / width, 0.05 / height, wide / width, high / height))
        axes.imshow(sheet, cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="auto")
        step = len(sheet) / len(shown)
        axes.set_yticks([step * (i + 0.5) - 0.5 for i in range(len(shown))], captions)
        axes.tick_params(length=0, labelsize=6.5, pad=3)
        axes.set_xticks([])
        axes.spines[:].set_visible(False)
        figure.text(0.08 / width, 1 - 0.08 / height, title, va="top", fontsize=8)
    return figure


def _row(chosen: NDArray[np.uint8], columns: int) -> NDArray[np.uint8]:
    """Return at most ``columns`` images side by side, as (height, width) or (height, width, 3)."""
    channels, height, width = chosen.shape[1:]
    gap = max(1, _GAP * width // 64)
    row = np.full((height + gap, columns * (width + gap), channels), 255, dtype=np.uint8)
    for i, image in enumerate(chosen):
        left = i * (width + gap)
        row[:height, left : left + width] = image.transpose(1, 2, 0)  # (c, h, w) -> (h, w, c)
    return row[..., 0] if channels == 1 else row


def _caption(images: ImageSet, label: int, count: int) -> str:
    name = images.classes[label] if label >= 0 else "no label"
    if len(name) > _LONGEST:
        name = f"{name[: _LONGEST // 2 - 1]}…{name[-_LONGEST // 2 :]}"  # ends often differ
    return f"{plain(name)}\n{_counted(count, 'image')}"


def _counted(count: int, one: str, many: str = "") -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}".replace(",", "\N{THIN SPACE}")
