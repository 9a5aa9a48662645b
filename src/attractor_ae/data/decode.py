"""Decoding of image files to uint8 arrays: conversion to grey or colour, crop and resize."""

import importlib
import io
import os
import stat
import tempfile
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from attractor_ae._errors import AttractorError

# Formats that Pillow lists but cannot decode by itself: stubs without a decoder, and page
# descriptions, for which it would run another program.
_NOT_READ = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"})

PIXELS_VARIABLE = "ATTRACTOR_AE_MAX_PIXELS"
"""Environment variable with the largest number of pixels of an image; default: that of Pillow."""

# Formats that are recognised by the first bytes of a file whose name does not say what it is.
_BY_CONTENT = ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "JPEG2000", "PNG", "TIFF", "WEBP")

# Images that Pillow opens as something else, e.g. their preview, or not at all.
_OTHER_IMAGES = (".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2", ".srw", ".svg")

# Photographs that Pillow may not read, and text files, which are common and need not be opened.
_PHOTOGRAPHS = (".avif", ".heic", ".heif", ".hif", ".jxl")
_TEXT = (".csv", ".html", ".json", ".md", ".py", ".toml", ".tsv", ".txt", ".xml", ".yaml", ".yml")

_STANDARD_ERROR = threading.Lock()

_UNKNOWN = "is not an image of a known format"

# Pillow cannot convert these modes directly to grey or colour: intermediate mode of each.
_ONE_STEP_BEFORE = {"LAB": "RGB", "La": "LA", "RGBa": "RGBA"}


class UndecodableError(AttractorError):
    """Error for an image that cannot be read; ``reason`` is one line without the file name."""

    def __init__(self, where: str, reason: str) -> None:
        self.reason = reason
        super().__init__(f"{where}: {reason}; repair or remove it")


@dataclass(frozen=True)
class ImageFormat:
    """Format of prepared images; the defaults are those of PROTOCOL section 6.

    ``size`` is a multiple of 16, at most 4096; ``channels`` 1 (grey) or 3 (colour). With ``crop``
    the centre is cropped to the shorter side before the resize, as for vehicle interiors; with
    ``pad`` the image is made square by black margins; otherwise height and width are scaled
    independently.
    """

    size: int = 64
    channels: int = 1
    crop: bool = False
    pad: bool = False

    def __post_init__(self) -> None:
        if not 16 <= self.size <= 4096 or self.size % 16:
            raise AttractorError(
                f"image size must be a multiple of 16 from 16 to 4096, got {self.size}"
            )
        if self.channels not in (1, 3):
            raise AttractorError(f"channels must be 1 (grey) or 3 (colour), got {self.channels}")
        if self.crop and self.pad:
            raise AttractorError("crop and pad exclude each other; set one of them to false")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one image: channels, height, width."""
        return self.channels, self.size, self.size


Source = Path | str | bytes | BinaryIO | Image.Image


def decode(source: Source, image_format: ImageFormat) -> NDArray[np.uint8]:
    """Read one image, turn it upright, convert it to grey or colour, crop and resize it.

    The resize is that of ``torchvision.transforms.v2.functional.resize`` on a PIL image (bilinear,
    antialiased), the crop that of its ``center_crop``; grey is ``convert("L")``. The alpha channel
    is dropped. 16-bit grey is scaled from 0..65535, floating-point grey from [0, 1]. The
    first frame of an animation is read.

    Returns:
        uint8 array of shape (channels, size, size), C-contiguous.

    Raises:
        UndecodableError: If the file does not exist, is not an image, is empty, truncated or
            damaged, is a folder or a device, would unpack to more pixels than `pixel_limit`, or
            has grey levels of an unknown range. The content of a file causes no other errors and no
            warnings.

    Examples:
        >>> decode(Image.new("RGB", (30, 20), "red"), ImageFormat(size=32))[0, 0, 0]
        np.uint8(76)
    """
    with without_warnings():
        return decode_quietly(source, image_format)


@contextmanager
def without_warnings() -> Iterator[None]:
    """Ignore warnings, but raise Pillow's decompression bomb warning as an error."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, pixel_limit()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def pixel_limit() -> int | None:
    """Return the largest number of pixels of an image: $ATTRACTOR_AE_MAX_PIXELS, or Pillow's."""
    if not (text := os.environ.get(PIXELS_VARIABLE, "")):
        return Image.MAX_IMAGE_PIXELS
    if not (text.isascii() and text.isdecimal() and int(text)):
        raise AttractorError(f"{PIXELS_VARIABLE}={text!r}: must be a number of pixels, at least 1")
    return int(text)


