"""Every detector is held to one interface: what works with one works with all."""

import copy
import inspect

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_ood.metrics import OODMetrics
from scipy.stats import entropy as scipy_entropy
from torch.utils.data import DataLoader, TensorDataset

from attractor_ae import (
    AttractorDetector,
    Autoencoder,
    ConvClassifier,
    Detector,
    EnsembleDetector,
    MCDropoutDetector,
    evaluate,
    load,
    load_detector,
)
from attractor_ae._detector import check_images, gather
from attractor_ae._errors import AttractorError
from attractor_ae._files import read_tensors, write_tensors
from attractor_ae._reporter import Reporter
from attractor_ae.baselines import METHODS as DETECTORS
from attractor_ae.core.scores import DISTRIBUTION_SCORES
from attractor_ae.metrics import detection_metrics

METHODS = list(DETECTORS)
MEMBERS = 3


def classifier(seed, dropout):
    """An untrained classifier whose outputs are magnified, so that it has opinions."""
    model = ConvClassifier(10, dropout, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        model.output.weight.mul_(40)
    return model


def autoencoder():
    return Autoencoder(generator=torch.Generator().manual_seed(0))


MAKE = {
    "MC-AE": lambda **more: AttractorDetector(
        autoencoder(), **{"recursions": 3, "recursion": 1, "trials": MEMBERS, **more}
    ),
    "MC dropout": lambda **more: MCDropoutDetector(
        classifier(0, 0.33), **{"trials": MEMBERS, **more}
    ),
    "deep ensemble": lambda **more: EnsembleDetector(
        [classifier(seed, 0.0) for seed in range(MEMBERS)], **more
    ),
}


@pytest.fixture(scope="module", params=METHODS)
def method(request):
    return request.param


@pytest.fixture(scope="module")
def fitted(method, digits):
    """Not to be changed: `detector` is a copy."""
    return MAKE[method]().fit(digits.images, digits.labels)


@pytest.fixture
def detector(fitted):
    return copy.deepcopy(fitted)


@pytest.fixture(scope="module")
def others():
    """Fifty digits that nothing was fitted on."""
    images = load("mnist5k", per_class=9)
    return images.take(np.flatnonzero(np.arange(len(images)) % 9 >= 4))


@pytest.fixture
def calibrated(detector, others):
    return detector.calibrate(others.images, others.labels)


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_each_method_names_itself_and_its_paper(method):
    kind = DETECTORS[method]
    assert issubclass(kind, Detector)
    assert kind.method == method
    assert any(venue in kind.reference for venue in ("ICPR 2022", "ICML 2016", "NeurIPS 2017"))


def test_shapes_and_types(detector, method, digits):
    n, recursions = len(digits), 3 if method == "MC-AE" else 1
    assert detector.image_shape == (1, 64, 64)
    assert detector.device == torch.device("cpu")
    assert (detector.recursions, detector.trials) == (recursions, MEMBERS)
    assert torch.equal(detector.classes_, torch.arange(10))
    scored = detector.predict_scores(digits.images)
    assert tuple(scored.scores) == detector.score_names
    every = {
        "predict": (detector.predict(digits.images), (n,), torch.float64),
        "label": (detector.predict_label(digits.images), (n,), torch.int64),
        "proba": (detector.predict_proba(digits.images), (n, 10), torch.float32),
        "sample": (detector.sample_proba(digits.images), (MEMBERS, n, 10), torch.float32),
        "recursions": (
            detector.predict_scores(digits.images, ()).probabilities,
            (recursions, n, 10),
            torch.float32,
        ),
        "probabilities": (scored.probabilities, (recursions, n, 10), torch.float32),
        **{name: (v, (recursions, n), torch.float64) for name, v in scored.scores.items()},
    }
    for name, (values, shape, dtype) in every.items():
        assert (tuple(values.shape), values.dtype) == (shape, dtype), name
        assert not values.requires_grad
        assert bool(values.isfinite().all())


def test_uncertainty_is_the_normalised_entropy_of_the_mean(detector, digits):
    """PROTOCOL section 1, with SciPy's entropy; not the mean of the members' entropies."""
    members = detector.sample_proba(digits.images).double()
    close(members.sum(-1), torch.ones(MEMBERS, len(digits)).double())
    mean = members.mean(0)
    torch.testing.assert_close(detector.predict_proba(digits.images).double(), mean)
    expected = scipy_entropy(mean.numpy(), axis=-1) / np.log(10)
    u = detector.predict(digits.images)
    np.testing.assert_allclose(u, expected, atol=1e-6)
    assert ((u >= 0) & (u <= 1)).all()
    of_each = scipy_entropy(members.numpy(), axis=-1).mean(0) / np.log(10)
    assert np.abs(of_each - expected).max() > 1e-3
    scores = detector.predict_scores(digits.images).scores
    r = detector.recursion
    np.testing.assert_allclose(scores["member_entropy"][r], of_each, atol=1e-6)
    np.testing.assert_allclose(scores["mutual_information"][r], expected - of_each, atol=1e-6)
    assert torch.equal(detector.predict_label(digits.images), mean.argmax(-1))


def test_an_image_means_the_same_in_any_form(detector, digits):
    images = digits.images[:4]
    expected = detector.predict(images)
    floats = (images / 255).astype(np.float32)
    read_only = images.copy()
    read_only.flags.writeable = False
    for same in (
        read_only,
        torch.from_numpy(images),
        floats,
        floats.astype(np.float64),
        torch.from_numpy(floats),
        torch.from_numpy(floats).double(),
        torch.from_numpy(floats).requires_grad_(),
        torch.from_numpy(floats).contiguous(memory_format=torch.channels_last),
        np.ascontiguousarray(floats[..., ::-1])[..., ::-1],
        floats.astype(">f4"),
        np.asfortranarray(floats),
    ):
        close(detector.predict(same), expected)
    assert np.array_equal(read_only, images)


def test_every_random_image_has_a_score(fitted):
    @settings(max_examples=15)
    @given(
        count=st.integers(0, 5),
        seed=st.integers(0, 2**32 - 1),
        low=st.integers(0, 255),
        dtype=st.sampled_from([np.uint8, np.float16, np.float32, np.float64]),
        as_tensor=st.booleans(),
    )
    def check(count, seed, low, dtype, as_tensor):
        rng = np.random.default_rng(seed)
        images = rng.integers(low, 256, (count, 1, 64, 64), dtype=np.uint8)
        given_form = images if dtype == np.uint8 else (images / 255).astype(dtype)
        u = fitted.predict(torch.from_numpy(given_form) if as_tensor else given_form)
        assert u.shape == (count,)
        assert ((u >= 0) & (u <= 1)).all()
        if dtype != np.float16:
            close(u, fitted.predict(images))

    check()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 1, 64, 64), np.int64), "dtype int64; give uint8 in 0..255 or float"),
        (np.zeros((2, 1, 64, 64), bool), "dtype bool"),
        (np.zeros((2, 1, 64, 64), np.longdouble), "dtype float128"),
        (np.array([["a"]]), "dtype <U1"),
        (torch.zeros(2, 1, 64, 64, dtype=torch.int32), "dtype torch.int32"),
        (np.full((2, 1, 64, 64), 2.0), "got 2..2"),
        (np.full((2, 1, 64, 64), -0.1), "got -0.1..-0.1"),
        (np.full((2, 1, 64, 64), 1.0000001), "got 1.0000001..1.0000001"),
        (np.full((2, 1, 64, 64), np.nan), "got nan..nan"),
        (np.zeros((2, 64, 64), np.uint8), r"shape \(2, 64, 64\); give \(n, 1, 64, 64\)"),
        (np.zeros((2, 3, 64, 64), np.uint8), r"shape \(2, 3, 64, 64\)"),
    ],
)
def test_other_input_is_refused_by_name(fitted, images, message):
    for call in (fitted.predict, fitted.predict_proba, fitted.sample_proba, fitted.predict_scores):
        with pytest.raises(AttractorError, match=message):
            call(images)


