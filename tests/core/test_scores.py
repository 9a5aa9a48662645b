import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import laplace
from scipy.spatial.distance import cdist
from scipy.special import logsumexp
from scipy.stats import entropy as scipy_entropy
from skimage.metrics import structural_similarity
from sklearn.covariance import EmpiricalCovariance
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.pairwise import paired_cosine_distances
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

from attractor_ae import load
from attractor_ae._logistic import LinearClassifier
from attractor_ae.core.scores import (
    DISTRIBUTION_SCORES,
    IMAGE_SCORES,
    LATENT_SCORES,
    POINT_SCORES,
    SCORES,
    KnownFeatures,
    KnownLatents,
    circular_variance,
    detail,
    entropy,
    knn_distance,
    member_entropy,
    mutual_information,
    normalised_entropy,
    ssim_distance,
    vote_diversity,
)
from attractor_ae.experiment.config import EvaluationConfig


@pytest.fixture(scope="module")
def codes():
    """Codes of 3 classes at 2 recursions, and codes of 5 images under 4 masks."""
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    known = rng.standard_normal((2, 90, 6)) * np.arange(1, 7) + labels[:, None] * 4
    new = rng.standard_normal((2, 4, 5, 6)) * 8
    return tuple(map(torch.from_numpy, (known, labels, new)))


def test_a_config_can_name_every_score():
    assert EvaluationConfig(scores=SCORES).scores == SCORES
    assert len(SCORES) == 17


