import copy
import inspect

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pytorch_ood.metrics import OODMetrics
from scipy.stats import entropy as scipy_entropy
from sklearn.metrics import roc_auc_score
from torch.utils.data import DataLoader, TensorDataset

from attractor_ae import AttractorEstimator, load, train
from attractor_ae.data import Augmentation
from attractor_ae.dynamics import iterate
from attractor_ae.errors import AttractorError
from attractor_ae.estimators.base import check_images, gather
from attractor_ae.models import sample_masks, trial_masks
from attractor_ae.presets import preset
from attractor_ae.scores import SCORES
from attractor_ae.storage import load_weights, read_tensors, write_tensors
from attractor_ae.training import build_network

SCOPES = ["trial", "sample"]


@pytest.fixture(scope="module")
def many_digits():
    """What `trained` has seen."""
    return load("mnist5k", per_class=50)


@pytest.fixture(scope="module")
def trained(many_digits, tmp_path_factory):
    """An autoencoder that reconstructs real digits."""
    images = many_digits
    # In float32, so that it is the same on processors with 16-bit instructions and without.
    settings = ["training.epochs=16", "training.device=cpu", "training.precision=float32"]
    config = preset("quick", settings)
    run = train(config, images, tmp_path_factory.mktemp("trained"))
    model = build_network(config, len(images.classes))
    load_weights(model, read_tensors(run.weights_file)[0], run.weights_file)
    return model


def make(model, digits, **settings):
    settings = {"recursions": 3, "recursion": 1, "trials": 3} | settings
    return AttractorEstimator(model, **settings).fit(digits.images, digits.labels)


def test_the_interface(estimator, digits):
    n = len(digits)
    u = estimator.predict(digits.images)
    assert isinstance(u, torch.Tensor)
    assert u.shape == (n,)
    assert ((u >= 0) & (u <= 1)).all()
    p = estimator.predict_proba(digits.images)
    assert p.shape == (n, 10)
    assert estimator.sample_proba(digits.images).shape == (3, n, 10)
    assert estimator.predict_proba_recursions(digits.images).shape == (3, n, 10)
    assert not u.requires_grad
    assert torch.equal(estimator.classes_, torch.arange(10))
    trajectories = estimator.trajectory(digits.images[:2])
    assert len(trajectories) == 3
    assert trajectories[0].latents.shape == (3, 2, 64)
    assert trajectories[0].reconstructions.shape == (3, 2, 1, 64, 64)


def test_uncertainty_is_the_normalised_entropy_of_the_mean(estimator, digits):
    """PROTOCOL section 1, with SciPy's entropy; not the mean of the members' entropies."""
    members = estimator.sample_proba(digits.images).double()
    mean = members.mean(0)
    torch.testing.assert_close(estimator.predict_proba(digits.images).double(), mean)
    expected = scipy_entropy(mean.numpy(), axis=-1) / np.log(10)
    np.testing.assert_allclose(estimator.predict(digits.images), expected, atol=1e-6)
    of_each = scipy_entropy(members.numpy(), axis=-1).mean(0) / np.log(10)
    assert np.abs(of_each - expected).max() > 1e-3
    assert torch.equal(estimator.predict_label(digits.images), mean.argmax(-1))


