import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import functional

from attractor_ae._errors import AttractorError
from attractor_ae.data import CATALOGUE, ImageFormat, find_dataset, load
from attractor_ae.data.sources.sviro import SEATINGS

RANDOM = np.random.default_rng(0)


def save(path, shape=(64, 64), colour=False):
    """Write a random picture and return its grey levels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    grey = RANDOM.integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(np.repeat(grey[..., None], 3, axis=2) if colour else grey).save(path)
    return grey


def read(name, split, root, **wanted):
    return load(name, split, root=root, cache=root / "cache", **wanted)


def write_sviro(root, car="tesla", split="train", shape=(64, 64)):
    """Write pictures with SVIRO's names; return those that are kept, in the set's order."""
    folder = root / "sviro" / car / split / "grayscale_wholeImage"
    names = [(f"{car}_{split}_imageID_{i}_GT_{s}", s) for i, s in enumerate(SEATINGS[::-1])]
    names += [(f"{car}_{split}_imageID_{100 + i}_GT_0_{s}_3", "") for i, s in enumerate("12456")]
    written = {name: (save(folder / f"{name}.png", shape), s) for name, s in names}
    ordered = [written[name] for name in sorted(written)]
    return [(grey, SEATINGS.index(seating)) for grey, seating in ordered if seating]


@pytest.mark.parametrize("split", ["train", "test"])
def test_sviro_reads_back_what_was_written(tmp_path, split):
    truth = write_sviro(tmp_path, split=split)
    for _ in range(2):  # decoded, and from the cache
        found = read("sviro", split, tmp_path)
        np.testing.assert_array_equal(found.images[:, 0], [grey for grey, _ in truth])
        assert found.labels.tolist() == [label for _, label in truth]
        assert (found.name, found.split, found.classes) == ("sviro", split, SEATINGS)


def test_any_of_the_ten_cars(tmp_path):
    cars = CATALOGUE["sviro"].factors[:-1]
    assert len(cars) == 10
    truth = {car: write_sviro(tmp_path, car) for car in cars}
    for car in cars:
        found = read("sviro", "train", tmp_path, factor=car)
        np.testing.assert_array_equal(found.images[:, 0], [grey for grey, _ in truth[car]])
    default = read("sviro", "train", tmp_path)
    np.testing.assert_array_equal(default.images[:, 0], [grey for grey, _ in truth["tesla"]])


def test_the_centre_is_cropped_to_the_shorter_side(tmp_path):
    truth = write_sviro(tmp_path, shape=(640 // 4, 960 // 4))
    found = read("sviro", "train", tmp_path)
    for image, (grey, _) in zip(found.images[:, 0], truth, strict=True):
        centre = functional.center_crop(Image.fromarray(grey), [160])
        np.testing.assert_array_equal(image, np.asarray(functional.resize(centre, [64, 64])))


SPLITS = [
    *("train-adults", "train-adults-and-seats", "test-adults", "test-objects", "test-seats"),
    *("test-adults-and-objects", "test-adults-and-seats", "test-adults-and-seats-and-objects"),
]


def test_the_splits_are_the_protocols():
    assert list(CATALOGUE["sviro_uncertainty"].splits) == SPLITS


# Everything but an adult counts as empty.
UNCERTAIN = {
    "0_0_0": 0, "0_0_3": 1, "0_3_0": 2, "3_0_0": 3, "0_3_3": 4, "3_0_3": 5, "3_3_0": 6,
    "3_3_3": 7, "4_4_4": 0, "1_2_3": 1, "5_3_6": 2, "3_4_1": 3, "2_3_3": 4, "3_2_3": 5,
    "3_3_4": 6,
}  # fmt: skip


def write_uncertainty(root, split):
    """Write both pictures of each scene; return the grey levels of each kind, and the labels."""
    folder = root / "sviro_uncertainty/sharan" / split
    scenes = [(f"{i:04}_GT_{s}", label) for i, (s, label) in enumerate(UNCERTAIN.items())]
    pictures = {
        "ir": [save(folder / scene / "ir.png") for scene, _ in scenes],
        "rgb": [save(folder / scene / "rgb.png", colour=True) for scene, _ in scenes],
    }
    return pictures, [label for _, label in scenes]


@pytest.mark.parametrize("split", SPLITS)
def test_uncertainty_reads_back_what_was_written(tmp_path, split):
    pictures, labels = write_uncertainty(tmp_path, split)
    for _ in range(2):
        for factor, truth in (("sharan", "ir"), ("sharan/rgb", "rgb"), ("", "ir")):
            found = read("sviro_uncertainty", split, tmp_path, factor=factor)
            np.testing.assert_array_equal(found.images[:, 0], pictures[truth])
            assert found.labels.tolist() == labels
            assert (found.split, found.classes) == (split, SEATINGS)


def test_the_first_of_each_class(tmp_path):
    pictures, labels = write_uncertainty(tmp_path, "train-adults")
    found = read("sviro_uncertainty", "train-adults", tmp_path, per_class=1)
    assert found.labels.tolist() == list(range(8))
    np.testing.assert_array_equal(found.images[:, 0], pictures["ir"][:8])
    # A selection and a variation are not taken for each other.
    other = read("sviro_uncertainty", "train-adults", tmp_path, per_class=1, factor="sharan/rgb")
    np.testing.assert_array_equal(other.images[:, 0], pictures["rgb"][:8])
    assert len(read("sviro_uncertainty", "train-adults", tmp_path)) == len(labels)


def test_colour(tmp_path):
    pictures, _ = write_uncertainty(tmp_path, "test-adults")
    form = ImageFormat(channels=3)
    found = read(
        "sviro_uncertainty", "test-adults", tmp_path, factor="sharan/rgb", image_format=form
    )
    np.testing.assert_array_equal(found.images[0], np.stack([pictures["rgb"][0]] * 3))


def test_unknown_factors_are_one_line(tmp_path):
    write_sviro(tmp_path)
    with pytest.raises(AttractorError, match=r"^unknown factor of data set 'sviro': 'telsa'; did"):
        read("sviro", "train", tmp_path, factor="telsa")
    with pytest.raises(
        AttractorError, match=r"'sviro_uncertainty': 'depth'; known: sharan, sharan/rgb$"
    ):
        find_dataset("sviro_uncertainty", tmp_path).check_present("train-adults", "depth")
    with pytest.raises(AttractorError, match=r"^data set 'mnist' has no variants, .* 'red'"):
        read("mnist", "train", tmp_path, factor="red")


def test_the_wanted_car_is_looked_for(tmp_path):
    write_sviro(tmp_path, "zoe")
    write_sviro(tmp_path, "zoe", "test")
    assert not find_dataset("sviro", tmp_path).status().present
    find_dataset("sviro", tmp_path).check_present("train", "zoe")
    with pytest.raises(AttractorError, match=f"^data set 'sviro' needs {tmp_path}/sviro/tesla/tr"):
        read("sviro", "train", tmp_path)


@pytest.mark.parametrize("name", ["tesla_train_imageID_3.png", "x_GT_0_3.png", "x_GT_0_3_9.png"])
def test_a_name_that_tells_no_label(tmp_path, name):
    write_sviro(tmp_path)
    path = tmp_path / "sviro/tesla/train/grayscale_wholeImage" / name
    save(path)
    with pytest.raises(AttractorError, match=f"^{path}: the name of the file should end in GT_a_b"):
        read("sviro", "train", tmp_path)


def test_a_folder_without_images(tmp_path):
    (tmp_path / "sviro/tesla/train/grayscale_wholeImage").mkdir(parents=True)
    with pytest.raises(AttractorError, match="no image of empty seats and adults matches"):
        read("sviro", "train", tmp_path)
