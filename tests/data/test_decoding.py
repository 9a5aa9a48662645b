import io
import os
import struct
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torchvision.transforms import v2

from attractor_ae._errors import AttractorError
from attractor_ae.data import load
from attractor_ae.data.cache import BrokenFilesError
from attractor_ae.data.decode import (
    ImageFormat,
    UndecodableError,
    decode,
    decode_quietly,
    displayed,
    image_suffixes,
    without_warnings,
)

PLAIN = ImageFormat()
CAT = Image.fromarray(skimage.data.chelsea())  # 451 x 300, colour
COINS = Image.fromarray(skimage.data.coins())  # 384 x 303, grey
MODES = ("1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "HSV", "LAB", "I;16", "I", "F")
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "ICO", "TGA", "JPEG2000", "PCX")


def stored(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def oracle(image, form):
    """What torchvision makes of an image that Pillow has opened."""
    image = image.convert("L" if form.channels == 1 else "RGB")
    if form.crop:
        image = v2.functional.center_crop(image, [min(image.size)])
    image = v2.functional.resize(image, [form.size, form.size], antialias=True)
    return v2.functional.pil_to_tensor(image).numpy()


@pytest.mark.parametrize("form", [PLAIN, ImageFormat(96, 3), ImageFormat(32, 1, True)])
@pytest.mark.parametrize("image", [CAT, COINS, COINS.rotate(90, expand=True)])
@pytest.mark.parametrize(("file_format", "options"), [("PNG", {}), ("JPEG", {"quality": 90})])
def test_is_what_torchvision_makes_of_it(form, image, file_format, options):
    data = stored(image, file_format, **options)

    pixels = decode(data, form)

    expected = oracle(Image.open(io.BytesIO(data)), form)
    np.testing.assert_array_equal(pixels, expected, strict=True)
    assert pixels.flags.c_contiguous


@pytest.mark.parametrize("width", range(300, 312))
def test_crops_odd_and_even_margins_as_torchvision_does(width):
    form = ImageFormat(size=64, crop=True)
    image = CAT.resize((width, 299))
    np.testing.assert_array_equal(decode(image, form), oracle(image, form))


@pytest.mark.parametrize("mode", ["1", "P", "RGBA", "LA", "CMYK", "YCbCr"])
@pytest.mark.parametrize("channels", [1, 3])
def test_modes_are_converted_as_pillow_does(mode, channels):
    image = CAT.convert(mode)
    form = ImageFormat(channels=channels)
    np.testing.assert_array_equal(decode(image, form), oracle(image, form))


def test_alpha_is_left_out():
    image = CAT.copy()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    np.testing.assert_array_equal(decode(stored(image, "PNG"), PLAIN), decode(CAT, PLAIN))


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_not_clipped(file_format):
    levels = np.asarray(COINS).astype(np.uint16)
    deep = Image.fromarray(levels * 257)
    assert deep.mode == "I;16"
    np.testing.assert_array_equal(decode(stored(deep, file_format), PLAIN), decode(COINS, PLAIN))


def test_every_16_bit_level_is_rounded():
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    pixels = decode(Image.fromarray(levels), ImageFormat(size=256))
    np.testing.assert_array_equal(pixels[0], np.round(levels / 65535 * 255))


def test_floating_point_in_0_to_1():
    levels = np.asarray(COINS, dtype=np.float32) / 255
    np.testing.assert_array_equal(
        decode(stored(Image.fromarray(levels), "TIFF"), PLAIN), decode(COINS, PLAIN)
    )


@pytest.mark.parametrize("levels", [[[0.0, 1.5]], [[-0.1, 0.5]]])
def test_floating_point_of_another_range_is_refused(levels):
    with pytest.raises(UndecodableError, match=r"grey levels .*, expected 0\.\.1"):
        decode(Image.fromarray(np.array(levels, dtype=np.float32)), PLAIN)


def test_grey_levels_that_are_no_numbers_are_called_that():
    for levels in ([[np.nan, 0.5]], [[0.5, -np.inf]]):
        with pytest.raises(UndecodableError, match="NaN or infinite"):
            decode(Image.fromarray(np.array(levels, dtype=np.float32)), ImageFormat(16))


@pytest.mark.parametrize("name", ["x.svg", "x.NEF"])
def test_raw_photographs_are_refused_by_name(tmp_path, name):
    """Not decoded as the preview that Pillow finds in them."""
    Image.new("L", (9, 9)).save(tmp_path / name, "TIFF")
    with pytest.raises(UndecodableError, match="not read; convert"):
        decode(tmp_path / name, ImageFormat(16))


def test_integers_beyond_16_bits_are_refused():
    with pytest.raises(UndecodableError, match=r"grey levels 0\.\.65536, expected 0\.\.65535"):
        decode(Image.fromarray(np.array([[0, 65536]], dtype=np.int32)), PLAIN)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_rotation(orientation, file_format):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = stored(CAT, file_format, exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        expected = oracle(ImageOps.exif_transpose(image), PLAIN)
    np.testing.assert_array_equal(decode(data, PLAIN), expected)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"]
)
def test_damaged_exif_is_no_rotation(exif):
    data = stored(CAT, "JPEG", exif=exif)
    pixels = decode(data, PLAIN)
    with warnings.catch_warnings(action="ignore"):
        expected = oracle(Image.open(io.BytesIO(data)), PLAIN)
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_first_frame_of_an_animation(file_format):
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("white", "black")]
    data = stored(frames[0], file_format, save_all=True, append_images=frames[1:])
    assert decode(data, PLAIN).min() > 250


