"""Names that mean a built-in set or a folder."""

import numpy as np
import pytest
from PIL import Image

from attractor_ae._errors import AttractorError
from attractor_ae._reporter import Reporter
from attractor_ae.data.load import find_dataset, load, own_names


class Notes(Reporter):
    def __init__(self):
        self.lines = []

    def note(self, line):
        self.lines.append(line)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a folder that has a folder of images in two classes, called Textures."""
    monkeypatch.chdir(tmp_path)
    for k, name in enumerate(("wool", "silk")):
        (tmp_path / "Textures" / name).mkdir(parents=True)
        for i in range(3):
            picture = np.full((20, 20), 40 * k + i, dtype=np.uint8)
            Image.fromarray(picture).save(tmp_path / f"Textures/{name}/{i}.png")
    return tmp_path


def test_a_folder_comes_before_a_built_in_set_in_another_case(folder):
    notes = Notes()
    found = load("Textures", "all", root=folder / "none", cache=folder / "c", reporter=notes)
    assert found.classes == ("silk", "wool")
    assert notes.lines == [
        "'Textures' is the folder Textures; for the built-in data set, write textures"
    ]


def test_the_exact_name_means_the_built_in_set(folder):
    (folder / "Textures").rename(folder / "textures")
    found = find_dataset("textures", folder / "none")
    assert found.info.kind == "built-in"
    assert found.note == "'textures' is the built-in data set; for the folder, write ./textures"
    own = find_dataset("./textures", folder / "none")
    assert (own.info.kind, own.note) == ("own", "")


def test_without_a_folder_the_case_does_not_matter(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("mnist5k", "MNIST5K", "Faces"):
        found = find_dataset(name, tmp_path)
        assert (found.info.name, found.note) == (name.lower(), "")
    with pytest.raises(AttractorError, match="unknown data set 'Facess'; did you mean 'faces'"):
        find_dataset("Facess", tmp_path)


def test_folders_of_the_data_root_are_listed_without_those_of_built_in_sets(folder):
    (folder / "SVHN").mkdir()
    assert own_names(folder) == ("Textures",)