def test_a_list_is_refused_by_name():
    # Without the run-time checks of types that the tests install.
    with pytest.raises(AttractorError, match="a NumPy array or a tensor, got list"):
        inspect.unwrap(check_images)([[0.0]], (1, 64, 64))


def test_no_images_have_no_scores(calibrated):
    empty = np.zeros((0, 1, 64, 64), np.uint8)
    recursions = calibrated.recursions
    assert calibrated.predict(empty).shape == (0,)
    assert calibrated.predict_label(empty).shape == (0,)
    assert calibrated.predict_proba(empty).shape == (0, 10)
    assert calibrated.sample_proba(empty).shape == (MEMBERS, 0, 10)
    scored = calibrated.predict_scores(empty)
    assert scored.probabilities.shape == (recursions, 0, 10)
    assert all(values.shape == (recursions, 0) for values in scored.scores.values())


def test_fit_takes_a_loader_and_ignores_unknown_rows(detector, method, digits):
    x, y = torch.from_numpy(digits.images), torch.from_numpy(digits.labels)
    unknown = torch.full((5,), -1)
    loader = DataLoader(
        TensorDataset(torch.cat([x[:5], x]), torch.cat([unknown, y])), batch_size=16
    )
    of_loader = MAKE[method]()
    assert of_loader.fit(loader) is of_loader
    assert torch.equal(of_loader.classes_, torch.arange(10))
    assert torch.equal(of_loader.predict(digits.images), detector.predict(digits.images))


