import sys

import numpy as np
import pytest
from sklearn.metrics import silhouette_score

from attractor_ae import AttractorError
from attractor_ae.data import load
from attractor_ae.reporting import latent_map, save_figure


def points(figure):
    return {line.get_label(): line.get_xydata() for line in figure.axes[0].lines}


def flat(label):
    return label.replace("\n", " ")


@pytest.fixture(scope="module")
def codes(digits):
    """Real digits as they are, in place of codes: three classes that lie apart."""
    chosen = load("mnist5k", "train", per_class=12)
    rows = np.isin(chosen.labels, (0, 1, 6))
    flat = chosen.images[rows].reshape(rows.sum(), -1) / 255.0
    return flat, np.searchsorted((0, 1, 6), chosen.labels[rows])


@pytest.fixture(scope="module")
def noise(codes):
    return np.random.default_rng(0).random((9, codes[0].shape[1]))


def test_classes_that_lie_apart_lie_apart_in_the_picture(codes, noise, tmp_path):
    figure = latent_map(*codes, ("zero", "one", "six"), {"noise": noise}, title="recursion 1")
    drawn = points(figure)
    assert {name: len(found) for name, found in drawn.items()} == {
        "zero": 12,
        "one": 12,
        "six": 12,
        "noise": 9,
    }
    every = np.concatenate(list(drawn.values()))
    assert np.isfinite(every).all()
    assert silhouette_score(every, np.repeat([0, 1, 2, 3], (12, 12, 12, 9))) > 0.3
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["zero", "one", "six", "noise (unknown)"]
    assert figure.axes[0].get_title(loc="left") == "recursion 1"
    # Unknown images are drawn last, on top.
    assert figure.axes[0].lines[-1].get_label() == "noise"
    assert all(path.stat().st_size > 1000 for path in save_figure(figure, tmp_path / "latent"))


@pytest.mark.usefixtures("unchanged_random_state")
def test_the_same_seed_gives_the_same_map(codes):
    first, again = (points(latent_map(*codes, "abc", seed=3)) for _ in range(2))
    for name in "abc":
        np.testing.assert_array_equal(first[name], again[name])


def test_diverged_codes_are_left_out_and_told(codes, noise):
    flat, labels = codes
    lost = flat.copy()
    lost[np.flatnonzero(labels == 1)[:2]] = np.nan
    gone = noise.copy()
    gone[4, 7] = np.nan
    figure = latent_map(lost, labels, "abc", {"noise": gone}, title="map")
    assert {name: len(found) for name, found in points(figure).items()} == {
        "a": 12,
        "b": 10,
        "c": 12,
        "noise": 8,
    }
    assert figure.axes[0].get_title(loc="left") == "map (diverged, left out: 3)"


def test_of_many_classes_the_first_are_named():
    rng = np.random.default_rng(0)
    names = tuple(f"sign {i}" for i in range(25))
    figure = latent_map(rng.normal(size=(50, 4)), np.arange(50) % 25, names)
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert [*map(flat, legend)] == [*names[:20], "… and 5 further classes"]
    looks = {(line.get_color(), line.get_marker()) for line in figure.axes[0].lines}
    assert len(looks) == 25


def test_what_cannot_be_drawn_is_said(codes, monkeypatch):
    flat, labels = codes
    with pytest.raises(AttractorError, match="at least 5 codes, got 4"):
        latent_map(flat[:4], labels[:4], "abc")
    monkeypatch.setitem(sys.modules, "openTSNE", None)
    with pytest.raises(AttractorError, match=r"pip install 'attractor-ae\[latent\]'"):
        latent_map(flat, labels, "abc")
