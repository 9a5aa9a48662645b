"""Attractors in the features of a frozen network; a small one, so that a training takes seconds."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import logsumexp
from sklearn.covariance import EmpiricalCovariance
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler
from torch import nn

from attractor_ae import (
    AttractorDetector,
    AttractorError,
    evaluate,
    fit_detector,
    load,
    load_detector,
    preset,
    train,
)
from attractor_ae.core.autoencoder import FeatureAutoencoder
from attractor_ae.core.masks import draw_masks
from attractor_ae.core.spaces import Features
from attractor_ae.data import ImageFormat
from attractor_ae.extractors import Extractor, make_extractor, register
from attractor_ae.training import features_of, with_features

SIDE = 32
SETTINGS = [
    "dataset.name=specimens",
    f"dataset.image_size={SIDE}",
    "model.extractor=patches",
    "training.epochs=25",
    "evaluation.trials=6",
    "evaluation.head_masks=1",
]


class Patches(nn.Module):
    """Means and deviations of 16 patches: 96 features."""

    def __init__(self, shift=0.0):
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(shift))
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        patches = x.unflatten(3, (4, -1)).unflatten(2, (4, -1))  # (n, 3, 4, h, 4, w)
        found = [patches.mean((3, 5)), patches.std((3, 5))]
        return torch.cat([part.flatten(1) for part in found], dim=1) + self.shift


@pytest.fixture
def patches():
    made = Extractor("patches", Patches())
    register("patches", lambda: made)
    return made


def images(split, name="specimens", **wanted):
    return load(name, split, image_format=ImageFormat(SIDE, 3), **wanted)


def config(*settings):
    return preset("photographs", [*SETTINGS, *settings])


def test_points_are_scikit_learns_standardised_features(patches):
    known, new = (torch.rand(40, 3, SIDE, SIDE) for _ in range(2))
    space = Features("patches", SIDE)
    space.fit(patches(known))
    expected = StandardScaler().fit(patches(known).double()).transform(patches(new).double())
    found = space.points(new)
    np.testing.assert_allclose(found, expected * np.sqrt(39 / 40), rtol=1e-3, atol=1e-4)
    assert torch.equal(space.points(patches(new)), found)  # of features, too


def test_the_network_is_fully_connected_with_dropout_on_its_hidden_layers(patches):
    network = FeatureAutoencoder(16, 0.25, "ELU", SIDE, extractor="patches")
    masks = draw_masks(network.site_shapes, 0.25, 5, np.random.default_rng(0))
    x = torch.randn(5, 96)
    assert network.site_shapes == ((480,),) * 4  # 384 * 1.25

    def hidden(layer, x, mask):
        return F.elu(F.linear(x, layer.weight, layer.bias)) * mask

    with torch.no_grad():
        output, code = network(x, masks)
        first, second, third, fourth = masks.sites
        expected = hidden(network.encoder[1], hidden(network.encoder[0], x, first), second)
        expected = F.linear(expected, network.latent.weight, network.latent.bias)
        torch.testing.assert_close(code, expected)
        expected = hidden(network.decoder[1], hidden(network.decoder[0], code, third), fourth)
        expected = F.linear(expected, network.output.weight, network.output.bias)
        torch.testing.assert_close(output, expected)  # all are shorter than the square root of 96
        far, _ = network(1e3 * x, masks)
        torch.testing.assert_close(far.norm(dim=1), torch.full((5,), 96**0.5))


def test_other_weights_of_the_extractor_are_refused(patches):
    space = Features("patches", SIDE)
    space.fit(patches(torch.rand(9, 3, SIDE, SIDE)))
    register("patches", lambda: Extractor("patches", Patches(1.0)))
    with pytest.raises(AttractorError, match="'patches'"):
        space.points(torch.rand(2, 3, SIDE, SIDE))


def test_features_are_computed_once(patches, tmp_path):
    some = images("test", per_class=3)
    found = features_of(some, patches, cache=tmp_path).copy()
    calls = patches.network.calls
    again = features_of(some, patches, cache=tmp_path)
    assert patches.network.calls == calls + 1  # their number
    np.testing.assert_array_equal(again, found)
    np.testing.assert_array_equal(found, patches(torch.from_numpy(some.images).float() / 255))
    other = features_of(replace(some, images=255 - some.images), patches, cache=tmp_path)
    assert not np.allclose(other, found)

    damaged = sorted(tmp_path.rglob("*.npy"))
    assert len(damaged) == 2
    for path in damaged:
        path.write_bytes(b"not an array")
    np.testing.assert_array_equal(features_of(some, patches, cache=tmp_path), found)
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]


def test_a_cache_that_cannot_be_written_is_named(patches, tmp_path):
    (tmp_path / "features").write_text("where the folder should be")
    with pytest.raises(AttractorError, match=f"{tmp_path}.*ATTRACTOR_AE_CACHE"):
        features_of(images("test", per_class=1), patches, cache=tmp_path)


def test_an_interrupted_extraction_leaves_nothing(patches, tmp_path, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(patches, "forward", interrupt)
    with pytest.raises(KeyboardInterrupt):
        features_of(images("test", per_class=1), patches, cache=tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.slow
def test_a_training_on_features_detects_and_is_stored(patches, tmp_path):
    settings = config()
    known = images("train")
    run = train(settings, known, tmp_path / "run")
    assert run.self_check()["self_check"] == "passed"
    detector = fit_detector(run.path, known)
    assert isinstance(detector, AttractorDetector)
    test, names = images("test"), ("faces", "textures", "photos", "digits8")
    outs = [images("test", name) for name in names]
    result = evaluate(detector, test, outs, scores=detector.score_names)
    found = [result.rates(name, "ood_score", result.recursion).auroc for name in names]

    # A plain baseline on the same features: the residual of the principal components.
    features = with_features(settings, known).features
    scaler = StandardScaler().fit(features)
    pca = PCA(0.95).fit(scaler.transform(features))

    def residual(some):
        x = scaler.transform(with_features(settings, some).features)
        return np.linalg.norm(x - pca.inverse_transform(pca.transform(x)), axis=1)

    def auroc(out):
        labels = np.repeat([0, 1], [len(test), len(out)])
        return roc_auc_score(labels, np.concatenate([residual(test), residual(out)]))

    assert np.mean(found) > np.mean([auroc(out) for out in outs])
    accuracy = (detector.predict_label(test.images).numpy() == test.labels).mean()
    assert accuracy > 0.8

    # Images or their features, together or alone, from memory or from a file: the same scores.
    expected = detector.predict(test.images)
    assert torch.equal(detector.predict(with_features(settings, test).features), expected)
    torch.testing.assert_close(detector.predict(test.images[4:5]), expected[4:5])
    detector.save(tmp_path / "detector.safetensors")
    calls = patches.network.calls
    detector.predict(test.images[:4])
    assert patches.network.calls == calls + 1  # for all scores together
    loaded = load_detector(tmp_path / "detector.safetensors")
    assert torch.equal(loaded.predict(test.images), expected)
    trajectory = loaded.trajectory(test.images[:2])[0]
    assert trajectory.reconstructions.shape == (3, 2, make_extractor("patches").count(SIDE))


@pytest.mark.parametrize(
    "settings",
    [
        ["training.augment=true"],
        ["training.shift=0.1"],
        ["training.loss=ssim"],
        ["model.type=conv", "model.metric="],
    ],
)
def test_settings_that_need_images_are_refused(settings):
    with pytest.raises(AttractorError, match="features are computed once"):
        config(*settings)


def test_features_of_other_images_are_refused(patches):
    some = images("test", per_class=1)
    with pytest.raises(AttractorError, match="features must have shape"):
        replace(some, features=np.zeros((len(some) + 1, 96), np.float32))


def test_a_training_without_a_loss_is_refused():
    with pytest.raises(AttractorError, match="mse_weight"):
        config("training.mse_weight=0")


def test_statistics_are_without_the_images_that_standardise_the_scores(patches):
    """The oracle is scikit-learn's; otherwise scores of training images would be too small."""
    network = FeatureAutoencoder(8, 0.3, "ReLU", SIDE, extractor="patches")
    known = images("train", per_class=60)
    features = patches(torch.from_numpy(known.images).float() / 255)
    network.space.fit(features)
    detector = AttractorDetector(network, recursions=2, recursion=1, trials=2, head_masks=1)
    detector.fit(known.images, known.labels)
    points = network.space.points(features).double().numpy()
    held = np.arange(len(known) // 3) * len(known) // (len(known) // 3)
    rest = np.delete(points, held, axis=0)
    mean, deviation = rest.mean(0), rest.std(0, ddof=1)
    deviation = np.maximum(deviation, 0.1 * deviation.mean())
    covariance = EmpiricalCovariance().fit((rest - mean) / deviation).covariance_
    covariance += 0.001 * covariance.diagonal().mean() * np.eye(96)
    away = (points - mean) / deviation
    expected = np.sqrt(np.einsum("ij,jk,ik->i", away, np.linalg.inv(covariance), away))
    found = detector.predict_scores(known.images, ["layer_mahalanobis", "linear_energy"]).scores
    np.testing.assert_allclose(found["layer_mahalanobis"][0], expected, rtol=1e-4)
    classifier = LogisticRegression(C=1 / (0.3 * len(rest)), tol=1e-9, max_iter=10_000)
    logits = classifier.fit(rest, np.delete(known.labels, held)).decision_function(points)
    np.testing.assert_allclose(found["linear_energy"][0], -logsumexp(logits, axis=1), rtol=1e-4)
    at = detector.ood_.components.index("layer_mahalanobis@0")
    assert detector.ood_.mean[at, 1].item() == pytest.approx(expected[held].mean(), rel=1e-4)
