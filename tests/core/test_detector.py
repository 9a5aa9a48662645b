import copy
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import entropy as scipy_entropy
from sklearn.metrics import roc_auc_score

from attractor_ae import AttractorDetector, Autoencoder, load, load_detector, train
from attractor_ae._errors import AttractorError
from attractor_ae._files import load_weights, read_tensors
from attractor_ae.core.dynamics import iterate
from attractor_ae.core.masks import sample_masks, trial_masks
from attractor_ae.core.scores import IMAGE_SCORES, LATENT_SCORES, SCORES
from attractor_ae.core.spaces import Standardised
from attractor_ae.data.augmentation import Augmentation
from attractor_ae.experiment.config import preset
from attractor_ae.training import build_network

SCOPES = ["trial", "sample"]


@pytest.fixture(scope="module")
def many_digits():
    """What `trained` has seen."""
    return load("mnist5k", per_class=50)


@pytest.fixture(scope="module", params=[3])
def trained(many_digits, tmp_path_factory, request):
    """An autoencoder that reconstructs real digits."""
    images = many_digits
    # In float32, so that it is the same on processors with 16-bit instructions and without.
    epochs = f"training.epochs={request.param}"
    settings = [epochs, "training.device=cpu", "training.precision=float32"]
    config = preset("quick", settings)
    run = train(config, images, tmp_path_factory.mktemp("trained"))
    model = build_network(config, len(images.classes))
    load_weights(model, read_tensors(run.weights_file)[0], run.weights_file)
    return model


def make(model, digits, **settings):
    settings = {"recursions": 3, "recursion": 1, "trials": 3} | settings
    return AttractorDetector(model, **settings).fit(digits.images, digits.labels)


def test_trajectories_show_every_trial(detector, digits):
    trajectories = detector.trajectory(digits.images[:2])
    assert len(trajectories) == 3
    assert trajectories[0].latents.shape == (3, 2, 64)
    assert trajectories[0].reconstructions.shape == (3, 2, 1, 64, 64)