@given(st.integers(2, 6), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_entropies_are_scipys(classes, trials, seed):
    p = np.random.default_rng(seed).dirichlet(np.full(classes, 0.3), (2, trials, 3))
    found = {name: score(torch.from_numpy(p)) for name, score in DISTRIBUTION_SCORES.items()}
    total = scipy_entropy(p.mean(1), axis=-1) / math.log(classes)
    members = scipy_entropy(p, axis=-1).mean(1) / math.log(classes)
    np.testing.assert_allclose(found["entropy"], total, atol=1e-12)
    np.testing.assert_allclose(found["member_entropy"], members, atol=1e-12)
    np.testing.assert_allclose(found["mutual_information"], total - members, atol=1e-12)
    assert (found["mutual_information"] >= 0).all()


@pytest.mark.parametrize("classes", [2, 3, 5, 10, 12, 26, 1000])
def test_the_entropy_of_uniform_float32_does_not_exceed_one(classes):
    found = normalised_entropy(torch.full((2, 3, classes), 1 / classes))
    assert found.shape == (2, 3)
    assert ((found <= 1) & (found >= 1 - 1e-12)).all()


def test_entropy_worked_by_hand():
    # H(1/2, 1/4, 1/4) = 3/2 bits, of at most log2(3) bits
    found = normalised_entropy(torch.tensor([0.5, 0.25, 0.25]))
    assert found.item() == pytest.approx(1.5 / math.log2(3), abs=1e-12)
    p = torch.tensor([[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0.25, 0.25, 0.25, 0.25]])
    assert normalised_entropy(p).tolist() == [0, 0.5, 1]
    assert normalised_entropy(p).dtype == torch.float64


def test_members_that_agree_share_no_information_and_sure_ones_that_differ_all():
    agree = torch.tensor([0.7, 0.2, 0.1]).expand(1, 4, 1, 3)
    assert mutual_information(agree).item() == pytest.approx(0, abs=1e-6)
    differ = torch.eye(3).reshape(1, 3, 1, 3)
    assert mutual_information(differ).item() == pytest.approx(1)
    assert member_entropy(differ).item() == 0


def test_entropies_of_rounded_distributions_stay_in_their_range():
    """A tenth in float32 is more than a tenth, and ten of them are more than 1."""
    p = torch.full((1, 3, 2, 10), 0.1)
    for score in (entropy, member_entropy):
        assert (score(p) <= 1).all()
        np.testing.assert_allclose(score(p), 1, rtol=1e-12)
    np.testing.assert_allclose(mutual_information(p), 0, atol=1e-12)


def test_structure_of_images_of_little_contrast():
    """Bright photographs, faded: their variance is a small difference of large numbers."""
    photograph = load("photos", "test").images[:4] / 255
    faded = torch.from_numpy(0.7 + 0.05 * photograph).float()
    moved = faded.roll(1, dims=-1)
    found = ssim_distance(faded, faded, moved)
    similarities = [
        structural_similarity(
            a[0],
            b[0],
            data_range=1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            full=True,
        )[1][5:-5, 5:-5].mean()
        for a, b in zip(faded.numpy(), moved.numpy(), strict=True)
    ]
    np.testing.assert_allclose(found, 1 - np.array(similarities), atol=1e-3)


def test_distances_of_real_images_are_scikit_images(digits):
    original, before, after = (
        torch.from_numpy(digits.images[rows]).float() / 255 for rows in ([0, 1], [7, 9], [20, 30])
    )
    found = [score(original, before, after).numpy() for score in POINT_SCORES.values()]
    displacement, structural, cosine, step = found
    a, b, c = (images.numpy()[:, 0] for images in (original, before, after))
    np.testing.assert_allclose(displacement, np.sqrt(((c - a) ** 2).mean((1, 2))), rtol=1e-5)
    np.testing.assert_allclose(step, np.sqrt(((c - b) ** 2).mean((1, 2))), rtol=1e-5)
    expected = paired_cosine_distances(c.reshape(2, -1), a.reshape(2, -1))
    np.testing.assert_allclose(cosine, expected, rtol=1e-4)
    for i in range(2):
        # Means over the pixels whose window lies inside of the image.
        _, similarity = structural_similarity(
            a[i],
            c[i],
            data_range=1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            full=True,
        )
        inside = similarity[5:-5, 5:-5]
        assert structural[i] == pytest.approx(1 - inside.mean(), abs=1e-4)


def test_latent_scores_are_those_of_scikit_learn(codes):
    known, labels, new = codes
    k = 7
    for r in range(2):
        statistics = KnownLatents.of(known[r], labels, 3)
        found = {name: score(new[r], statistics) for name, score in LATENT_SCORES.items()}
        found["knn_distance"] = knn_distance(new[r], statistics, k)
        of_known, z = normalize(known[r]), normalize(new[r].reshape(-1, 6)).reshape(4, 5, 6)
        flat = z.reshape(-1, 6)
        distances, indices = NearestNeighbors(n_neighbors=k).fit(of_known).kneighbors(flat)

        def mean(values):
            return np.reshape(values, (4, 5)).mean(0)

        close = partial(np.testing.assert_allclose, rtol=1e-6)
        close(found["knn_distance"], mean(distances[:, -1]))
        close(found["feature_norm"], -mean(np.linalg.norm(new[r], axis=-1)))
        close(found["circular_variance"], 1 - np.linalg.norm(z.mean(0), axis=-1))
        means = np.stack([of_known[labels.numpy() == c].mean(0) for c in range(3)])
        covariance = EmpiricalCovariance(assume_centered=True).fit(of_known - means[labels])
        covariance = covariance.covariance_
        inverse = np.linalg.inv(covariance + 0.01 * np.diag(covariance).mean() * np.eye(6))
        close(found["mahalanobis"], mean(cdist(flat, means, "mahalanobis", VI=inverse).min(1)))
        votes = labels.numpy()[indices[:, 0]].reshape(4, 5)
        shares = np.stack([(votes == c).mean(0) for c in range(3)])
        close(found["vote_diversity"], 1 - (shares**2).sum(0))


def test_members_at_one_place_do_not_vary(codes):
    known, labels, new = codes
    same = new[0, :1].expand(4, -1, -1)
    statistics = KnownLatents.of(known[0], labels, 3)
    assert circular_variance(same, statistics).abs().max() < 1e-6
    assert vote_diversity(same, statistics).abs().max() < 1e-6


def test_there_are_never_more_neighbours_than_codes(codes):
    known, labels, new = codes
    statistics = KnownLatents.of(known[0, :4], labels[:4], 3)
    assert torch.equal(knn_distance(new[0], statistics, 50), knn_distance(new[0], statistics, 4))


def test_image_scores_are_those_of_scipy_and_scikit_learn():
    photos = torch.from_numpy(load("photos", "test").images[:120]).float() / 255
    known, new = photos[:60], photos[60:]
    rng = np.random.default_rng(0)
    labels, features = np.arange(60) % 3, rng.gamma(2.0, size=(60, 8)) * np.arange(1, 9)
    features[:, 0] += labels
    features[:, 3] = 0
    at = rng.gamma(2.0, size=(60, 8)) * 5
    of_known = {
        "pooled": KnownFeatures.of(torch.from_numpy(features), torch.from_numpy(labels), 3, 0.05),
        "detail": KnownFeatures.of(detail(known), torch.from_numpy(labels), 3, 0.001),
        "linear": LinearClassifier.of(torch.from_numpy(features), torch.from_numpy(labels), 3, 0.3),
    }
    found = {
        name: score(new, torch.from_numpy(at), of_known) for name, score in IMAGE_SCORES.items()
    }

    def distances(features, at, shrinkage):
        mean, deviation = features.mean(0), features.std(0, ddof=1)
        deviation = np.maximum(deviation, 0.1 * deviation.mean())
        scaled, scaled_at = (features - mean) / deviation, (at - mean) / deviation
        centres = np.stack([scaled[labels == c].mean(0) for c in range(3)])
        model = EmpiricalCovariance(assume_centered=True).fit(scaled - centres[labels])
        size = model.covariance_.diagonal().mean()
        inverse = np.linalg.inv(model.covariance_ + shrinkage * size * np.eye(len(mean)))
        return cdist(scaled_at, centres, "mahalanobis", VI=inverse).min(1)

    def of_images(images):
        images = images.double().numpy()
        variation = [np.abs(np.diff(images, axis=axis)).mean((1, 2, 3)) for axis in (2, 3)]
        # Without the border, where SciPy reflects the image.
        squares = [laplace(image[0])[1:-1, 1:-1] ** 2 for image in images]
        energy = np.mean(squares, axis=(1, 2))
        return np.stack([np.log(sum(variation) + 1e-3), np.log(energy + 1e-8)], axis=1)

    assert features.std(0)[3] == 0  # a channel that no training image activates
    np.testing.assert_allclose(found["layer_mahalanobis"], distances(features, at, 0.05), rtol=1e-6)
    expected = distances(of_images(known), of_images(new), 0.001)
    np.testing.assert_allclose(found["detail_mahalanobis"], expected, rtol=1e-6)
    classifier = LogisticRegression(C=1 / (0.3 * 60), tol=1e-9, max_iter=10_000)
    logits = classifier.fit(features, labels).decision_function(at)
    np.testing.assert_allclose(found["linear_energy"], -logsumexp(logits, axis=1), rtol=1e-4)
    np.testing.assert_allclose(found["contrast"], new.flatten(1).double().std(1), rtol=1e-6)


def test_a_linear_classifier_of_one_class_says_nothing():
    features, labels = torch.randn(20, 4, dtype=torch.float64), torch.zeros(20, dtype=torch.int64)
    logits = LinearClassifier.of(features, labels, 1, 0.3).logits(features)
    assert torch.equal(logits, torch.zeros(20, 1, dtype=torch.float64))


def test_features_of_the_first_layer_are_pooled_over_positions(autoencoder, digits):
    x = torch.from_numpy(digits.images[:4]).float() / 255
    with torch.no_grad():
        maps = torch.relu(autoencoder.encoder[0](x)).double().numpy()  # (4, 43, 32, 32)
        found = autoencoder.pooled_features(x)
    expected = [maps.mean((2, 3)), np.sqrt((maps**2).mean((2, 3)))]
    np.testing.assert_allclose(found, np.concatenate(expected, axis=1), rtol=1e-5)
