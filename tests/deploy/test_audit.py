import numpy as np
import pytest
from PIL import Image, ImageFilter
from small_models import write_images

from attractor_ae import load
from attractor_ae.data import ImageFormat
from attractor_ae.deploy.audit import audit

FORM = ImageFormat(96, 3)


@pytest.fixture(scope="module")
def photographs():
    """Two photographs' crops of each of several kinds, in colour."""
    return load("specimens", "train", per_class=24, image_format=FORM).images


def audited(folder, held_out=(), test=None):
    images, tested = (
        path and load(str(path), "all", image_format=FORM, max_broken=1.0)
        for path in (folder, test)
    )
    names = [path.split(f"{folder.name}/")[1] for path in images.paths]
    rows = np.array([i for i, name in enumerate(names) if name in held_out], dtype=np.int64)
    return audit(images, rows, tested)


def names(found):
    return {path.rsplit("/", 1)[1].split(" ")[0] for path in found}


def test_everything_is_found_and_nothing_else(photographs, tmp_path):
    write_images(tmp_path / "set/a", photographs[:24])
    write_images(tmp_path / "set/b", photographs[24:40])
    plain = audited(tmp_path / "set")
    assert (plain.images, plain.classes, plain.per_class) == (40, 2, (16, 24))
    assert plain.few == ("b (16)",)
    for found in (plain.broken, plain.blank, plain.exact, plain.leaked, plain.conflicting):
        assert found == ()
    usual = len(plain.near)  # crops of one photograph may resemble each other

    folder = tmp_path / "set/b"
    (folder / "broken.png").write_bytes(b"\x89PNG nothing")
    Image.new("RGB", (96, 96), "teal").save(folder / "blank.png")
    original = Image.fromarray(np.moveaxis(photographs[3], 0, 2))
    original.save(folder / "copy.png")  # of an image of class a
    original.filter(ImageFilter.GaussianBlur(1)).save(tmp_path / "set/a/blurred.jpg", quality=80)
    found = audited(tmp_path / "set", {"a/blurred.jpg"})
    assert names(found.broken) == {"broken.png"}
    assert names(found.blank) == {"blank.png"}
    assert names(found.exact) == {"copy.png"}
    assert len(found.near) == usual + 1
    assert names(found.leaked) == {"blurred.jpg"}
    assert names(found.conflicting) == {"003.png", "copy.png", "blurred.jpg"}
    text = "\n".join(found.lines())
    for name in ("broken.png", "blank.png", "copy.png", "blurred.jpg"):
        assert name in text


def test_test_images_are_compared_with_the_others(photographs, tmp_path):
    write_images(tmp_path / "set/a", photographs[:24])
    test = tmp_path / "test"
    new = np.random.default_rng(0).integers(0, 256, (2, 3, 96, 96), np.uint8)
    write_images(test, [*new, photographs[5]], ["new.png", "twice.png", "copy.png"])
    original = Image.fromarray(np.moveaxis(photographs[3], 0, 2))
    original.filter(ImageFilter.GaussianBlur(1)).save(test / "blurred.jpg", quality=80)
    (test / "broken.png").write_bytes(b"\x89PNG nothing")
    found = audited(tmp_path / "set", test=test)
    assert (found.images, found.tested) == (24, 4)
    assert names(found.tested_exact) == {"copy.png"}
    assert names(found.tested_near) == {"blurred.jpg"}
    assert names(found.broken) == {"broken.png"}
    assert found.exact == audited(tmp_path / "set").exact == ()
    text = "\n".join(found.lines())
    assert "4 test images" in text
    assert all(f"(1): {test / name}" in text for name in ("copy.png", "blurred.jpg"))


def test_colour_is_seen_and_grey_photographs_are_not(photographs, tmp_path):
    coloured = audited_colour(photographs[:10], tmp_path / "colour")
    grey = np.repeat(photographs[:10].mean(1, keepdims=True).astype(np.uint8), 3, axis=1)
    assert coloured > 0.5
    assert audited_colour(grey, tmp_path / "grey") == 0


def audited_colour(images, folder):
    for i, image in enumerate(images):
        folder.mkdir(exist_ok=True)
        Image.fromarray(np.moveaxis(image, 0, 2)).save(folder / f"{i}.jpg", quality=70)
    return audited(folder).coloured