@pytest.mark.parametrize("scope", SCOPES)
def test_fewer_trials_and_recursions_are_the_first_ones(autoencoder, digits, scope):
    # Needs no fit, and does not depend on the batch.
    detector = AttractorDetector(
        autoencoder, recursions=3, trials=2, mask_scope=scope, batch_size=3, precision="float32"
    )
    (first,) = detector.trajectory(digits.images[:5], trials=1)
    assert first.latents.shape == (3, 5, 64)
    expected = detector.trajectory(digits.images[:5])[0].latents
    torch.testing.assert_close(first.latents, expected, rtol=1e-4, atol=1e-5)
    (short,) = detector.trajectory(digits.images[:5], 2, trials=1)
    torch.testing.assert_close(short.latents, expected[:2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scope", SCOPES)
def test_members_are_the_iterated_model_under_each_trials_mask(autoencoder, digits, scope):
    detector = make(autoencoder, digits, mask_scope=scope, seed=5, precision="float32")
    x = torch.from_numpy(digits.images[:4]).float() / 255
    shapes = autoencoder.site_shapes
    for trial in range(3):
        if scope == "trial":
            masks = trial_masks(shapes, 0.33, 5, trial)
        else:
            masks = sample_masks(shapes, 0.33, 5, trial, 0, 4)
        with torch.no_grad():
            latents = iterate(autoencoder, x, masks, 3).latents
        expected = detector.head_.predict_proba(latents, [1])[0]
        torch.testing.assert_close(
            detector.sample_proba(digits.images[:4])[trial], expected, rtol=1e-4, atol=1e-5
        )


def plain_codes(model, x, masks, recursions):
    """PROTOCOL sections 1 and 2 line by line, with the functions of PyTorch and in float64."""
    weights = {name: value.double() for name, value in model.state_dict().items()}
    x, codes = x.double(), []

    def layer(function, x, name, site, **options):
        y = function(x, weights[f"{name}.weight"], weights[f"{name}.bias"], **options)
        return y if site is None else F.relu(y) * masks.sites[site].double()

    halve = {"stride": 2, "padding": 1}
    for _ in range(recursions):
        if isinstance(model.space, Standardised):
            deviation = x.std((1, 2, 3), correction=0, keepdim=True)
            x = 0.5 + 0.25 * (x - x.mean((1, 2, 3), keepdim=True)) / deviation
        for i in range(4):
            x = layer(F.conv2d, x, f"encoder.{i}", i, **halve)
        z = layer(F.linear, layer(F.linear, x.flatten(1), "encoder_linear", 4), "latent", None)
        codes.append(z)
        x = layer(F.linear, layer(F.linear, z, "decoder_linear.0", 5), "decoder_linear.1", 6)
        x = x.reshape(-1, 86, 4, 4)
        for i in range(3):
            x = layer(F.conv_transpose2d, x, f"decoder.{i}", 7 + i, **halve)
        x = layer(F.conv_transpose2d, x, "output", None, **halve)
    return torch.stack(codes)


@pytest.mark.slow
@pytest.mark.parametrize("scope", SCOPES)
def test_fast_scoring_is_the_plain_one(trained, digits, scope):
    """To 1e-4 in float32, for the same masks and heads, at every recursion."""
    detector = make(trained, digits, mask_scope=scope, precision="float32", batch_size=16)
    p = detector.predict_scores(digits.images, ()).probabilities
    x = torch.from_numpy(digits.images).float() / 255
    expected = torch.zeros(p.shape, dtype=torch.float64)
    for trial in range(3):
        if scope == "trial":
            masks = trial_masks(trained.site_shapes, 0.33, 0, trial)
        else:
            masks = sample_masks(trained.site_shapes, 0.33, 0, trial, 0, len(x))
        codes = plain_codes(trained, x, masks, 3)
        for r in range(3):
            expected[r] += detector.head_.predict_proba(codes.float(), [r])[0] / 3
    np.testing.assert_allclose(p, expected, atol=1e-4)
    entropies = scipy_entropy(expected.numpy(), axis=-1) / np.log(10)
    np.testing.assert_allclose(detector.predict(digits.images), entropies[1], atol=1e-4)


@pytest.mark.soak
@pytest.mark.parametrize("trained", [16], indirect=True)
def test_sixteen_bits_change_auroc_by_less_than_a_hundredth(trained, many_digits):
    known = load("mnist5k", "test", per_class=6).images
    unknown = load("textures", "test").images[:60]
    is_out = np.repeat([0, 1], 60)
    aurocs, found = [], []
    for precision in ("float32", "bfloat16"):
        detector = make(trained, many_digits, precision=precision)
        found.append(detector.predict(np.concatenate([known, unknown])))
        aurocs.append(roc_auc_score(is_out, found[-1]))
        assert detector.sample_proba(known[:2]).dtype == torch.float32
    assert min(aurocs) > 0.8  # there is something to lose
    assert not torch.equal(*found)  # it was computed in another precision
    assert abs(aurocs[0] - aurocs[1]) < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_score_does_not_depend_on_the_batch(autoencoder, digits, scope, precision):
    settings = {"mask_scope": scope, "precision": precision}
    whole = make(autoencoder, digits, **settings, batch_size=40)
    pieces = make(autoencoder, digits, **settings, batch_size=7)
    pieces.head_ = whole.head_
    a, b = (e.predict_scores(digits.images, ()).probabilities for e in (whole, pieces))
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_the_scopes_differ(autoencoder, digits):
    a, b = (make(autoencoder, digits, mask_scope=scope) for scope in SCOPES)
    assert not torch.allclose(a.predict(digits.images), b.predict(digits.images))


@pytest.fixture
def calibrated(detector):
    known = load("mnist5k", per_class=9)
    known = known.take(np.flatnonzero(np.arange(len(known)) % 9 >= 4))  # not those of the fit
    return detector.calibrate(known.images, known.labels)


def test_scores_are_those_of_the_trajectories(calibrated, digits):
    """Every score from reconstructions and codes that `trajectory` gives, one after the other."""
    images = digits.images[:5]
    found = calibrated.predict_scores(images).scores
    assert tuple(found) == calibrated.score_names
    assert set(SCORES) - set(found) == {"linear_energy"}  # only of features
    x = torch.from_numpy(images).float() / 255
    trajectories = calibrated.trajectory(images)
    for r in range(3):
        after = torch.stack([t.reconstructions[r] for t in trajectories])
        before = torch.stack([t.reconstructions[r - 1] if r else x for t in trajectories])
        displacement = (after - x).square().mean((2, 3, 4)).sqrt().mean(0)
        step = (after - before).square().mean((2, 3, 4)).sqrt().mean(0)
        np.testing.assert_allclose(found["reconstruction_error"][r], displacement, rtol=1e-3)
        np.testing.assert_allclose(found["step"][r], step, rtol=1e-3, atol=1e-6)
    codes = torch.stack([t.latents for t in trajectories], dim=1)
    for name, score in LATENT_SCORES.items():
        for r in range(3):
            expected = score(codes[r], calibrated.known_[r])
            np.testing.assert_allclose(found[name][r], expected, rtol=1e-3, atol=1e-4)
    features = calibrated.network.pooled_features(x)
    for name in calibrated.network.space.image_scores:
        expected = IMAGE_SCORES[name](x, features, calibrated.known_images_)
        for r in range(3):
            np.testing.assert_allclose(found[name][r], expected, rtol=1e-3, atol=1e-4)
    components = [("knn_distance", 0), ("step", 2), ("layer_mahalanobis", 0)]
    components += [("contrast", 0), ("detail_mahalanobis", 0)]
    values = torch.stack([found[name][r] for name, r in components])
    np.testing.assert_allclose(found["ood_score"][2], calibrated.ood_(values, 2))


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("head", ["mlp", "knn"])
def test_no_images_give_no_scores(autoencoder, digits, scope, head):
    detector = make(autoencoder, digits, mask_scope=scope, head=head)
    empty = np.zeros((0, 1, 64, 64), np.uint8)
    assert detector.predict(empty).shape == (0,)
    assert detector.sample_proba(empty).shape == (3, 0, 10)


def test_the_given_module_and_the_random_state_are_left(
    autoencoder, digits, unchanged_random_state
):
    model = autoencoder.train()
    before = copy.deepcopy(model.state_dict())
    make(model, digits, augmentation=Augmentation()).predict(digits.images)
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert model.encoder[1].weight.is_contiguous()


def test_the_same_seed_gives_the_same_numbers_and_another_others(autoencoder, digits):
    a, b, c = (make(autoencoder, digits, seed=s).predict(digits.images) for s in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.allclose(a, c)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"head_masks": 0}, "head_masks"),
        ({"recursion": 6}, r"0..5, got 6"),
        ({"head": "forest"}, "unknown head"),
        ({"head_input": "image"}, "unknown head input"),
    ],
)
def test_impossible_settings_are_refused(autoencoder, settings, message):
    with pytest.raises(AttractorError, match=message):
        AttractorDetector(autoencoder, **settings)