def test_a_loader_without_labels_is_refused(digits):
    with pytest.raises(AttractorError, match=r"pairs \(images, labels\), got a Tensor"):
        inspect.unwrap(gather)([torch.from_numpy(digits.images)], None, (1, 64, 64))


def test_labels_may_be_any_numbers(detector, method, digits, others):
    other = MAKE[method]().fit(digits.images, (digits.labels * 3 + 7).astype(np.uint16))
    assert torch.equal(other.classes_, torch.arange(10) * 3 + 7)
    expected = detector.predict_label(digits.images)
    assert torch.equal(other.predict_label(digits.images), expected * 3 + 7)
    other.calibrate(others.images, others.labels * 3 + 7)
    detector.calibrate(others.images, others.labels)
    assert torch.equal(other.predict(digits.images), detector.predict(digits.images))


def test_known_images_of_one_class_calibrate_as_well(detector):
    images = load("mnist5k", per_class=34)
    threes = images.take(np.flatnonzero(images.labels == 3)[4:])
    scores = detector.calibrate(threes.images, threes.labels).predict(threes.images)
    assert ((scores >= 0) & (scores < 1)).all()
    with pytest.raises(AttractorError, match=r"labels must be integers of shape \(30,\)"):
        detector.calibrate(threes.images, threes.labels[:-1])


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
def test_labels_of_another_form_are_refused(method, digits, labels, message):
    with pytest.raises(AttractorError, match=message):
        MAKE[method]().fit(digits.images, labels)


def test_nothing_is_told_before_the_fit(method, digits, tmp_path):
    detector = MAKE[method]()
    for call in (
        lambda: detector.predict(digits.images),
        lambda: detector.predict_label(digits.images),
        lambda: detector.predict_proba(digits.images),
        lambda: detector.predict_scores(digits.images),
        lambda: detector.sample_proba(digits.images),
        lambda: detector.calibrate(digits.images, digits.labels),
        lambda: detector.save(tmp_path / "detector.safetensors"),
    ):
        with pytest.raises(AttractorError, match="is not fitted"):
            call()
    assert not list(tmp_path.iterdir())


def test_the_same_is_told_every_time(fitted, method, digits, unchanged_random_state):
    again = MAKE[method]().fit(digits.images, digits.labels)
    for _ in range(2):
        assert torch.equal(again.predict(digits.images), fitted.predict(digits.images))
        assert torch.equal(again.sample_proba(digits.images), fitted.sample_proba(digits.images))


def test_a_score_depends_neither_on_the_batch_nor_on_other_images(calibrated, digits):
    whole = calibrated.predict_scores(digits.images)
    members = calibrated.sample_proba(digits.images)
    alone = torch.cat([calibrated.predict_proba(digits.images[i : i + 1]) for i in (0, 17, 39)])
    close(whole.probabilities[calibrated.recursion][[0, 17, 39]], alone)
    calibrated.batch_size = 7
    pieces = calibrated.predict_scores(digits.images)
    close(pieces.probabilities, whole.probabilities)
    close(calibrated.sample_proba(digits.images), members)
    for name, values in pieces.scores.items():
        if name not in {"ood_score", "vote_diversity"}:  # a count, which rounding can tip
            np.testing.assert_allclose(values, whole.scores[name], rtol=1e-3, atol=1e-5)
    turned = np.ascontiguousarray(digits.images[::-1])
    close(calibrated.predict_proba(turned).flip(0), whole.probabilities[calibrated.recursion])


def test_the_given_networks_are_left(method, digits):
    given_to = []
    if method == "MC-AE":
        given_to = [autoencoder().train()]
        detector = AttractorDetector(given_to[0], recursions=2, recursion=1, trials=2)
    elif method == "MC dropout":
        given_to = [classifier(0, 0.33).train()]
        detector = MCDropoutDetector(given_to[0], trials=2)
    else:
        given_to = [classifier(seed, 0.0).train() for seed in range(2)]
        detector = EnsembleDetector(given_to)
    before = [copy.deepcopy(network.state_dict()) for network in given_to]
    detector.fit(digits.images, digits.labels).predict(digits.images)
    for network, weights in zip(given_to, before, strict=True):
        assert network.training
        assert all(p.requires_grad and p.grad is None for p in network.parameters())
        assert all(torch.equal(weights[k], v) for k, v in network.state_dict().items())
        assert network.encoder[1].weight.is_contiguous()


