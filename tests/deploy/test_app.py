"""What the app shows of an image; tests/browser/test_app.py opens it in a browser."""

import base64
import io
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from at_terminal import error_line, invoke
from PIL import Image
from sklearn.metrics.pairwise import cosine_similarity
from small_models import make_model, write_images
from torchvision.transforms.v2.functional import gaussian_blur, invert

from attractor_ae.core.autoencoder import FeatureAutoencoder
from attractor_ae.core.masks import trial_masks
from attractor_ae.deploy.app import altered, look, training_picture
from attractor_ae.deploy.model import make_thumbnails
from attractor_ae.extractors import _MADE, Extractor, make_extractor, register


@pytest.fixture
def image(small_digits):
    return small_digits[2].images[7]


def test_nothing_is_altered_by_zeros(image):
    np.testing.assert_array_equal(altered(image), image)


def test_blur_and_negative_are_those_of_torchvision(image):
    blurred = gaussian_blur(torch.from_numpy(image).double() / 255, [15, 15], [1.6, 1.6])
    found = altered(image, blur=10.0)  # % of 16 pixels
    # torchvision's kernel ends after 7 pixels, SciPy's after 4 deviations.
    np.testing.assert_allclose(found, 255 * blurred.numpy(), atol=0.6)
    np.testing.assert_array_equal(
        altered(image, negative=True), invert(torch.from_numpy(image)).numpy()
    )


def test_noise_has_its_deviation_and_depends_on_the_seed_alone():
    grey = np.full((3, 128, 128), 128, np.uint8)
    noisy = altered(grey, noise=10.0)
    assert noisy.std() / 255 == pytest.approx(0.1, rel=0.02)
    np.testing.assert_array_equal(altered(grey, noise=10.0), noisy)
    assert (altered(grey, noise=10.0, seed=1) != noisy).mean() > 0.9


@pytest.mark.parametrize(("occlusion", "side"), [(25.0, 8), (100.0, 16)])
def test_a_grey_square_covers_its_area(occlusion, side):
    covered = altered(np.zeros((1, 16, 16), np.uint8), occlusion=occlusion)[0]
    assert (covered == 128).sum() == side**2
    edge = (16 - side) // 2
    assert (covered[edge : edge + side, edge : edge + side] == 128).all()


@pytest.mark.parametrize(("masks", "used"), [(None, 3), (3, 3), (2, 2), (1, 1)])
def test_the_numbers_are_those_of_score(shared_model, image, masks, used):
    view = look(shared_model, image, masks, alpha=0.1)
    trials = None if used == 3 else (used, used)
    (verdict,) = shared_model.score(image[None], alpha=0.1, trials=trials)
    assert (view.verdict, view.masks) == (verdict, used)
    assert view.probabilities[0] == (verdict.label, pytest.approx(verdict.probability, abs=1e-6))
    p = shared_model.detector.sample_proba(image[None])[:used, 0].mean(0)
    expected = dict(zip(shared_model.classes, p.tolist(), strict=True))
    assert dict(view.probabilities) == pytest.approx(expected, abs=1e-6)
    assert [v for _, v in view.probabilities] == sorted(expected.values(), reverse=True)


def test_masks_between_two_stages_are_rounded_down(small_digits, image):
    model = make_model(*small_digits[:2], trials=8)
    assert [look(model, image, n).masks for n in (1, 3, 4, 7, 8)] == [1, 2, 4, 4, 8]


def test_trajectories_are_the_iterated_network(shared_model, image):
    view, detector = look(shared_model, image, recursions=40), shared_model.detector
    network, points = detector.network, []
    for trial in range(3):
        mask = trial_masks(network.site_shapes, network.dropout, detector.seed, trial)
        x = [torch.from_numpy(image[None] / np.float32(255))]
        with torch.no_grad():
            for _ in range(40):
                x.append(network.decode(network.encode(x[-1], mask), mask))
        points.append(torch.cat(x).numpy())
    steps = view.steps
    assert [step.recursion for step in steps][:: len(steps) - 1] == [0, 40]
    assert len(steps) == 13
    for step in steps:
        x = np.stack([path[step.recursion] for path in points])
        np.testing.assert_allclose(step.points, 255 * x.clip(0, 1), atol=0.51)  # rounded
        moved = np.sqrt(((x - image / 255) ** 2).mean((1, 2, 3))).mean()
        assert step.moved == pytest.approx(moved, abs=1e-5)


