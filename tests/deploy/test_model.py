import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from skimage.data import astronaut
from small_models import FORM, make_model, write_images

from attractor_ae import AttractorError, Autoencoder, load, load_model
from attractor_ae._files import write_tensors
from attractor_ae.conformal import component_values, false_alarm_rate, p_values
from attractor_ae.core.autoencoder import FeatureAutoencoder
from attractor_ae.data import ImageFormat
from attractor_ae.deploy import _format
from attractor_ae.deploy.card import false_alarm_lines, false_alarms, model_card
from attractor_ae.deploy.evaluation import Rate
from attractor_ae.deploy.model import fit_confidence, make_thumbnails
from attractor_ae.extractors import _BUNDLED, _MADE, Extractor, make_extractor, register


def assert_alike(found, expected):
    """The same up to rounding errors, which depend on the batch: a rank can change by one."""
    ranks = {"p_value", "ood_score", "parts"}
    for one, other in zip(found, expected, strict=True):
        for name, value in vars(one).items():
            tolerance = 1.01 / 61 if name in ranks else 1e-3 if name == "statistic" else 1e-6
            if name != "verdict":
                assert value == pytest.approx(getattr(other, name), abs=tolerance), name


def components_of(model, images):
    """The components of the OOD score at the reported recursion, (components, n)."""
    scores = model.detector.predict_scores(images, model.detector.member_scores).scores
    return component_values(scores, model.ood.components)[:, model.detector.recursion]


@pytest.fixture(scope="module")
def file(shared_model, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "digits.model"
    shared_model.save(path)
    return path


def test_a_loaded_model_gives_the_same_verdicts(shared_model, file, small_digits):
    loaded = load_model(file)
    images = small_digits[2].images
    assert loaded.score(images) == shared_model.score(images)
    assert (loaded.classes, loaded.alpha) == (shared_model.classes, 0.05)
    assert loaded.image_format == FORM
    assert loaded.digest == shared_model.digest
    assert loaded.facts["training"]["per_class"] == dict.fromkeys("0123456789", 6)


@given(st.data())
def test_no_changed_file_loads(file, tmp_path_factory, data):
    """One to three changed bytes anywhere, in the header as often as elsewhere; or a cut end."""
    content = bytearray(file.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        place = st.one_of(st.integers(0, 8), st.integers(0, header), st.integers(0, len(content)))
        places = data.draw(st.lists(place, min_size=1, max_size=3, unique=True))
        for i in places:
            content[min(i, len(content) - 1)] ^= data.draw(st.integers(1, 255))
    damaged = tmp_path_factory.getbasetemp() / "damaged.model"
    damaged.write_bytes(content)
    if content == file.read_bytes():  # two changes of the same byte
        return
    with pytest.raises(AttractorError, match=r"damaged\.model") as error:
        load_model(damaged)
    assert "\n" not in str(error.value)


def test_other_files_are_refused(tmp_path, shared_model):
    shared_model.detector.save(tmp_path / "detector.safetensors")
    write_tensors(tmp_path / "weights.safetensors", Autoencoder().state_dict(), {})
    Image.new("L", (9, 9)).save(tmp_path / "image.png")
    (tmp_path / "empty.model").touch()
    (tmp_path / "folder.model").mkdir()
    (tmp_path / "long.model").write_bytes(b"\xff" * 100)
    names = [path.name for path in tmp_path.iterdir()] + ["missing.model"]
    assert len(names) == 7
    for name in names:
        with pytest.raises(AttractorError, match=name):
            load_model(tmp_path / name)


@pytest.mark.parametrize("version", [1, _format._VERSION + 1, "2026-alpha"])
def test_a_file_of_another_version_says_so(tmp_path, shared_model, monkeypatch, version):
    monkeypatch.setattr(_format, "_VERSION", version)
    monkeypatch.setattr(_format, "__version__", "9.8")
    shared_model.save(tmp_path / "new.model")
    monkeypatch.undo()
    with pytest.raises(AttractorError, match=r"attractor-ae 9\.8"):
        load_model(tmp_path / "new.model")


def test_p_values_count_the_calibration_images(model, small_digits):
    """Of the statistic, and of every component, counted with NumPy."""
    images = torch.tensor(small_digits[2].images)
    components, r = model.ood.components, model.detector.recursion
    values = components_of(model, images)
    known = model.ood.statistics[r].numpy()
    n = len(known)
    t = model.ood.statistic(values, r).numpy()
    verdicts = model.score(images)
    expected = (1 + (known >= t[:, None]).sum(1)) / (n + 1)
    np.testing.assert_allclose([v.p_value for v in verdicts], expected, rtol=1e-5)
    for row, name in enumerate(components):
        counts = (model.values[-1, row].numpy() >= values[row].numpy()[:, None]).sum(1)
        found = [v.parts[name] for v in verdicts]
        np.testing.assert_allclose(found, (1 + counts) / (n + 1), rtol=1e-5)
    assert {v.verdict for v in verdicts} == {"known", "unknown"}
    assert all((v.verdict == "unknown") == (p <= 0.05) for v, p in zip(verdicts, expected))  # noqa: B905
    # The OOD score ranks images between the same calibration images, too.
    scores = model.detector.predict(images).numpy()
    np.testing.assert_allclose([v.ood_score for v in verdicts], scores, rtol=1e-7)


def test_false_alarms_rank_each_calibration_image_among_the_others(small_digits):
    images = small_digits[1]
    model = make_model(small_digits[0], images, alpha=0.1)
    t = model.ood.statistic(model.values[-1], model.detector.recursion).numpy()
    rejected = [
        label
        for i, label in enumerate(images.labels)
        if (1 + (np.delete(t, i) >= t[i]).sum()) / len(t) <= 0.1
    ]
    counts = np.bincount(rejected, minlength=10)
    assert counts.sum() == 6  # a tenth of 60
    rates, of_test = false_alarms(model)
    assert [rate.count for rate in rates.values()] == counts.tolist()
    assert [rate.of for rate in rates.values()] == [6] * 10
    assert of_test == {}
    lines = false_alarm_lines(model)
    assert len(lines) == 11
    assert lines[1] == f"  {counts.argmax()}: {Rate(int(counts.max()), 6)}"


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ([6] * 10, "with 60 images."),
        (
            [150, 0, 60, 60, 0, 0, 0, 0, 0, 0],  # Beta(7, 144) and Beta(6, 115)
            "4.6 % of known images, 2.2 % to 7.7 % in 90 % of calibrations with 150 images "
            "predicted as 0; 5.0 % of known images, 2.2 % to 8.6 % in 90 % of calibrations with "
            "120 images predicted as 9 other classes.",
        ),
        ([100] * 10, "with 100 images predicted as 9."),
    ],
)
def test_the_card_has_the_threshold_of_each_class(model, counts, said):
    model.predicted = torch.arange(10).repeat_interleave(torch.tensor(counts))[None]
    card = model_card(model, "m.model")
    assert all(part in card for part in said.rstrip(".").split("; "))