@pytest.mark.parametrize("head", ["mlp", "knn"])
def test_save_and_load(autoencoder, digits, head, tmp_path):
    settings = {
        "head": head,
        "head_masks": 2,
        "head_input": "path",
        "precision": "float32",
        "mask_scope": "sample",
    }
    detector = make(autoencoder, digits, **settings)
    path = tmp_path / "attractor.safetensors"
    detector.save(path)
    again = load_detector(path)
    assert torch.equal(again.predict(digits.images), detector.predict(digits.images))
    assert {name: getattr(again, name) for name in settings} == settings
    assert (again.recursions, again.recursion, again.trials) == (3, 1, 3)


def test_more_head_masks_mean_more_codes(autoencoder, digits):
    detector = make(autoencoder, digits, head="knn", head_masks=3)
    assert detector.head_.state["latents"].shape == (3, 120, 64)
    # Different masks: the same image has another code under each.
    first, second = detector.head_.state["latents"].split(40, 1)[:2]
    assert not torch.allclose(first, second)


@pytest.mark.soak
@pytest.mark.parametrize("trained", [16], indirect=True)
def test_heads_that_read_paths_know_what_recursion_0_knew(trained, many_digits):
    """A model whose reconstructions are all the same image: only z_0 tells images apart."""
    model = copy.deepcopy(trained)
    with torch.no_grad():
        model.output.weight.zero_()
    right = {}
    for head_input in ("code", "path"):
        detector = make(model, many_digits, head_input=head_input)
        probabilities = detector.predict_scores(many_digits.images, ()).probabilities
        right[head_input] = (probabilities.argmax(-1).numpy() == many_digits.labels).mean(-1)
    assert (right["path"] > 0.8).all()
    assert (right["code"][1:] < 0.3).all()


