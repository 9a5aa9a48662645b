"""The standardised space, against scikit-learn, and what a network in it cannot see."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler

from attractor_ae import AttractorDetector, Autoencoder, load
from attractor_ae._devices import pixels
from attractor_ae._errors import AttractorError
from attractor_ae.core.dynamics import iterate
from attractor_ae.core.masks import trial_masks
from attractor_ae.core.spaces import Standardised, make_space


@pytest.fixture(scope="module")
def photos():
    return load("photos", "test").images[:8]


@pytest.fixture
def network():
    generator = torch.Generator().manual_seed(0)
    return Autoencoder(latent_dim=16, space="standardised", generator=generator)


def test_points_are_those_of_a_standard_scaler(photos):
    x = pixels(torch.from_numpy(photos), torch.device("cpu"))
    scaled = StandardScaler().fit_transform(x.flatten(1).T.numpy()).T  # one column per image
    points = Standardised().points(x)
    np.testing.assert_allclose(points.flatten(1), 0.5 + 0.25 * scaled, atol=1e-5)
    torch.testing.assert_close(Standardised().points(points), points)


@given(gain=st.floats(0.1, 10), offset=st.floats(-1, 1))
def test_brightness_and_contrast_do_not_matter(photos, gain, offset):
    x = pixels(torch.from_numpy(photos[:2]), torch.device("cpu"))
    points = Standardised().points(x)
    changed = Standardised().points(offset + gain * x)
    torch.testing.assert_close(changed, points, atol=1e-4, rtol=0)


def test_an_image_of_one_grey_level_stays_so():
    points = Standardised().points(torch.full((1, 3, 32, 32), 0.1))
    torch.testing.assert_close(points, torch.full((1, 3, 32, 32), 0.5), atol=1e-4, rtol=0)
    noise = torch.full((1, 1, 32, 32), 0.1)
    noise[0, 0, ::2] += 1 / 255
    assert Standardised().points(noise).std() < 0.06  # rounding is not made a pattern


def test_a_point_does_not_depend_on_its_batch():
    x = torch.rand(5, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    channels_last = x.contiguous(memory_format=torch.channels_last)
    whole = Standardised().points(x)
    assert torch.equal(Standardised().points(channels_last), whole)
    for i in range(5):
        assert torch.equal(Standardised().points(x[i : i + 1])[0], whole[i])
        assert torch.equal(Standardised().points(channels_last[i : i + 1])[0], whole[i])


def test_every_recursion_starts_from_a_point(network, photos):
    x = pixels(torch.from_numpy(photos[:3]), torch.device("cpu"))
    masks = trial_masks(network.site_shapes, 0.33, 0, 0)
    plain = Autoencoder(latent_dim=16)
    plain.load_state_dict(network.state_dict())
    with torch.no_grad():
        path = iterate(network, x, masks, 3)
        state = x
        for r in range(3):
            z, state = plain.encode(Standardised().points(state), masks), None
            torch.testing.assert_close(path.latents[r], z)
            state = plain.decode(z, masks)
            torch.testing.assert_close(path.reconstructions[r], state)


def test_a_detector_measures_distances_between_points(network, photos, tmp_path):
    detector = AttractorDetector(
        network, recursions=2, recursion=1, trials=2, precision="float32", head="knn"
    )
    detector.fit(photos, np.arange(8) % 2)
    darker = photos.astype(np.float32) / 255 / 4
    names = ["reconstruction_error", "ssim_distance", "step", "knn_distance"]
    found, same = (detector.predict_scores(x, names).scores for x in (photos, darker))
    for name in names:
        torch.testing.assert_close(found[name], same[name], atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        paths = detector.trajectory(photos)
        x = Standardised().points(pixels(torch.from_numpy(photos), torch.device("cpu")))
        errors = [(path.reconstructions[1] - x).square().mean((1, 2, 3)).sqrt() for path in paths]
    expected = torch.stack(errors).mean(0).double()
    torch.testing.assert_close(found["reconstruction_error"][1], expected, atol=1e-5, rtol=1e-5)
    detector.save(tmp_path / "d.safetensors")
    from attractor_ae import load_detector

    again = load_detector(tmp_path / "d.safetensors").predict_scores(photos, names).scores
    assert all(torch.equal(again[name], found[name]) for name in names)


def test_an_unknown_space_is_named():
    with pytest.raises(AttractorError, match="pixel"):
        make_space("pixel")