def test_images_are_ranked_among_those_of_their_class(model, shared_model, small_digits):
    """Counted with NumPy; by default, as asked for, and with fewer masks."""
    rng, r = np.random.default_rng(0), model.detector.recursion
    images = np.concatenate([part.images for part in small_digits[::2]])
    names = [v.label for v in shared_model.score(images)]
    large = max(set(names), key=names.count)
    label = model.classes.index(large)
    rows = rng.integers(60, size=250)  # of the calibration images, which are too few
    model.values, model.predicted = model.values[..., rows], model.predicted[:, rows].clone()
    model.predicted[-1, :120], model.predicted[-1, 120:] = label, (label + 1) % 10
    t = model.ood.statistic(model.values[-1], r).numpy()
    values = components_of(model, torch.tensor(images))
    mine = model.ood.statistic(values, r).numpy()
    everyone = (1 + (t >= mine[:, None]).sum(1)) / 251
    apart = [
        (1 + (known >= value).sum()) / (1 + len(known))
        for value, name in zip(mine, names, strict=True)
        for known in [t[:120] if name == large else t[120:]]
    ]
    assert np.abs(apart - everyone).max() > 0.01
    every = model.detector.trials
    for options, expected in (
        ({}, apart),
        ({"per_class": True}, apart),
        ({"per_class": False}, everyone),
        ({"trials": (every, every)}, apart),
    ):
        verdicts = model.score(images, **options)
        np.testing.assert_allclose([v.p_value for v in verdicts], expected, rtol=1e-5)
        assert [v.verdict == "unknown" for v in verdicts] == [p <= 0.05 for p in expected]
    few = model.score(images, alpha=0.005)  # alone, no group has the 199 images that it needs
    np.testing.assert_allclose([v.p_value for v in few], everyone, rtol=1e-5)