@pytest.mark.parametrize("scope", SCOPES)
def test_members_are_the_iterated_model_under_each_trials_mask(autoencoder, digits, scope):
    estimator = make(autoencoder, digits, mask_scope=scope, seed=5, precision="float32")
    x = torch.from_numpy(digits.images[:4]).float() / 255
    shapes = autoencoder.site_shapes
    for trial in range(3):
        if scope == "trial":
            masks = trial_masks(shapes, 0.33, 5, trial)
        else:
            masks = sample_masks(shapes, 0.33, 5, trial, 0, 4)
        with torch.no_grad():
            latents = iterate(autoencoder, x, masks, 3).latents
        expected = estimator.head_.predict_proba(latents)[1]
        torch.testing.assert_close(
            estimator.sample_proba(digits.images[:4])[trial], expected, rtol=1e-4, atol=1e-5
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


@pytest.mark.parametrize("scope", SCOPES)
def test_fast_scoring_is_the_plain_one(trained, digits, scope):
    """To 1e-4 in float32, for the same masks and heads, at every recursion."""
    estimator = make(trained, digits, mask_scope=scope, precision="float32", batch_size=16)
    p = estimator.predict_proba_recursions(digits.images)
    x = torch.from_numpy(digits.images).float() / 255
    expected = torch.zeros(p.shape, dtype=torch.float64)
    for trial in range(3):
        if scope == "trial":
            masks = trial_masks(trained.site_shapes, 0.33, 0, trial)
        else:
            masks = sample_masks(trained.site_shapes, 0.33, 0, trial, 0, len(x))
        codes = plain_codes(trained, x, masks, 3)
        for r in range(3):
            expected[r] += estimator.head_.predict_proba(codes.float())[r] / 3
    np.testing.assert_allclose(p, expected, atol=1e-4)
    entropies = scipy_entropy(expected.numpy(), axis=-1) / np.log(10)
    np.testing.assert_allclose(estimator.predict(digits.images), entropies[1], atol=1e-4)


def test_sixteen_bits_change_auroc_by_less_than_a_hundredth(trained, many_digits):
    known = load("mnist5k", "test", per_class=6).images
    unknown = load("textures", "test").images[:60]
    is_out = np.repeat([0, 1], 60)
    aurocs, found = [], []
    for precision in ("float32", "bfloat16"):
        estimator = make(trained, many_digits, precision=precision)
        found.append(estimator.predict(np.concatenate([known, unknown])))
        aurocs.append(roc_auc_score(is_out, found[-1]))
        assert estimator.sample_proba(known[:2]).dtype == torch.float32
    assert min(aurocs) > 0.8  # there is something to lose
    assert not torch.equal(*found)  # it was computed in another precision
    assert abs(aurocs[0] - aurocs[1]) < 0.01


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_score_does_not_depend_on_the_batch(autoencoder, digits, scope, precision):
    settings = {"mask_scope": scope, "precision": precision}
    whole = make(autoencoder, digits, **settings, batch_size=40)
    pieces = make(autoencoder, digits, **settings, batch_size=7)
    pieces.head_ = whole.head_
    a, b = (e.predict_proba_recursions(digits.images) for e in (whole, pieces))
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_in_trial_scope_a_score_does_not_depend_on_the_other_images(estimator, digits):
    whole = estimator.predict(digits.images)
    alone = torch.cat([estimator.predict(digits.images[i : i + 1]) for i in (0, 17, 39)])
    torch.testing.assert_close(whole[[0, 17, 39]], alone, rtol=1e-4, atol=1e-5)


def test_the_scopes_differ(autoencoder, digits):
    a, b = (make(autoencoder, digits, mask_scope=scope) for scope in SCOPES)
    assert not torch.allclose(a.predict(digits.images), b.predict(digits.images))


@pytest.fixture
def calibrated(estimator):
    known = load("mnist5k", per_class=9)
    known = known.take(np.flatnonzero(np.arange(len(known)) % 9 >= 4))  # not those of the fit
    return estimator.calibrate(known.images, known.labels)


def test_scores_are_those_of_the_trajectories(calibrated, digits):
    """Every score from reconstructions and codes that `trajectory` gives, one after the other."""
    images = digits.images[:5]
    found = calibrated.predict_scores(images).scores
    assert tuple(found) == calibrated.score_names == SCORES
    x = torch.from_numpy(images).float() / 255
    trajectories = calibrated.trajectory(images)
    for r in range(3):
        after = torch.stack([t.reconstructions[r] for t in trajectories])
        before = torch.stack([t.reconstructions[r - 1] if r else x for t in trajectories])
        displacement = (after - x).square().mean((2, 3, 4)).sqrt().mean(0)
        step = (after - before).square().mean((2, 3, 4)).sqrt().mean(0)
        np.testing.assert_allclose(found["displacement"][r], displacement, rtol=1e-3)
        np.testing.assert_allclose(found["step"][r], step, rtol=1e-3, atol=1e-6)
    codes = torch.stack([t.latents for t in trajectories], dim=1)
    for name, values in calibrated.known_.scores(codes).items():
        np.testing.assert_allclose(found[name], values, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found["fused"], calibrated.fused_(found))


def test_after_calibration_the_fused_score_is_given(calibrated, digits):
    u = calibrated.predict(digits.images)
    assert ((u >= 0) & (u < 1)).all()
    assert torch.equal(u, calibrated.predict_scores(digits.images, ["fused"]).scores["fused"][1])
    calibrated.score = "entropy"
    assert not torch.equal(u, calibrated.predict(digits.images))


def test_scores_do_not_depend_on_the_batch(calibrated, digits):
    whole = calibrated.predict_scores(digits.images).scores
    calibrated.batch_size = 7
    for name, values in calibrated.predict_scores(digits.images).scores.items():
        if name not in {"fused", "separation"}:  # a count, which rounding can tip
            np.testing.assert_allclose(values, whole[name], rtol=1e-3, atol=1e-5)


def test_a_calibrated_estimator_is_stored_whole(calibrated, digits, tmp_path):
    path = tmp_path / "attractor.safetensors"
    calibrated.save(path)
    again = AttractorEstimator.load(path)
    assert again.score == "fused"
    expected = calibrated.predict_scores(digits.images).scores
    for name, values in again.predict_scores(digits.images).scores.items():
        assert torch.equal(values, expected[name])


def test_another_fit_forgets_the_calibration(calibrated, digits):
    calibrated.fit(digits.images, digits.labels)
    assert calibrated.score == "entropy"
    assert "fused" not in calibrated.score_names


def test_no_images_have_no_scores(calibrated, digits):
    scored = calibrated.predict_scores(digits.images[:0])
    assert scored.probabilities.shape == (3, 0, 10)
    assert all(values.shape == (3, 0) for values in scored.scores.values())
    assert calibrated.sample_proba(digits.images[:0]).shape == (3, 0, 10)


def test_impossible_scores_and_calibrations_are_refused(estimator, digits):
    with pytest.raises(AttractorError, match="the fused score needs a calibration; call calibrate"):
        estimator.predict_scores(digits.images, ["fused"])
    with pytest.raises(AttractorError, match="unknown score 'entrpy'"):
        estimator.predict_scores(digits.images, ["entrpy"])
    with pytest.raises(AttractorError, match="needs at least 20 known images"):
        estimator.calibrate(digits.images[:19], digits.labels[:19])
    with pytest.raises(AttractorError, match="label 1[01] was not fitted"):
        estimator.calibrate(digits.images, digits.labels + 2)


def test_uint8_and_float_mean_the_same(estimator, digits):
    as_bytes = estimator.predict(digits.images)
    for floats in (
        digits.images.astype(np.float32) / 255,
        digits.images.astype(np.float64) / 255,
        torch.from_numpy(digits.images).float() / 255,
    ):
        torch.testing.assert_close(estimator.predict(floats), as_bytes, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 1, 64, 64), np.int64), "dtype int64; give uint8 in 0..255 or float"),
        (np.zeros((2, 1, 64, 64), bool), "dtype bool"),
        (np.array([["a"]]), "dtype <U1"),
        (torch.zeros(2, 1, 64, 64, dtype=torch.int32), "dtype torch.int32"),
        (np.full((2, 1, 64, 64), 2.0), r"must lie in \[0, 1\], got 2..2"),
        (np.full((2, 1, 64, 64), -0.1), "got -0.1..-0.1"),
        (np.full((2, 1, 64, 64), np.nan), "got nan..nan"),
        (np.zeros((2, 64, 64), np.uint8), r"shape \(2, 64, 64\); give \(n, 1, 64, 64\)"),
        (np.zeros((2, 3, 64, 64), np.uint8), r"shape \(2, 3, 64, 64\)"),
    ],
)
def test_other_input_is_refused_by_name(estimator, images, message):
    with pytest.raises(AttractorError, match=message):
        estimator.predict(images)


