import numpy as np
import pytest

from attractor_ae.data import ImageSet, load
from attractor_ae.reporting import contact_sheet, save_figure


def made(labels, classes, channels=1, size=64, name="made"):
    images = np.random.default_rng(0).integers(
        0, 256, (len(labels), channels, size, size), dtype=np.uint8
    )
    return ImageSet(name, "train", images, np.array(labels, dtype=np.int64), classes)


def captions(figure):
    return [text.get_text() for text in figure.axes[0].get_yticklabels()]


def sheet(figure):
    return np.asarray(figure.axes[0].get_images()[0].get_array())


def test_a_row_a_class_with_counts():
    images = made([1, 0, 1, 1, 0], ("left", "right", "none"))
    figure = contact_sheet(images, columns=2)
    assert captions(figure) == ["left\n2 images", "right\n3 images", "none\n0 images"]
    assert figure.texts[0].get_text() == "made, train: 5 images of 3 classes"
    drawn = sheet(figure)
    assert drawn.shape == (3 * 68, 2 * 68)
    for row, column, index in ((0, 0, 1), (0, 1, 4), (1, 0, 0), (1, 1, 2)):
        cell = drawn[row * 68 : row * 68 + 64, column * 68 : column * 68 + 64]
        np.testing.assert_array_equal(cell, images.images[index, 0])
    assert (drawn[2 * 68 :] == 255).all()


def test_images_without_a_label():
    assert captions(contact_sheet(made([-1, -1], ()))) == ["no label\n2 images"]
    some = contact_sheet(made([0, -1], ("known",)))
    assert captions(some) == ["known\n1 image", "no label\n1 image"]


def test_colour_and_other_sizes():
    images = made([0], ("one",), channels=3, size=128)
    drawn = sheet(contact_sheet(images, columns=1))
    assert drawn.shape == (136, 136, 3)
    np.testing.assert_array_equal(drawn[:128, :128], images.images[0].transpose(1, 2, 0))


def test_of_many_classes_the_first_are_drawn():
    names = tuple(f"scene {i}" for i in range(365))
    figure = contact_sheet(made(range(365), names), rows=5)
    assert len(captions(figure)) == 5
    assert "365 images of 365 classes; the first 5 classes" in figure.texts[0].get_text()


@pytest.mark.parametrize("name", ["$x^2$", "a_b", "x" * 90, "ü/é", "100 %"])
def test_names_are_text(tmp_path, name):
    # matplotlib would take what stands between dollars for mathematics.
    save_figure(contact_sheet(made([0], (name,))), tmp_path / "sheet")


def test_is_written_as_a_picture(tmp_path, digits):
    files = save_figure(contact_sheet(digits), tmp_path / "sheet")
    assert [file.name for file in files] == ["sheet.png", "sheet.pdf"]
    assert all(file.stat().st_size > 1000 for file in files)


def test_a_set_of_real_photographs():
    assert len(captions(contact_sheet(load("photos", "test")))) == 9