def test_after_calibration_the_fused_score_is_given(calibrated, others, digits):
    assert calibrated.score == "ood_score"
    assert calibrated.score_names[-1] == "ood_score"
    u = calibrated.predict(digits.images)
    assert ((u >= 0) & (u < 1)).all()
    scored = calibrated.predict_scores(digits.images)
    assert torch.equal(u, scored.scores["ood_score"][calibrated.recursion])
    r = calibrated.recursion
    parts = [name.partition("@") for name in calibrated.components]
    values = [scored.scores[name][int(at) if at else r] for name, _, at in parts]
    ood_scores = calibrated.ood_(torch.stack(values), r)
    np.testing.assert_allclose(scored.scores["ood_score"][r], ood_scores)
    # Of what it was calibrated on, 5 % lie above 0.95, to the nearest of so few.
    assert (calibrated.predict(others.images) > 0.95).double().mean() < 0.2
    first = calibrated.predict(digits.images)
    assert torch.equal(
        calibrated.calibrate(others.images, others.labels).predict(digits.images), first
    )
    calibrated.score = "entropy"
    assert not torch.equal(calibrated.predict(digits.images), u)


def test_another_fit_forgets_the_calibration(calibrated, fitted, digits):
    calibrated.fit(digits.images, digits.labels)
    assert calibrated.score == "entropy"
    assert "ood_score" not in calibrated.score_names
    assert torch.equal(calibrated.predict(digits.images), fitted.predict(digits.images))


def test_impossible_scores_and_calibrations_are_refused(detector, digits):
    with pytest.raises(AttractorError, match="call calibrate"):
        detector.predict_scores(digits.images, ["ood_score"])
    with pytest.raises(AttractorError, match="did you mean 'entropy'"):
        detector.predict_scores(digits.images, ["entrpy"])
    with pytest.raises(AttractorError, match="needs at least 9 known images"):
        detector.calibrate(digits.images[:8], digits.labels[:8])
    with pytest.raises(AttractorError, match="label 1[01] is not among the labels"):
        detector.calibrate(digits.images, digits.labels + 2)
    assert detector.score == "entropy"


def test_only_the_scores_that_are_asked_for_are_given(detector, digits):
    scored = detector.predict_scores(digits.images[:3], ["mutual_information"])
    assert tuple(scored.scores) == ("mutual_information",)
    assert set(detector.score_names) >= set(DISTRIBUTION_SCORES)


class Seen(Reporter):
    def __init__(self):
        self.calls = []

    def progress(self, task, done, total, detail="", seconds_left=None):
        self.calls.append((task, done, total))


def test_progress_counts_every_image(detector, others, digits):
    detector.batch_size = 16
    seen = Seen()
    detector.predict_scores(digits.images, reporter=seen, task="a")
    assert seen.calls == [("a", 16, 40), ("a", 32, 40), ("a", 40, 40)]
    seen.calls.clear()
    detector.calibrate(others.images[:40], others.labels[:40], seen)
    # Ranks of class distributions rest on the images that the temperature was not fitted on.
    ranked = 40 if isinstance(detector, AttractorDetector) else 20
    assert seen.calls[-1][1:] == (ranked, ranked)


def test_moving_gives_the_same(calibrated, digits):
    expected = calibrated.predict(digits.images)
    assert calibrated.to("cpu") is calibrated
    assert torch.equal(calibrated.to(torch.device("cpu")).predict(digits.images), expected)


@pytest.mark.slow
@pytest.mark.parametrize("calibrate", [False, True])
def test_save_and_load(detector, method, others, digits, tmp_path, calibrate):
    if calibrate:
        detector.calibrate(others.images, others.labels)
    detector.batch_size = 33
    path = tmp_path / "detector.safetensors"
    detector.save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["detector.safetensors"]
    expected = detector.predict_scores(digits.images)
    again = load_detector(str(path))
    assert type(again) is DETECTORS[method]
    assert (again.score, again.batch_size, again.seed) == (detector.score, 33, 0)
    scored = again.predict_scores(digits.images)
    assert tuple(scored.scores) == tuple(expected.scores)
    assert torch.equal(scored.probabilities, expected.probabilities)
    for name, values in scored.scores.items():
        assert torch.equal(values, expected.scores[name])