def test_thumbnails_of_photographs_are_small(tmp_path, model):
    photo = astronaut()[None].transpose(0, 3, 1, 2)
    model.thumbnails, model.image_format = make_thumbnails(photo), ImageFormat(512, 3)
    model.save(tmp_path / "m.model")
    loaded = load_model(tmp_path / "m.model")
    assert loaded.thumbnails == model.thumbnails
    assert len(loaded.thumbnails[0]) < 2_000
    expected = photo[0].reshape(3, 64, 8, 64, 8).mean((2, 4))
    assert loaded.thumbnail(0).shape == (3, 64, 64)
    assert np.abs(loaded.thumbnail(0) - expected).mean() < 10
    loaded.thumbnails = ()
    with pytest.raises(AttractorError, match="thumbnails"):
        loaded.thumbnail(0)


def test_files_of_version_2_keep_their_verdicts(tmp_path, model, small_digits):
    """They had the predicted classes of the last stage, and ranked all images together."""
    model.save(tmp_path / "m.model")
    tensors, metadata, facts, _ = _format.read_model(tmp_path / "m.model")
    tensors["model.predicted"] = tensors["model.predicted"][-1].clone()
    facts.pop("per_class")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_format, "_VERSION", 2)
        _format.write_model(tmp_path / "old.model", tensors, metadata, facts)
    old = load_model(tmp_path / "old.model")
    assert not old.per_class
    images = small_digits[2].images
    trials = (1, model.detector.trials)
    for options in ({}, {"trials": trials}):
        assert old.score(images, **options) == model.score(images, **options)


def test_the_choice_per_class_is_stored(tmp_path, model, small_digits):
    for per_class in (True, False):
        model.per_class = per_class
        model.calibrated(small_digits[2]).save(tmp_path / "m.model")
        assert load_model(tmp_path / "m.model").per_class is per_class


def test_a_verdict_does_not_depend_on_the_batch(model, small_digits):
    images = small_digits[2].images
    assert_alike([model.score(images[i : i + 1])[0] for i in range(60)], model.score(images))


def test_alpha_is_overridden_without_a_new_calibration(model, small_digits):
    images = small_digits[2].images
    few, many = (
        sum(v.verdict == "unknown" for v in model.score(images, alpha=alpha))
        for alpha in (0.02, 0.5)
    )
    assert few < many
    with pytest.raises(AttractorError, match=r"needs 99 calibration images.* 60.* 0\.0164"):
        model.score(images, alpha=0.01)
    with pytest.raises(AttractorError, match="between 0 and 1"):
        model.score(images, alpha=1.5)


def test_the_nearest_image_of_a_training_image_is_itself(model, small_digits):
    verdicts = model.score(small_digits[0].images)
    assert [v.nearest for v in verdicts] == list(model.nearest)


def test_other_calibration_images_change_only_the_calibration(model, small_digits):
    images = small_digits[2].images
    before = model.score(images)
    after = model.calibrated(small_digits[2]).score(images)
    assert model.score(images) == before
    assert [v.label for v in before] == [v.label for v in after]
    assert [v.uncertainty for v in before] == [v.uncertainty for v in after]
    # The calibration images themselves have the p-values 2/61, 3/61, ...
    np.testing.assert_allclose(sorted(v.p_value for v in after), np.arange(2, 62) / 61, rtol=1e-5)
    foreign = dataclasses.replace(small_digits[2], classes=(*"012345678", "other"))
    with pytest.raises(AttractorError, match="'other'"):
        model.calibrated(foreign)


def test_one_class_has_verdicts_alone(one_class_model, tmp_path):
    faces = load("faces", "test", image_format=FORM).images
    one_class_model.save(tmp_path / "one.model")
    verdicts = load_model(tmp_path / "one.model").score(faces)
    assert {v.label for v in verdicts} == {"digit"}
    assert {(v.probability, v.confidence, v.uncertainty) for v in verdicts} == {(None,) * 3}
    assert np.mean([v.verdict == "unknown" for v in verdicts]) > 0.9


def test_one_class_calibrated_on_images_of_any_folder(one_class_model, small_digits):
    unlabelled = dataclasses.replace(small_digits[2], labels=-np.ones(60, int), classes=())
    for images in (small_digits[2], unlabelled):
        facts = one_class_model.calibrated(images, 0.1).facts["calibration"]
        assert facts["per_class"] == {"digit": 60}
        assert facts["rejected"] == {"digit": 6}  # a tenth of the ranks 1 to 60


