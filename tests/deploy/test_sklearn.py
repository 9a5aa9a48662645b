"""The classifier in scikit-learn: its checks, and its ways to use an estimator."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_estimator
from small_models import SHORT

from attractor_ae import AttractorClassifier, AttractorError

DIGITS, LABELS = load_digits(return_X_y=True)
UNCALIBRATED = ("dataset.calibration_fraction=0", "evaluation.score=entropy")
FASTEST = (
    *SHORT,
    *UNCALIBRATED,
    "model.space=pixels",
    "model.dropout=0.01",
    "training.mse_weight=1",
    "training.batch_size=256",
    "training.augment=false",
    "evaluation.head=knn",
    "evaluation.trials=2",
)
ROUNDING = "float32 sums are rounded differently in another batch"


def fastest(image_shape=(8, 8), **more):
    return AttractorClassifier(image_shape, epochs=1, overrides=FASTEST, **more)


@pytest.mark.slow  # some fifty trainings
def test_scikit_learns_own_checks():
    """Their rows of X are images of height 1."""
    check_estimator(
        fastest((1, -1)),
        expected_failed_checks={
            "check_methods_sample_order_invariance": ROUNDING,
            "check_methods_subset_invariance": ROUNDING,
            "check_do_not_raise_errors_in_init_or_set_params": "types are checked in our tests",
        },
        on_skip=None,  # the array API
    )


@pytest.mark.slow  # trainings
def test_cross_validation_in_a_pipeline():
    half = make_pipeline(FunctionTransformer(lambda x: x / 16), AttractorClassifier((8, 8)))
    half.set_params(attractorclassifier__epochs=3, attractorclassifier__overrides=SHORT)
    folds = StratifiedKFold(2)
    found = cross_val_score(half, DIGITS[:600], LABELS[:600], cv=folds)
    train, test = next(folds.split(DIGITS[:600], LABELS[:600]))
    assert (
        clone(half).fit(DIGITS[train], LABELS[train]).score(DIGITS[test], LABELS[test]) == found[0]
    )
    assert (found > 0.3).all()  # by chance: 0.1


@pytest.mark.slow  # trainings
def test_a_grid_search_finds_the_longer_training():
    classifier = AttractorClassifier((8, 8), overrides=SHORT)
    grid = GridSearchCV(classifier, {"epochs": [1, 5]}, cv=2, scoring="neg_log_loss")
    grid.fit(DIGITS[:400], LABELS[:400])
    assert grid.best_params_ == {"epochs": 5}
    assert set(grid.predict(DIGITS[400:450])) <= set(range(10))


@pytest.mark.slow  # the training of the classifier
def test_labels_and_scores(digit_classifier):
    new, labels = DIGITS[500:800], LABELS[500:800]
    p = digit_classifier.predict_proba(new)
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-6)
    assert np.array_equal(digit_classifier.predict(new), p.argmax(1))
    np.testing.assert_allclose(digit_classifier.decision_function(new), np.log(p), atol=1e-5)
    assert digit_classifier.score(new, labels) > 0.4  # by chance: 0.1
    noise = np.random.default_rng(0).uniform(0, 16, (100, 64))
    normal, strange = (digit_classifier.score_samples(x) for x in (new, noise))
    assert roc_auc_score([1] * 300 + [0] * 100, np.append(normal, strange)) > 0.9
    assert ((normal > -1) & (normal <= 0)).all()
    assert (1 + normal <= 0.05).mean() < 0.2  # p-values


def test_images_have_several_forms():
    """Rows, images with and without a channel, and bytes; labels of any kind."""
    flat, names = DIGITS[:30], np.array(["even", "odd"])[LABELS[:30] % 2]
    expected = fastest().fit(flat, names)
    p = expected.predict_proba(flat)
    assert expected.pixel_range_ == (0, 16)
    assert np.array_equal(expected.predict(flat), names[[0, 1]][p.argmax(1)])
    odds = expected.decision_function(flat)
    np.testing.assert_allclose(odds, np.log(p[:, 1] / p[:, 0]), rtol=1e-6)
    square = flat.reshape(-1, 8, 8)
    for images, image_shape in (
        (flat, (1, 8, 8)),
        (square[:, None], None),
        (square / 16, (3, 3)),  # for rows only
        ((square * 255 / 16).round().astype(np.uint8), None),
    ):
        found = fastest(image_shape).fit(images, names).predict_proba(images)
        np.testing.assert_allclose(found, p, atol=0.02)  # bytes are rounded
    colour = fastest(None).fit(np.stack([square] * 3, 1), names)
    assert colour.detector_.image_shape == (3, 16, 16)


def test_the_random_state_alone_decides(unchanged_random_state):
    def fitted(seed):
        return fastest(random_state=seed).fit(DIGITS[:30], LABELS[:30]).predict_proba(DIGITS[:30])

    assert np.array_equal(fitted(1), fitted(1))
    assert np.array_equal(fitted(np.random.RandomState(1)), fitted(1))
    assert not np.allclose(fitted(1), fitted(2), atol=1e-3)


@pytest.mark.parametrize(
    ("image_shape", "images", "message"),
    [
        (None, DIGITS, "set image_shape"),
        ((8, 9), DIGITS, r"64 features, which are not an image of shape \(8, 9\)"),
        ((64,), DIGITS, "set image_shape"),
        (None, DIGITS.reshape(-1, 4, 4, 4), "1 or 3 channels"),
    ],
)
def test_what_is_no_image_is_refused(image_shape, images, message):
    with pytest.raises(AttractorError, match=message) as error:
        fastest(image_shape).fit(images, LABELS)
    assert isinstance(error.value, ValueError)


def test_too_few_images_for_a_calibration_are_refused():
    with pytest.raises(AttractorError, match=r"dataset\.calibration_fraction"):
        AttractorClassifier((8, 8)).fit(DIGITS[:40], LABELS[:40])