def test_loading_leaves_the_random_state(fitted, tmp_path, unchanged_random_state):
    fitted.save(tmp_path / "detector.safetensors")
    load_detector(tmp_path / "detector.safetensors")


def test_what_is_no_whole_detector_is_named(fitted, tmp_path):
    path = tmp_path / "detector.safetensors"
    fitted.save(path)
    whole = path.read_bytes()
    tensors, metadata = read_tensors(path)
    for missing in ("fitted.classes", *(n for n in tensors if n.endswith("weight"))):
        kept = {name: tensor for name, tensor in tensors.items() if name != missing}
        write_tensors(path, kept, metadata)
        with pytest.raises(AttractorError, match=r"detector\.safetensors: "):
            load_detector(path)
    write_tensors(path, tensors, {**metadata, "method": "magic"})
    with pytest.raises(AttractorError, match="detector.safetensors: unknown method 'magic'"):
        load_detector(path)
    write_tensors(path, tensors, {})
    with pytest.raises(AttractorError, match="is not a detector"):
        load_detector(path)
    path.write_bytes(whole[:-100])
    with pytest.raises(AttractorError, match="truncated or damaged"):
        load_detector(path)
    with pytest.raises(AttractorError, match="no such file"):
        load_detector(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"precision": "half"}, "unknown precision 'half'"),
    ],
)
def test_impossible_settings_are_refused(method, more, message):
    with pytest.raises(AttractorError, match=message):
        MAKE[method](**more)


@pytest.mark.parametrize("name", ["MC-AE", "MC dropout"])
@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"trials": 0}, "trials must be at least 1, got 0"),
        ({"mask_scope": "batch"}, "unknown mask scope 'batch'"),
    ],
)
def test_impossible_masks_are_refused(name, more, message):
    with pytest.raises(AttractorError, match=message):
        MAKE[name](**more)


def test_weights_that_are_no_numbers_are_refused():
    damaged = classifier(1, 0.33)
    with torch.no_grad():
        damaged.hidden.bias[3] = float("nan")
    broken = autoencoder()
    with torch.no_grad():
        broken.latent.bias[3] = float("inf")
    for make in (
        lambda: MCDropoutDetector(damaged),
        lambda: EnsembleDetector([classifier(0, 0.33), damaged]),
        lambda: AttractorDetector(broken),
    ):
        with pytest.raises(AttractorError, match="NaN or infinite weights"):
            make()


@pytest.mark.slow
def test_sixteen_bits_are_computed_and_stay_inside(method, digits):
    sharp, rough = (
        MAKE[method](precision=precision).fit(digits.images, digits.labels)
        for precision in ("float32", "bfloat16")
    )
    p, q = (e.predict_proba(digits.images) for e in (sharp, rough))
    assert p.dtype == q.dtype == torch.float32
    assert not torch.equal(p, q)
    assert (p - q).abs().mean() < 0.05


def test_larger_means_more_out_of_distribution_in_pytorch_ood(fitted, digits):
    """pytorch-ood's metrics take the scores and labels below zero as they are."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 1, 64, 64), dtype=np.uint8)
    known, unknown = fitted.predict(digits.images), fitted.predict(noise)
    metrics = OODMetrics()
    metrics.update(known, torch.from_numpy(digits.labels))
    metrics.update(unknown, torch.full((40,), -1))
    ours = detection_metrics(known, unknown).auroc
    assert float(metrics.compute()["AUROC"]) == pytest.approx(ours, abs=1e-4)


def test_every_method_is_evaluated(calibrated, method, digits, others):
    outs = load("textures", "test", per_class=20)
    result = evaluate(calibrated, others, [outs], scores=["entropy"])
    assert result.method == method
    assert result.recursions == calibrated.recursions
    assert result.score == "ood_score"
    # Whether the label is right is another question, for which there are better scores.
    assert result.error_score == "entropy"
    errors = result.metrics()["misclassification"]
    assert errors["score"] == "entropy"
    assert errors["auroc"] == result.misclassification(score="entropy").detection.auroc
    assert errors["auroc"] != result.misclassification(score="ood_score").detection.auroc
    metrics = result.metrics()
    assert 0 <= metrics["out"]["textures"]["auroc"] <= 1
    u = calibrated.predict(others.images)
    np.testing.assert_allclose(result.in_scores.score(result.recursion, "ood_score"), u)


def test_the_confidence_is_the_probability_of_the_predicted_label(detector, digits):
    p = detector.predict_proba(digits.images)
    columns = torch.searchsorted(detector.classes_, detector.predict_label(digits.images))
    assert torch.equal(detector.predict_confidence(digits.images), p[torch.arange(40), columns])