def test_a_list_is_refused_by_name():
    # Without the run-time checks of types that the tests install.
    with pytest.raises(AttractorError, match="a NumPy array or a tensor, got list"):
        inspect.unwrap(check_images)([[0.0]], (1, 64, 64))


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("head", ["mlp", "knn"])
def test_no_images_give_no_scores(autoencoder, digits, scope, head):
    estimator = make(autoencoder, digits, mask_scope=scope, head=head)
    empty = np.zeros((0, 1, 64, 64), np.uint8)
    assert estimator.predict(empty).shape == (0,)
    assert estimator.sample_proba(empty).shape == (3, 0, 10)


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


def test_fit_takes_a_loader_and_ignores_unknown_rows(autoencoder, digits):
    x, y = torch.from_numpy(digits.images), torch.from_numpy(digits.labels)
    expected = make(autoencoder, digits).predict(digits.images)
    unknown = torch.full((5,), -1)
    loader = DataLoader(
        TensorDataset(torch.cat([x[:5], x]), torch.cat([unknown, y])), batch_size=16
    )
    estimator = AttractorEstimator(autoencoder, recursions=3, recursion=1, trials=3).fit(loader)
    assert torch.equal(estimator.predict(digits.images), expected)


def test_a_loader_without_labels_is_refused(digits):
    with pytest.raises(AttractorError, match=r"pairs \(images, labels\), got a Tensor"):
        inspect.unwrap(gather)([torch.from_numpy(digits.images)], None, (1, 64, 64))


def test_labels_may_be_any_numbers(autoencoder, digits):
    labels = digits.labels * 3 + 7
    estimator = AttractorEstimator(autoencoder, recursions=1, recursion=0, trials=2)
    estimator.fit(digits.images, labels)
    assert torch.equal(estimator.classes_, torch.arange(10) * 3 + 7)
    assert set(estimator.predict_label(digits.images).tolist()) <= set(labels.tolist())


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(40, np.int64), "at least 2 classes"),
        (np.zeros(39, np.int64), r"integers of shape \(40,\)"),
        (np.zeros(40), "got float64"),
        (np.array(["a", "b"] * 20), "got <U1"),
        (None, "fit needs labels"),
    ],
)
def test_labels_of_another_form_are_refused(autoencoder, digits, labels, message):
    estimator = AttractorEstimator(autoencoder)
    with pytest.raises(AttractorError, match=message):
        estimator.fit(digits.images, labels)