def test_a_path_through_a_lost_code_knows_nothing(detector, digits):
    codes = torch.zeros(3, 3, 2, 64)
    lost = torch.zeros(3, 3, 2, dtype=torch.bool)
    lost[1, :, 0] = True
    for head_input, uniform in {"code": [False, True, False], "path": [False, True, True]}.items():
        reading = make(detector.network, digits, head_input=head_input)
        p = reading._distributions(codes, lost, [0, 1, 2])
        assert [bool((p[r, :, 0] == 0.1).all()) for r in range(3)] == uniform
        assert not (p[:, :, 1] == 0.1).any()


def test_members_that_diverge_know_nothing(detector, digits):
    """Uniform: every member of an image that leaves for infinity; its uncertainty is 1."""
    before = detector.predict(digits.images)
    with torch.no_grad():
        detector.network.output.weight.mul_(1e20)
    assert (before < 1).all()
    torch.testing.assert_close(detector.sample_proba(digits.images), torch.full((3, 40, 10), 0.1))
    torch.testing.assert_close(detector.predict(digits.images), torch.ones(40).double())


def test_scores_of_images_that_diverge_are_the_largest_that_there_are(detector, digits):
    """Those that may be reported stay in [0, 1], which figures and the paper's thresholds want."""
    with torch.no_grad():
        detector.network.output.weight.mul_(1e20)
    scored = detector.predict_scores(
        digits.images[:3], ["vote_diversity", "member_entropy", "step"]
    )
    assert scored.scores["vote_diversity"][1:].tolist() == [[1] * 3] * 2
    np.testing.assert_allclose(scored.scores["member_entropy"][1:], 1, rtol=1e-12)
    assert scored.scores["step"][1:].tolist() == [[1e6] * 3] * 2


def test_a_fit_that_is_refused_leaves_what_was_there(detector, digits):
    before = detector.predict_proba(digits.images)
    weight = detector.network.output.weight
    with torch.no_grad():
        weight.mul_(1e20)
    few = digits.take(np.flatnonzero(digits.labels < 3))
    with pytest.raises(AttractorError, match="diverges on its training images"):
        detector.fit(few.images, few.labels)
    with torch.no_grad():
        weight.div_(1e20)
    assert detector.classes_.tolist() == list(range(10))
    torch.testing.assert_close(detector.predict_proba(digits.images), before)


def test_other_trials_and_seeds_have_masks_of_their_own(detector, digits):
    """Also after a first prediction, whose masks are kept."""
    detector.predict(digits.images[:2])
    detector.trials, detector.seed = 4, 7
    found = detector.sample_proba(digits.images[:2])
    detector.to("cpu")  # forgets all masks
    assert torch.equal(found, detector.sample_proba(digits.images[:2]))
    assert found.shape == (4, 2, 10)


def test_a_model_that_diverges_on_what_it_is_fitted_on_is_refused(autoencoder, digits):
    with torch.no_grad():
        autoencoder.output.weight.mul_(1e20)
    with pytest.raises(AttractorError, match="diverges on its training images"):
        make(autoencoder, digits)


def counted(detector, monkeypatch):
    """Count the passes through encoder, decoder and heads."""
    calls = Counter()

    def count(owner, name):
        original = getattr(owner, name)

        def counting(*args, **kwargs):
            calls[name] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counting)

    count(Autoencoder, "encode")
    count(Autoencoder, "decode")
    count(type(detector.head_), "predict_proba")
    return calls


@pytest.mark.slow
def test_only_the_recursions_that_are_needed_are_computed(
    autoencoder, digits, many_digits, monkeypatch
):
    """Of 6 recursions number 1 is reported: two passes, and no head for the OOD score."""
    detector = make(autoencoder, digits, recursions=6, precision="float32")
    detector.calibrate(many_digits.images[::20], many_digits.labels[::20])
    every = detector.predict_scores(digits.images)
    calls = counted(detector, monkeypatch)
    scores = detector.predict(digits.images)
    assert calls == {"encode": 2 * 3, "decode": 2 * 3}
    torch.testing.assert_close(scores, every.scores["ood_score"][1])
    calls.clear()
    p = detector.predict_proba(digits.images)
    assert calls == {"encode": 2 * 3, "decode": 3, "predict_proba": 1}
    torch.testing.assert_close(p, every.probabilities[1], rtol=1e-4, atol=1e-6)
    for name in detector.member_scores:
        detector.score = name
        expected = every.scores[name][1]
        torch.testing.assert_close(detector.predict(digits.images), expected, rtol=1e-3, atol=1e-5)
