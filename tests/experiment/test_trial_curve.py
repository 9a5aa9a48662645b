import dataclasses

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from attractor_ae import AttractorDetector, AttractorError, evaluate, load
from attractor_ae.experiment.trial_curve import TrialCurve, trial_curve


@pytest.fixture(scope="module")
def sets():
    known = load("mnist5k", "test", per_class=2)
    return known, [load("faces", "test").take(range(9)), load("textures", "test").take(range(8))]


def test_every_number_of_trials_is_that_of_an_detector_with_so_many(autoencoder, digits, sets):
    known, outs = sets

    def fitted(trials):
        detector = AttractorDetector(autoencoder, recursions=2, recursion=1, trials=trials)
        return detector.fit(digits.images, digits.labels)

    curve = trial_curve(fitted(3), known, outs)
    assert (curve.method, curve.in_dataset, curve.recursion) == ("MC-AE", "mnist5k", 1)
    assert curve.out_datasets == ("faces", "textures")
    for trials in (1, 2, 3):
        result = evaluate(fitted(trials), known, outs)
        metrics = result.metrics()
        assert curve.accuracy[trials - 1] == metrics["accuracy"]
        for row, out in zip(curve.auroc, result.out_scores, strict=True):
            u = np.r_[result.in_scores.score(1), out.score(1)]
            truth = np.r_[np.zeros(len(known)), np.ones(len(out.labels))]
            assert row[trials - 1] == pytest.approx(roc_auc_score(truth, u), abs=1e-9)


def test_images_without_a_label_do_not_count(detector, sets, tmp_path):
    known, outs = sets
    whole = trial_curve(detector, known.take(range(5)), outs)
    half = dataclasses.replace(known, labels=np.r_[known.labels[:5], np.full(15, -1)])
    np.testing.assert_array_equal(trial_curve(detector, half, outs).accuracy, whole.accuracy)
    curve = trial_curve(detector, dataclasses.replace(known, labels=np.full(20, -1)), outs)
    curve.save(tmp_path / "none.json")
    assert np.isnan(TrialCurve.load(tmp_path / "none.json").accuracy).all()


def test_a_curve_is_read_as_it_was_written(tmp_path):
    rng = np.random.default_rng(0)
    curve = TrialCurve("MC-AE", "known", ("a", "ü/b"), 2, rng.random((2, 5)), rng.random(5))
    path = tmp_path / "sub" / "trials.json"
    curve.save(path)
    again = TrialCurve.load(path)
    for name in ("method", "in_dataset", "out_datasets", "recursion"):
        assert getattr(again, name) == getattr(curve, name)
    np.testing.assert_array_equal(again.auroc, curve.auroc)
    np.testing.assert_array_equal(again.accuracy, curve.accuracy)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "x").write_text('{"auroc": [[0.5]], "accuracy": [1], "method": "MC-AE"}')
    for name in "xy":
        with pytest.raises(AttractorError, match=f"{name}: is not a trial curve"):
            TrialCurve.load(tmp_path / name)


def test_sets_that_cannot_be_scored_are_refused(detector, sets):
    known, outs = sets
    with pytest.raises(AttractorError, match="give at least one D_out"):
        trial_curve(detector, known, [])
    with pytest.raises(AttractorError, match="'faces' is named twice"):
        trial_curve(detector, known, [outs[0], outs[0]])
    with pytest.raises(AttractorError, match="'faces' .* has no images"):
        trial_curve(detector, known, [outs[0].take([])])