def test_scoring_before_the_fit_is_refused(autoencoder, digits):
    with pytest.raises(AttractorError, match="not fitted; call fit"):
        AttractorEstimator(autoencoder).predict(digits.images)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trials": 0}, "trials must be at least 1"),
        ({"recursion": 6}, r"one of the 6 evaluated \(0..5\)"),
        ({"head": "forest"}, "unknown head"),
        ({"mask_scope": "batch"}, "unknown mask scope 'batch'"),
        ({"precision": "half"}, "unknown precision 'half'"),
    ],
)
def test_impossible_settings_are_refused(autoencoder, settings, message):
    with pytest.raises(AttractorError, match=message):
        AttractorEstimator(autoencoder, **settings)


@pytest.mark.parametrize("head", ["mlp", "knn"])
def test_save_and_load(autoencoder, digits, head, tmp_path):
    estimator = make(autoencoder, digits, head=head, head_masks=2, precision="float32")
    path = tmp_path / "attractor.safetensors"
    estimator.save(path)
    again = AttractorEstimator.load(path)
    assert torch.equal(again.predict(digits.images), estimator.predict(digits.images))
    assert (again.head_masks, again.precision) == (2, "float32")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(AttractorError, match="truncated or damaged"):
        AttractorEstimator.load(path)


def test_more_head_masks_mean_more_codes(autoencoder, digits):
    estimator = make(autoencoder, digits, head="knn", head_masks=3)
    assert estimator.head_.latents_.shape == (3, 120, 64)
    # Different masks: the same image has another code under each.
    first, second = estimator.head_.latents_[:, :40], estimator.head_.latents_[:, 40:80]
    assert not torch.allclose(first, second)


def test_members_that_diverge_know_nothing(estimator, digits):
    """Uniform: every member of an image that leaves for infinity; its uncertainty is 1."""
    before = estimator.predict(digits.images)
    with torch.no_grad():
        estimator.model.output.weight.mul_(1e20)
    assert (before < 1).all()
    torch.testing.assert_close(estimator.sample_proba(digits.images), torch.full((3, 40, 10), 0.1))
    torch.testing.assert_close(estimator.predict(digits.images), torch.ones(40).double())


def test_a_model_that_diverges_on_what_it_is_fitted_on_is_refused(autoencoder, digits):
    with torch.no_grad():
        autoencoder.output.weight.mul_(1e20)
    with pytest.raises(AttractorError, match="the model diverges on the images"):
        make(autoencoder, digits)


def test_a_model_with_weights_that_are_no_numbers_is_refused(autoencoder):
    with torch.no_grad():
        autoencoder.latent.bias[3] = float("nan")
    with pytest.raises(AttractorError, match="no finite numbers"):
        AttractorEstimator(autoencoder)


def test_arrays_in_any_memory_order(estimator, digits):
    expected = estimator.predict(digits.images[:4])
    floats = (digits.images[:4] / 255).astype(np.float32)
    read_only = digits.images[:4].copy()
    read_only.flags.writeable = False
    reversed_twice = np.ascontiguousarray(floats[..., ::-1])[..., ::-1]
    for images in (read_only, reversed_twice, floats.astype(">f4"), np.asfortranarray(floats)):
        torch.testing.assert_close(estimator.predict(images), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(AttractorError, match="dtype float128"):
        estimator.predict(floats.astype(np.longdouble))


@pytest.mark.parametrize("missing", ["classes", "head.mean", "model.latent.bias"])
def test_a_file_that_is_no_whole_estimator_is_named(estimator, tmp_path, missing):
    path = tmp_path / "attractor.safetensors"
    estimator.save(path)
    tensors, metadata = read_tensors(path)
    del tensors[missing]
    write_tensors(path, tensors, metadata)
    with pytest.raises(AttractorError, match=r"attractor\.safetensors: "):
        AttractorEstimator.load(path)


def test_larger_means_more_out_of_distribution_in_pytorch_ood(estimator, digits):
    """pytorch-ood's metrics take the scores and labels below zero as they are."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 1, 64, 64), dtype=np.uint8)
    metrics = OODMetrics()
    metrics.update(estimator.predict(digits.images), torch.from_numpy(digits.labels))
    metrics.update(estimator.predict(noise), torch.full((40,), -1))
    from attractor_ae.metrics import detection_metrics

    ours = detection_metrics(estimator.predict(digits.images), estimator.predict(noise)).auroc
    assert float(metrics.compute()["AUROC"]) == pytest.approx(ours, abs=1e-4)