def test_file_bytes_and_open_file_are_the_same(tmp_path):
    path = tmp_path / "cat.png"
    CAT.save(path)
    expected = decode(CAT, PLAIN)
    np.testing.assert_array_equal(decode(path, PLAIN), expected)
    np.testing.assert_array_equal(decode(path.read_bytes(), PLAIN), expected)
    with path.open("rb") as file:
        np.testing.assert_array_equal(decode(file, PLAIN), expected)


def test_leaves_an_image_as_it_was():
    image = CAT.copy()
    decode(image, ImageFormat(crop=True))
    assert image == CAT


def test_what_cannot_be_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").touch()
    (tmp_path / "cut.jpg").write_bytes(stored(COINS.resize((90, 90)), "JPEG")[:-300])
    (tmp_path / "cut.png").write_bytes(stored(COINS.resize((90, 90)), "PNG")[:-300])
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "nowhere.png").symlink_to("missing")
    os.mkfifo(tmp_path / "pipe.png")
    COINS.resize((110, 110)).save(tmp_path / "large.png")
    COINS.resize((200, 200)).save(tmp_path / "bomb.png")
    (tmp_path / "page.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    reasons = {
        "text.png": "is not an image of a known format",
        "empty.png": "is empty (0 bytes)",
        "cut.jpg": "truncated",
        "cut.png": "truncated",
        "folder.png": "is a folder",
        "loop.png": "Too many levels of symbolic links",
        "nowhere.png": "No such file",
        "pipe.png": "is not a regular file",
        "large.png": "unpacks to more than 10000 pixels",
        "bomb.png": "unpacks to more than 10000 pixels",
        "page.png": "is not an image of a known format",
        "nul\0.png": "null",
    }
    for name, reason in reasons.items():
        with pytest.raises(UndecodableError) as caught:
            decode(tmp_path / name, PLAIN)
        assert reason in caught.value.reason
        assert str(caught.value).startswith(displayed(tmp_path / name) + ": ")
        assert len(str(caught.value).splitlines()) == 1


def test_names_that_are_no_utf8(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9\n.png"))
    CAT.save(path)
    np.testing.assert_array_equal(decode(path, PLAIN), decode(CAT, PLAIN))
    assert displayed(path) == f"{tmp_path}/caf\\xe9\\n.png"
    path.write_bytes(b"")
    with pytest.raises(UndecodableError, match=r"caf\\xe9\\n.png: is empty"):
        decode(path, PLAIN)


@given(st.text(st.characters()))
def test_every_name_is_displayed_as_one_printable_line(name):
    shown = displayed(name)
    assert shown.isprintable()
    shown.encode("utf-8")
    if name.isprintable():
        assert shown == name


@st.composite
def images(draw):
    """Pixels of a random mode and size."""
    mode = draw(st.sampled_from(MODES))
    width, height = draw(st.integers(1, 90)), draw(st.integers(1, 90))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65536, (height, width), dtype=np.uint16))
    if mode == "I":
        high = draw(st.sampled_from([255, 65535, 2**31 - 1]))
        return Image.fromarray(rng.integers(0, high, (height, width), dtype=np.int32))
    if mode == "F":
        return Image.fromarray(rng.normal(0.5, 0.2, (height, width)).astype(np.float32))
    bands = len(Image.new(mode, (1, 1)).getbands())
    pixels = rng.integers(0, 256, width * height * bands, dtype=np.uint8).tobytes()
    image = Image.new("L", (width * bands, height))
    image.frombytes(pixels)
    if mode in ("1", "P"):
        image = image.resize((width, height)).convert(mode)
        if mode == "P" and draw(st.booleans()):
            image.info["transparency"] = bytes(range(256))
        return image
    return Image.frombytes(mode, (width, height), pixels)


