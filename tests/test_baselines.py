import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pytorch_ood.detector import MCD

from attractor_ae import ConvClassifier, EnsembleDetector, MCDropoutDetector, load, load_detector
from attractor_ae._detector import TRIAL_MASKS
from attractor_ae._errors import AttractorError
from attractor_ae.conformal import halves
from attractor_ae.core.masks import sample_masks, trial_masks

SCOPES = ["trial", "sample"]


def classifier(seed, dropout, classes=10, **more):
    """An untrained classifier whose outputs are magnified, so that it has opinions."""
    model = ConvClassifier(classes, dropout, **more, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        model.output.weight.mul_(40)
    return model


def floats(digits, count):
    """As a network takes them, in float64."""
    return torch.from_numpy(digits.images[:count]).double() / 255


def plain_logits(model, x, drop=lambda h, site: h):
    """PROTOCOL section 2 line by line, with the functions of PyTorch and in float64."""
    weights = {name: value.double() for name, value in model.state_dict().items()}
    for i in range(4):
        x = F.conv2d(x, weights[f"encoder.{i}.weight"], weights[f"encoder.{i}.bias"], 2, 1)
        x = drop(F.relu(x), i)
    x = F.relu(F.linear(x.flatten(1), weights["hidden.weight"], weights["hidden.bias"]))
    return F.linear(x, weights["output.weight"], weights["output.bias"])


def masked(masks):
    return lambda h, site: h * masks.sites[site].double()


def test_an_ensemble_is_the_plain_mean_of_softmaxes(digits):
    models = [classifier(seed, 0.0) for seed in range(3)]
    # One of another width: members need only agree in images and classes.
    models.append(classifier(3, 0.5))
    detector = EnsembleDetector(models, precision="float32", batch_size=7)
    detector.fit(digits.images, digits.labels)
    members = torch.stack([plain_logits(model, floats(digits, 20)) for model in models])
    members = members.softmax(-1)
    np.testing.assert_allclose(detector.sample_proba(digits.images[:20]), members, atol=1e-5)
    mean = members.mean(0)
    np.testing.assert_allclose(detector.predict_proba(digits.images[:20]), mean, atol=1e-5)
    assert (members - mean).abs().max() > 0.03  # they do disagree


@pytest.mark.parametrize("scope", SCOPES)
def test_mc_dropout_is_the_plain_mean_under_each_trials_mask(digits, scope):
    model = classifier(0, 0.33)
    settings = {"mask_scope": scope, "precision": "float32", "batch_size": 7, "seed": 5}
    detector = MCDropoutDetector(model, trials=3, **settings)
    detector.fit(digits.images, digits.labels)
    members = []
    for trial in range(3):
        if scope == "trial":
            masks = trial_masks(model.site_shapes, 0.33, 5, trial)
        else:
            masks = sample_masks(model.site_shapes, 0.33, 5, trial, 0, 20)
        members.append(plain_logits(model, floats(digits, 20), masked(masks)).softmax(-1))
    found = detector.sample_proba(digits.images[:20])
    np.testing.assert_allclose(found, torch.stack(members), atol=1e-5)
    assert (found - found.mean(0)).abs().max() > 0.03


def test_the_scopes_and_seeds_differ(digits):
    model = classifier(0, 0.33)
    told = [
        MCDropoutDetector(model, trials=2, **settings)
        .fit(digits.images, digits.labels)
        .predict(digits.images)
        for settings in ({}, {"mask_scope": "sample"}, {"seed": 1})
    ]
    assert not torch.allclose(told[0], told[1])
    assert not torch.allclose(told[0], told[2])


class UnderTheNextMask(torch.nn.Module):
    """A network as pytorch-ood wants it: dropout at work in train mode, new at every call."""

    def __init__(self, model):
        super().__init__()
        self.model, self.trial = model, 0

    def forward(self, x):
        assert self.training
        masks = trial_masks(self.model.site_shapes, self.model.dropout, 0, self.trial)
        self.trial += 1
        return self.model(x, masks)


def test_mc_dropout_agrees_with_pytorch_ood(digits):
    """Its maximum of the mean softmax, and its variance over the passes, of the same masks."""
    model = classifier(0, 0.33)
    detector = MCDropoutDetector(model, trials=4, precision="float32")
    detector.fit(digits.images, digits.labels)
    x = floats(digits, 20).float()
    largest, variance = MCD.run(UnderTheNextMask(model).eval(), x, samples=4)
    members = detector.sample_proba(x)
    torch.testing.assert_close(detector.predict_proba(x).amax(-1), largest, rtol=0, atol=1e-5)
    torch.testing.assert_close(members.var(0).mean(-1), variance, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_mc_dropout_is_torchs_dropout_on_average(digits):
    """Two samples of passes, of masks of ours and of PyTorch's, have the same mean."""
    model, passes = classifier(0, 0.33), 200
    detector = MCDropoutDetector(model, trials=passes).fit(digits.images, digits.labels)
    ours = detector.sample_proba(digits.images[:3])
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        # Dropout2d would drop whole channels; the protocol drops elements.
        theirs = torch.stack(
            [
                plain_logits(model, floats(digits, 3), lambda h, site: F.dropout(h, 0.33))
                for _ in range(passes)
            ]
        ).softmax(-1)
    error = ((ours.var(0) + theirs.var(0)) / passes).sqrt()
    assert ((ours.mean(0) - theirs.mean(0)).abs() <= 5 * error + 1e-3).all()


def test_the_masks_of_a_trial_are_drawn_once(digits, monkeypatch):
    detector = MCDropoutDetector(classifier(0, 0.33), trials=2, batch_size=8)
    detector.fit(digits.images, digits.labels)
    first = detector.predict(digits.images)
    monkeypatch.setitem(TRIAL_MASKS, "trial", None)
    assert torch.equal(detector.predict(digits.images), first)


@pytest.fixture(scope="module")
def learned():
    """A classifier that has seen 60 real digits some times, and 60 that it has not seen."""
    model = ConvClassifier(10, generator=torch.Generator().manual_seed(0))
    known = load("mnist5k", per_class=6)
    x, y = torch.from_numpy(known.images).float() / 255, torch.from_numpy(known.labels)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(15):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model, known, load("mnist5k", "test", per_class=6)


@pytest.mark.parametrize("kind", ["mc dropout", "ensemble"])
def test_the_temperature_is_that_of_the_greatest_likelihood(learned, kind):
    """Of the members' mean, against a search over a grid, on the half that it is found on."""
    model, known, others = learned
    if kind == "ensemble":
        detector = EnsembleDetector([model, classifier(1, 0.0)], precision="float32")
    else:
        detector = MCDropoutDetector(model, trials=4, precision="float32")
    detector.fit(known.images, known.labels)
    assert detector._temperature == 1
    x = floats(others, len(others))
    if kind == "ensemble":
        logits = torch.stack([plain_logits(network, x) for network in detector.networks])
    else:
        masks = [trial_masks(model.site_shapes, 0.33, 0, trial) for trial in range(4)]
        logits = torch.stack([plain_logits(model, x, masked(of_one)) for of_one in masks])
    detector.calibrate(others.images, others.labels)
    found = detector._temperature
    assert 0.05 < found < 20.09
    assert abs(found - 1) > 0.01
    expected = (logits / found).softmax(-1)
    np.testing.assert_allclose(detector.sample_proba(others.images), expected, atol=1e-5)

    first, _ = halves(len(others), detector.seed)
    truth = torch.from_numpy(others.labels)[first]

    def likelihood(temperature):
        mean = (logits[:, first] / temperature).softmax(-1).mean(0)
        return mean[torch.arange(len(truth)), truth].clamp_min(1e-12).log().mean()

    reached = likelihood(found)
    for temperature in np.exp(np.linspace(-2.9, 2.9, 59)):
        assert likelihood(temperature) <= reached + 1e-5
    detector.fit(known.images, known.labels)
    assert detector._temperature == 1


def test_members_without_finite_outputs_know_nothing(digits):
    """Uniform: what overflows; its uncertainty is 1."""
    model = classifier(0, 0.0)
    with torch.no_grad():
        model.hidden.weight.mul_(1e6)
        model.output.weight.mul_(1e36)
    images = digits.images[:5]
    alone = EnsembleDetector([model]).fit(digits.images, digits.labels)
    torch.testing.assert_close(alone.sample_proba(images), torch.full((1, 5, 10), 0.1))
    torch.testing.assert_close(alone.predict(images), torch.ones(5).double())
    both = EnsembleDetector([model, classifier(1, 0.0)]).fit(digits.images, digits.labels)
    assert (both.predict(images) < 1).all()


def test_fit_needs_every_class_and_no_other(digits):
    for detector in (
        MCDropoutDetector(classifier(0, 0.33, classes=11)),
        EnsembleDetector([classifier(0, 0.0, classes=9)]),
    ):
        with pytest.raises(AttractorError, match="images of 10 classes, but the classifier has"):
            detector.fit(digits.images, digits.labels)
    fewer = digits.labels.copy()
    fewer[fewer == 3] = -1
    detector = EnsembleDetector([classifier(0, 0.0)])
    with pytest.raises(AttractorError, match="of 9 classes, but the classifier has 10 outputs"):
        detector.fit(digits.images, fewer)
    with pytest.raises(AttractorError, match="is not fitted"):
        detector.predict(digits.images)


def test_a_failed_fit_leaves_what_was_fitted(digits):
    detector = EnsembleDetector([classifier(0, 0.0)]).fit(digits.images, digits.labels)
    expected = detector.predict(digits.images)
    with pytest.raises(AttractorError):
        detector.fit(digits.images, digits.labels % 2)
    assert torch.equal(detector.predict(digits.images), expected)


def test_networks_that_do_not_fit_are_refused():
    with pytest.raises(AttractorError, match="MC dropout needs a classifier with dropout"):
        MCDropoutDetector(classifier(0, 0.0))
    with pytest.raises(AttractorError, match="at least one classifier"):
        EnsembleDetector([])
    first = classifier(0, 0.0)
    for other in (
        classifier(0, 0.0, classes=9),
        classifier(0, 0.0, channels=3),
        classifier(0, 0.0, image_size=32),
    ):
        with pytest.raises(AttractorError, match="member 1 of the ensemble"):
            EnsembleDetector([first, other])


def test_colour_and_another_size(tmp_path):
    model = classifier(0, 0.33, classes=2, channels=3, image_size=32, activation="SiLU")
    images = np.random.default_rng(0).integers(0, 256, (6, 3, 32, 32), dtype=np.uint8)
    detector = MCDropoutDetector(model, trials=2, mask_scope="sample")
    detector.fit(images, np.arange(6) % 2)
    detector.save(tmp_path / "e")
    again = load_detector(tmp_path / "e")
    assert again.image_shape == (3, 32, 32)
    assert (again.trials, again.mask_scope) == (2, "sample")
    assert torch.equal(again.predict(images), detector.predict(images))


def test_ten_and_more_members_keep_their_order(digits, tmp_path):
    detector = EnsembleDetector([classifier(seed, 0.0) for seed in range(11)])
    detector.fit(digits.images, digits.labels).save(tmp_path / "e")
    again = load_detector(tmp_path / "e")
    images = digits.images[:3]
    assert torch.equal(again.sample_proba(images), detector.sample_proba(images))