def test_the_class_is_read_at_each_recursion_that_has_a_head(shared_model, image):
    steps = look(shared_model, image, recursions=4).steps
    p = shared_model.detector.predict_scores(image[None], []).probabilities[:, 0]
    assert [step.label for step in steps] == [
        *(shared_model.classes[i] for i in p.argmax(-1)),
        "",
        "",
        "",
    ]
    assert [step.probability for step in steps[:2]] == pytest.approx(p.amax(-1).tolist())


def test_the_nearest_training_images_have_the_most_similar_codes(shared_model, image):
    view, network = look(shared_model, image), shared_model.detector.network
    with torch.no_grad():
        code = network.encode(torch.from_numpy(image[None] / np.float32(255)))
    likeness = cosine_similarity(code, shared_model.codes)[0]
    order = np.argsort(-likeness)[:4]
    assert [row for row, _ in view.nearest] == order.tolist()
    assert [v for _, v in view.nearest] == pytest.approx(likeness[order].tolist(), abs=1e-5)
    assert shared_model.nearest[order[0]] == view.verdict.nearest


def test_on_features_the_distances_are_shown(small_digits, image):
    calls = []

    class Means(torch.nn.Module):
        def forward(self, x):
            calls.append(len(x))
            return x.unflatten(3, (4, -1)).unflatten(2, (4, -1)).mean((3, 5)).flatten(1)

    register("block means", lambda: Extractor("block means", Means(), licence="CC0"))
    try:
        network = FeatureAutoencoder(8, image_size=16, channels=1, extractor="block means")
        extract = make_extractor("block means")
        features = extract(torch.tensor(small_digits[0].images) / 255)
        network.space.fit(features)
        model = make_model(*small_digits[:2], network=network)
        calls.clear()
        view = look(model, image)
        assert len(calls) == 1  # features are computed once
        assert [view.verdict] == model.score(image[None])
        assert [step.points for step in view.steps] == [None] * 3
        x0 = network.space.points(extract(torch.tensor(image[None]) / 255))
        ends = [path.reconstructions[-1] for path in model.detector.trajectory(image[None])]
        moved = np.mean([(end - x0).square().mean().sqrt().item() for end in ends])
        assert view.steps[-1].moved == pytest.approx(moved, abs=1e-5) != 0
    finally:
        _MADE.pop("block means")
        make_extractor.cache_clear()


def test_pictures_come_from_the_given_folders_alone(model, image, tmp_path):
    write_images(tmp_path, [image, image], ["parts/3/a.png", "secret.png"])
    (tmp_path / "parts" / "broken.png").write_bytes(b"no image")
    folders = [tmp_path / "nowhere", tmp_path / "parts"]
    secret = str(tmp_path / "secret.png")
    assert Path(secret).is_file()
    model.nearest = ("3/a.png", "../secret.png", secret, "broken.png", "3/b.png", "3")
    found = [training_picture(model, row, folders) for row in range(6)]
    assert found[0].startswith("data:image/png;base64,")
    assert found[1:] == [""] * 5


def test_thumbnails_need_no_folder(model, small_digits):
    model.nearest = ()  # as of an array
    assert training_picture(model, 7, ["."]) == ""
    model.thumbnails = make_thumbnails(small_digits[0].images)
    _, _, data = training_picture(model, 7, []).partition(",")
    shown = np.array(Image.open(io.BytesIO(base64.b64decode(data))))
    np.testing.assert_array_equal(shown, model.thumbnail(7)[0])
    assert np.abs(shown - small_digits[0].images[7, 0].astype(float)).mean() < 10


def test_the_command_names_the_missing_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert "attractor-ae[app]" in error_line(invoke("app", "digits.model"))