def decode_quietly(source: Source, image_format: ImageFormat) -> NDArray[np.uint8]:
    """Decode as `decode` does; must be called within `without_warnings`."""
    try:
        return _decode(source, image_format)
    except UnidentifiedImageError:
        reason = _unidentified(source)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        reason = f"unpacks to more than {Image.MAX_IMAGE_PIXELS} pixels; to use it, set a higher "
        reason += PIXELS_VARIABLE
    except MemoryError:
        reason = "needs more memory than is available"
    except OSError as error:
        reason = error.strerror or str(error)
    except Exception as error:  # damaged files cause errors of any class
        reason = str(error) or type(error).__name__
    reason = displayed(" ".join(reason.split()))
    where = displayed(source) if isinstance(source, Path | str) else "image"
    raise UndecodableError(where, reason[:200] or "is damaged")


def decoded_or_reason(source: Source, image_format: ImageFormat) -> NDArray[np.uint8] | str:
    """Decode as `decode_quietly` does, or return the reason why the image cannot be read."""
    try:
        return decode_quietly(source, image_format)
    except UndecodableError as error:
        return error.reason


def side_by_side(images: Sequence[NDArray[np.uint8]]) -> Image.Image:
    """Return images (channels, height, width) as one picture, in grey or colour."""
    wide = np.moveaxis(np.concatenate(images, axis=2), 0, 2)
    return Image.fromarray(wide[..., 0] if wide.shape[2] == 1 else wide)


def displayed(path: Path | str) -> str:
    r"""Return a path as one line; characters and bytes that are not printable are escaped.

    Examples:
        >>> displayed("caf\udce9\n.png")
        'caf\\xe9\\n.png'
    """
    try:
        text = os.fspath(path).encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # surrogates that do not stand for bytes of a file name
        text = os.fspath(path).encode("utf-8", "replace")
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text.decode("utf-8", "backslashreplace")
    )


@lru_cache(maxsize=1)
def image_suffixes() -> frozenset[str]:
    """Return the suffixes, lower case with their dot, of the files that :func:`decode` reads."""
    known = readable_formats()
    suffixes = Image.registered_extensions().items()
    return frozenset(suffix for suffix, form in suffixes if form in known)


@lru_cache(maxsize=1)
def readable_formats() -> tuple[str, ...]:
    """Return the names of the formats that :func:`decode` reads; HEIF with the extra ``heic``."""
    with suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()
    Image.init()
    return tuple(form for form in Image.ID if form not in _NOT_READ)


def recognised(path: str) -> str | None:
    """Look into a file without the suffix of an image: "" if it is an image that can be read.

    Otherwise, the result is the reason why the image cannot be read, or None for another file.
    """
    suffix = os.path.splitext(path)[1].lower()  # noqa: PTH122
    try:  # reading a pipe or a file of /proc might never end
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    if is_text(path) or not stat.S_ISREG(status.st_mode) or not status.st_size:
        return None
    known = {*_BY_CONTENT} & {*readable_formats()}
    if is_other_image(path):
        return _not_read(suffix)
    try:
        with without_warnings(), Image.open(path, formats=sorted(known)):
            return ""
    except UnidentifiedImageError:
        reason = _unidentified(Path(path))
        return reason if suffix in _PHOTOGRAPHS or reason != _UNKNOWN else None
    except Exception:  # e.g. no permission; the decoder states the reason
        return "" if suffix in _PHOTOGRAPHS else None


def _not_read(suffix: str) -> str:
    return f"is an image of the format {suffix[1:].lower()}, which is not read; convert it"


def shorter_side(path: str) -> int:
    """Return the height or width of an image, whichever is less; the pixels are not decoded."""
    with without_warnings(), Image.open(path, formats=readable_formats()) as image:
        return min(image.size)


def is_other_image(path: str) -> bool:
    """Return whether a file is an image of a format that is never read, by its suffix."""
    return path.lower().endswith(_OTHER_IMAGES)


def is_text(path: str) -> bool:
    """Return whether a file is text, e.g. an annotation, by its suffix."""
    return path.lower().endswith(_TEXT)


