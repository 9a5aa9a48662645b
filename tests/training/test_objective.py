import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from attractor_ae import ExperimentConfig
from attractor_ae._errors import AttractorError
from attractor_ae.baselines import ConvClassifier
from attractor_ae.core.autoencoder import Autoencoder
from attractor_ae.data.image_set import first_rows
from attractor_ae.training.objective import (
    build_class_layer,
    build_network,
    build_objective,
    target_sampler,
)


def config(**sections):
    return ExperimentConfig.from_dict({"dataset": {"name": "mnist5k"}, **sections})


def test_targets_are_the_images_themselves_by_default(digits):
    rows = np.array([3, 1, 2])
    targets = target_sampler(digits, instance=False)(rows, np.random.default_rng(0))
    assert np.array_equal(targets, rows)


def test_instance_targets_are_every_other_image_of_the_class_equally_often(digits):
    shuffled = digits.take(np.random.default_rng(1).permutation(len(digits)))
    targets = target_sampler(shuffled, instance=True)
    rng = np.random.default_rng(0)
    rows = np.arange(40)
    counts = np.zeros((40, 40))
    for _ in range(900):
        counts[rows, targets(rows, rng)] += 1
    same = shuffled.labels[:, None] == shuffled.labels[None]
    others = same & ~np.eye(40, dtype=bool)
    assert (counts[~others] == 0).all()
    # 900 draws among 3 others: 300 each, standard deviation 14.
    assert (np.abs(counts[others] - 300) < 6 * 14.2).all()


def test_a_class_of_one_image_has_no_other(digits):
    with pytest.raises(AttractorError, match="class '0' of 'mnist5k' has a single image"):
        target_sampler(digits.take(first_rows(digits.labels, 1)), instance=True)


def test_a_classifier_has_the_cross_entropy():
    network = ConvClassifier(4)
    x, y = torch.rand(5, 1, 64, 64), torch.tensor([0, 1, 2, 3, 0])
    losses = build_objective(config(model={"type": "conv"}), network)(x, x, y, None)
    p = network(x).softmax(-1)[torch.arange(5), y]
    torch.testing.assert_close(losses["loss"], -p.log().mean())
    right = network(x).argmax(-1) == y
    assert losses["accuracy"].item() == pytest.approx(right.sum().item() / 5)


def test_the_metric_loss_is_added_with_weight_one():
    network = Autoencoder(generator=torch.Generator().manual_seed(0))
    x, y = torch.rand(6, 1, 64, 64), torch.tensor([0, 0, 1, 1, 2, 2])
    target = torch.rand(6, 1, 64, 64)
    settings = config(model={"metric": "npair"}, training={"loss": "mse"})
    losses = build_objective(settings, network)(x, target, y, None)
    expected = ((network(x).reconstruction - target) ** 2).sum() / 6
    torch.testing.assert_close(losses["reconstruction"], expected)
    assert losses["metric"] > 0
    torch.testing.assert_close(losses["loss"], expected + losses["metric"])


def test_the_losses_are_weighted():
    network = Autoencoder(generator=torch.Generator().manual_seed(0))
    x, y = torch.rand(6, 1, 64, 64), torch.tensor([0, 0, 1, 1, 2, 2])

    def losses(**training):
        settings = config(model={"metric": "npair"}, training=training)
        return build_objective(settings, network)(x, x, y, None)

    plain = losses()
    weighted = losses(mse_weight=5.0, metric_weight=0.1)
    error = ((network(x).reconstruction - x) ** 2).mean()
    torch.testing.assert_close(weighted["reconstruction"], plain["reconstruction"] + 5 * error)
    expected = plain["reconstruction"] + 5 * error + plain["metric"] / 10
    torch.testing.assert_close(weighted["loss"], expected)


def test_the_class_layer_adds_the_cross_entropy_of_logistic_regression():
    network = Autoencoder(generator=torch.Generator().manual_seed(0))
    x, y = torch.rand(6, 1, 64, 64), torch.tensor([0, 0, 1, 1, 2, 2])
    settings = config(training={"class_weight": 0.5})
    layer = build_class_layer(settings, 3)
    assert build_class_layer(config(), 3) is None
    plain = build_objective(config(), network)(x, x, y, None)
    losses = build_objective(settings, network, layer)(x, x, y, None)
    # Without weights every class has the same probability.
    torch.testing.assert_close(losses["metric"], torch.tensor(0.5 * np.log(3), dtype=torch.float))
    torch.testing.assert_close(losses["loss"], plain["loss"] + losses["metric"])

    codes = network.encode(x).detach().double().numpy()
    fitted = LogisticRegression().fit(codes, y.numpy())
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(fitted.coef_))
        layer.bias.copy_(torch.from_numpy(fitted.intercept_))
    expected = 0.5 * log_loss(y.numpy(), fitted.predict_proba(codes))
    found = build_objective(settings, network, layer)(x, x, y, None)["metric"].item()
    assert found == pytest.approx(expected, rel=1e-3)


def test_a_squared_error_of_logits_is_refused():
    with pytest.raises(AttractorError, match="mse_weight must be 0"):
        config(training={"loss": "bce", "mse_weight": 1.0})


def test_the_gain_multiplies_the_first_weights_but_no_bias():
    plain, larger = (build_network(config(model={"weight_gain": g}), 2) for g in (1.0, 1.7))
    for a, b in zip(plain.parameters(), larger.parameters(), strict=True):
        torch.testing.assert_close(b, a * 1.7 if a.ndim > 1 else a)


def test_the_network_is_the_configs():
    model = {"dimension": 16, "dropout": 0.5, "activation": "SiLU"}
    network = build_network(config(model=model), classes=10)
    assert isinstance(network, Autoencoder)
    assert (network.latent_dim, network.dropout) == (16, 0.5)
    assert isinstance(network.activation, torch.nn.SiLU)
    classifier = build_network(config(model={"type": "conv", "dropout": 0.0}), classes=7)
    assert isinstance(classifier, ConvClassifier)
    assert F.relu(classifier(torch.zeros(1, 1, 64, 64))).shape == (1, 7)


def test_in_the_standardised_space_targets_are_points():
    x, y = torch.rand(6, 1, 64, 64), torch.tensor([0, 0, 1, 1, 2, 2])
    settings = config(model={"space": "standardised"}, training={"loss": "mse"})
    network = build_network(settings, 3)
    deviation = x.std((1, 2, 3), correction=0, keepdim=True)
    target = 0.5 + 0.25 * (x - x.mean((1, 2, 3), keepdim=True)) / deviation
    expected = ((network(x).reconstruction - target) ** 2).sum() / 6
    losses = build_objective(settings, network)(x, x, y, None)
    torch.testing.assert_close(losses["loss"], expected)