@pytest.mark.parametrize("right", [20, 13, 0])
def test_confidence_without_information_is_the_accuracy(right):
    """Equal probabilities say nothing, so the mean of Platt's targets remains."""
    n = 20
    hits = torch.arange(n) < right
    slope, offset = fit_confidence(torch.full((n,), 0.5), hits)
    targets = np.where(hits, (right + 1) / (right + 2), 1 / (n - right + 2))
    logit = slope * 0 + offset
    assert 1 / (1 + np.exp(-logit)) == pytest.approx(targets.mean(), abs=1e-3)


def test_confidence_recovers_a_known_relation():
    """Overconfident by a factor of two in logits: the slope is one half."""
    rng = np.random.default_rng(0)
    logits = rng.uniform(-3, 6, 20_000)
    hits = rng.random(len(logits)) < 1 / (1 + np.exp(-logits / 2))
    slope, offset = fit_confidence(torch.tensor(1 / (1 + np.exp(-logits))), torch.tensor(hits))
    assert slope == pytest.approx(0.5, abs=0.03)
    assert offset == pytest.approx(0, abs=0.05)


def test_files_are_scored_as_their_arrays(model, small_digits, tmp_path):
    images = small_digits[2].images
    paths = write_images(tmp_path / "new", images)
    (tmp_path / "new" / "007.png").write_bytes(b"no image")
    found = list(model.score_files(tmp_path / "new"))
    assert [v.path for v in found] == paths
    assert found[7].verdict == "unscored"
    assert "not an image" in found[7].reason
    assert found[7].p_value is None
    expected = model.score(images, paths=paths)
    assert_alike(found[:7] + found[8:], expected[:7] + expected[8:])


@pytest.mark.parametrize("alpha", [0.05, 0.1])
def test_the_guarantee_over_random_divisions_of_real_images(model, alpha):
    """200 divisions of 1 500 digits into 60 to calibrate on and others to count false alarms on."""
    images = load("mnist5k", "test", per_class=150, image_format=FORM).images
    values = components_of(model, torch.tensor(images))
    t = model.ood.statistic(values, model.detector.recursion).numpy()
    rng, n = np.random.default_rng(0), 60
    rates = []
    for _ in range(200):
        order = rng.permutation(t)
        known, others = np.sort(order[:n]), order[n:]
        p = (1 + n - np.searchsorted(known, others)) / (n + 1)
        assert np.array_equal(p, p_values(torch.tensor(others), torch.tensor(known)).numpy())
        rates.append((p <= alpha).mean())
    assert np.mean(rates) <= alpha + 2 * np.std(rates) / np.sqrt(len(rates))
    mean, low, high = false_alarm_rate(alpha, n)
    assert np.mean(rates) == pytest.approx(mean, abs=0.006)
    covered = np.mean([low <= rate <= high for rate in rates])
    assert covered == pytest.approx(0.9, abs=0.06)


def test_other_weights_of_the_extractor_are_refused(tmp_path):
    class Means(torch.nn.Module):
        def __init__(self, factor):
            super().__init__()
            self.register_buffer("factor", torch.tensor(factor))

        def forward(self, x):
            return self.factor * x.unflatten(3, (4, -1)).unflatten(2, (4, -1)).mean((3, 5)).flatten(
                1
            )

    images = load("mnist5k", "train", per_class=4, image_format=FORM)
    register("means", lambda: Extractor("means", Means(1.0), licence="CC0"))
    try:
        network = FeatureAutoencoder(8, image_size=16, channels=1, extractor="means")
        features = make_extractor("means")(torch.tensor(images.images) / 255)
        network.space.fit(features)
        made = make_model(images, images, network=network)
        made.save(tmp_path / "m.model")
        assert load_model(tmp_path / "m.model").score(images.images) == made.score(images.images)
        assert made.extractor["licence"] == "CC0"
        register("means", lambda: Extractor("means", Means(2.0)))
        with pytest.raises(AttractorError, match="'means'.*weights"):
            load_model(tmp_path / "m.model")
        # With its weights in the file, the other ones do not matter.
        register("means", lambda: Extractor("means", Means(1.0)))
        made.bundle = True
        made.save(tmp_path / "b.model")
        register("means", lambda: Extractor("means", Means(2.0)))
        loaded = load_model(tmp_path / "b.model")
        assert loaded.score(images.images) == made.score(images.images)
        loaded.save(tmp_path / "again.model")
        assert load_model(tmp_path / "again.model").score(images.images) == made.score(
            images.images
        )
    finally:
        _MADE.pop("means")
        _BUNDLED.clear()
        make_extractor.cache_clear()