@st.composite
def files(draw):
    """Bytes of a picture of a random format, whole, cut, changed, or no picture at all."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=200))
    image = draw(images())
    file_format = draw(st.sampled_from(FORMATS))
    with warnings.catch_warnings(action="ignore"):
        try:
            data = stored(image, file_format)
        except (OSError, ValueError, KeyError, TypeError):  # a format without this mode
            data = stored(image.convert("RGB") if image.mode != "LAB" else CAT, "PNG")
    damage = draw(st.sampled_from(["none", "cut", "changed", "inserted"]))
    at = draw(st.integers(0, len(data)))
    if damage == "cut":
        return data[:at]
    if damage == "changed":
        some = draw(st.binary(min_size=1, max_size=8))
        return data[:at] + some + data[at + len(some) :]
    if damage == "inserted":
        return data[:at] + draw(st.binary(min_size=1, max_size=300)) + data[at:]
    return data


FORMS = st.builds(
    ImageFormat, st.sampled_from([16, 32, 48]), st.sampled_from([1, 3]), st.booleans()
)


def check_decode(source, form):
    """Decode, or be refused with one line; never with a warning, which pytest makes an error."""
    refused = None
    try:
        pixels = decode(source, form)
    except UndecodableError as error:
        refused = error
    if refused is not None:
        assert refused.reason
        assert len(str(refused).splitlines()) == 1
    else:
        assert pixels.shape == form.shape
        assert pixels.dtype == np.uint8
        assert pixels.flags.c_contiguous


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(files(), FORMS)
def test_random_files_are_decoded_or_refused(data, form):
    check_decode(data, form)


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(images(), FORMS)
def test_random_images_are_decoded_or_refused(image, form):
    check_decode(image, form)


def test_an_image_without_pixels_is_refused():
    with pytest.raises(UndecodableError):
        decode(Image.new("L", (0, 5)), PLAIN)


def png_with_large_header():
    """A PNG of 30 bytes that says it has 10^9 pixels."""
    header = struct.pack(">IIBBBBB", 31_623, 31_623, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(header)) + b"IHDR" + header + b"\0\0\0\0"


def test_the_filters_of_warnings_are_restored(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    before = list(warnings.filters)
    with pytest.raises(UndecodableError) as caught:
        decode(stored(COINS.resize((12, 12)), "PNG"), PLAIN)
    assert "100 pixels" in caught.value.reason
    assert warnings.filters == before


def test_a_header_that_promises_too_much_is_refused():
    with pytest.raises(UndecodableError):
        decode(png_with_large_header(), PLAIN)


def test_the_limit_of_pixels_can_be_raised(monkeypatch, tmp_path):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    path = tmp_path / "a.png"
    COINS.resize((12, 12)).save(path)
    with pytest.raises(UndecodableError, match="100 pixels; .*ATTRACTOR_AE_MAX_PIXELS"):
        decode(path, PLAIN)
    with pytest.raises(BrokenFilesError):
        load(str(tmp_path), "all", cache=tmp_path / "cache")
    monkeypatch.setenv("ATTRACTOR_AE_MAX_PIXELS", "144")
    assert decode(path, PLAIN).shape == (1, 64, 64)
    assert len(load(str(tmp_path), "all", cache=tmp_path / "cache")) == 1  # not from the cache
    assert Image.MAX_IMAGE_PIXELS == 100
    for wrong in ("many", "0", "-5", "1e9"):
        monkeypatch.setenv("ATTRACTOR_AE_MAX_PIXELS", wrong)
        with pytest.raises(AttractorError, match="number of pixels"):
            decode(path, PLAIN)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits"])
def test_what_libtiff_says_is_part_of_the_reason(capfd, compression):
    data = bytearray(stored(COINS, "TIFF", compression=compression))
    reasons = []
    for place in range(8, len(data), len(data) // 40):
        damaged = data[:place] + bytes(40) + data[place + 40 :]
        try:
            decode(bytes(damaged), PLAIN)
        except UndecodableError as error:
            reasons.append(error.reason)
    assert any(reasons)
    assert all(len(reason.splitlines()) == 1 for reason in reasons)
    assert any(word in " ".join(reasons) for word in ("Decode", "TIFF", "JPEG", "LZW"))
    os.write(2, b"standard error is as before")
    assert capfd.readouterr().err == "standard error is as before"


def test_threads_that_read_tiffs_keep_standard_error(capfd, tmp_path):
    """Each redirects it; the last one must not restore what another one had redirected."""
    images = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    Image.fromarray(images).save(tmp_path / "1.tif", compression="tiff_lzw")
    with without_warnings(), ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: decode_quietly(tmp_path / "1.tif", ImageFormat(16)), range(100)))
    os.write(2, b"still here")
    assert capfd.readouterr().err == "still here"


def test_suffixes_are_those_of_what_is_read():
    suffixes = image_suffixes()
    assert {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".ppm"} <= suffixes
    assert not {".pdf", ".h5", ".mpg", ".eps", ".txt", ""} & suffixes


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"size": 0}, "multiple of 16 from 16 to 4096, got 0"),
        ({"size": 40}, "multiple of 16 from 16 to 4096, got 40"),
        ({"size": -16}, "multiple of 16 from 16 to 4096, got -16"),
    ],
)
def test_a_format_that_no_network_takes(changed, message):
    with pytest.raises(AttractorError, match=message):
        ImageFormat(**changed)


@pytest.mark.parametrize("size", [(40, 20), (20, 40)])
def test_padding_adds_black_margins(size):
    found = decode(Image.new("L", size, 200), ImageFormat(size=64, pad=True))[0]
    upright = found if size[0] > size[1] else found.T
    assert (upright[:15] == 0).all()
    assert (upright[17:47] == 200).all()
    assert (upright[49:] == 0).all()