def _unidentified(source: "Source") -> str:
    """Return why Pillow does not identify an image, judged by its first bytes."""
    data = b""
    with suppress(OSError):
        if isinstance(source, Path | str):
            with Path(source).open("rb") as file:
                data = file.read(12)
        elif isinstance(source, bytes):
            data = source[:12]
    brand = data[8:12].lower() if data[4:8] == b"ftyp" else b""
    if brand[:3] in {b"hei", b"hev"} or brand in {b"mif1", b"msf1"}:
        damaged = "HEIF" in readable_formats()
        return "is damaged" if damaged else "is HEIC; run: pip install 'attractor-ae[heic]'"
    if brand[:3] == b"avi":
        return "is AVIF; to read it, run: pip install --upgrade pillow"
    if data[:2] == b"\xff\x0a" or data[4:8] == b"JXL ":
        return "is JPEG XL, which is not read; convert it"
    return _UNKNOWN


def _load_tiff(image: Image.Image) -> None:
    """Load a TIFF; what libtiff writes to standard error becomes part of the error."""
    with _STANDARD_ERROR:  # one thread at a time redirects it
        try:
            terminal = os.dup(2)
        except OSError:  # a process without standard error
            image.load()
            return
        with tempfile.TemporaryFile() as file:
            os.dup2(file.fileno(), 2)
            try:
                image.load()
            except Exception as error:
                file.seek(0)
                words = file.read(2000).decode(errors="replace")
                raise ValueError(f"{str(error) or type(error).__name__} {words}") from None
            finally:
                os.dup2(terminal, 2)
                os.close(terminal)


def _decode(source: Source, form: ImageFormat) -> NDArray[np.uint8]:
    if isinstance(source, Image.Image):
        return _prepared(source, form)
    if isinstance(source, Path | str):
        source = Path(source)
        status = source.stat()
        if stat.S_ISDIR(status.st_mode):
            os.scandir(source).close()  # if it cannot be read, this is the reason
            raise ValueError("is a folder")
        if not stat.S_ISREG(status.st_mode):  # reading a pipe might never end
            raise ValueError("is not a regular file")
        if status.st_size == 0:
            raise ValueError("is empty (0 bytes)")
        if is_other_image(source.name):
            raise ValueError(_not_read(source.suffix))
        with source.open("rb") as file, Image.open(file, formats=readable_formats()) as image:
            return _prepared(image, form)
    if isinstance(source, bytes):
        if not source:
            raise ValueError("is empty (0 bytes)")
        source = io.BytesIO(source)
    with Image.open(source, formats=readable_formats()) as image:
        return _prepared(image, form)


def _prepared(image: Image.Image, form: ImageFormat) -> NDArray[np.uint8]:
    if 0 in image.size:
        raise ValueError("has no pixels")
    if image.format == "TIFF":
        _load_tiff(image)
    image.load()
    with suppress(Exception):  # ignore damaged EXIF data of an intact image
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:  # otherwise it would be copied
            image = ImageOps.exif_transpose(image)
    wanted = "L" if form.channels == 1 else "RGB"
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(_eight_bit(image))
    for mode in (_ONE_STEP_BEFORE.get(image.mode, image.mode), wanted):
        image = image if image.mode == mode else image.convert(mode)
    if form.crop:
        side = min(image.size)
        left, top = (round((length - side) / 2) for length in image.size)
        image = image.crop((left, top, left + side, top + side))
    if form.pad:
        side = max(image.size)
        image = ImageOps.pad(image, (side, side))
    image = image.resize((form.size, form.size), Image.Resampling.BILINEAR)
    pixels = np.asarray(image).reshape(form.size, form.size, form.channels)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _eight_bit(image: Image.Image) -> NDArray[np.uint8]:
    """Scale grey levels of more than 8 bits to 8 bits."""
    levels = np.asarray(image)
    if not np.isfinite(levels).all():
        raise ValueError("has NaN or infinite grey levels")
    low, high = levels.min(), levels.max()
    if image.mode == "F":
        if not 0 <= low <= high <= 1:
            raise ValueError(f"has grey levels {low}..{high}, expected 0..1 in floating point")
        return np.round(levels * 255).astype(np.uint8)
    # Pillow opens some 16-bit files in the 32-bit mode "I".
    if not 0 <= low <= high <= 65535:
        raise ValueError(f"has grey levels {low}..{high}, expected 0..65535")
    return ((levels.astype(np.uint32) + 128) // 257).astype(np.uint8)  # rounded
