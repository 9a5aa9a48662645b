import shutil

import numpy as np
import pytest
import torch

from attractor_ae import (
    AttractorDetector,
    EnsembleDetector,
    ExperimentConfig,
    ImageSet,
    MCDropoutDetector,
    fit_detector,
    fit_ensemble,
    load,
    train,
)
from attractor_ae._errors import AttractorError
from attractor_ae._files import load_weights, read_tensors
from attractor_ae.training import build_network


def config(seed=0, dropout=0.33, **sections):
    settings = {
        "dataset": {"name": "mnist5k", "calibration_fraction": 0.2},
        "model": {"type": "conv", "dropout": dropout},
        "training": {
            "epochs": 10,
            "batch_size": 16,
            "learning_rate": 2e-3,
            "device": "cpu",
            "seed": seed,
        },
        "evaluation": {"trials": 4, "score": "ood_score"},
    }
    for name, section in sections.items():
        settings[name] = {**settings[name], **section}
    return ExperimentConfig.from_dict(settings)


def short(**more):
    return config(**{"training": {"epochs": 1, **more.pop("training", {})}, **more})


@pytest.fixture(scope="module")
def images():
    """Three hundred real digits."""
    return load("mnist5k", per_class=30)


@pytest.fixture(scope="module")
def held_out():
    return load("mnist5k", "test", per_class=10)


@pytest.fixture(scope="module")
def dropout_run(images, tmp_path_factory):
    return train(config(), images, tmp_path_factory.mktemp("dropout"))


@pytest.fixture(scope="module")
def members(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("members")
    return [train(short(seed=s, dropout=0.0), images, folder / f"{s}").path for s in (3, 4)]


@pytest.mark.slow
def test_training_on_real_digits_raises_accuracy(dropout_run, images, held_out):
    rows = np.genfromtxt(dropout_run.history_file, delimiter=",", names=True)
    accuracy = rows["accuracy"]
    assert ((accuracy >= 0) & (accuracy <= 1)).all()
    assert accuracy[0] < 0.5 < accuracy[-1]
    detector = fit_detector(dropout_run.path, images)
    right = detector.predict_label(held_out.images) == torch.from_numpy(held_out.labels)
    assert right.float().mean() > 0.6


def test_a_classifier_with_dropout_is_mc_dropout(dropout_run, images, held_out):
    detector = fit_detector(dropout_run.path, images, overrides=["evaluation.precision=float32"])
    assert isinstance(detector, MCDropoutDetector)
    assert (detector.trials, detector.mask_scope, detector.seed) == (4, "sample", 0)
    assert detector.score == "ood_score"
    weights = read_tensors(dropout_run.weights_file)[0]
    network = build_network(dropout_run.config(), 10)
    load_weights(network, weights, dropout_run.weights_file)
    plain = MCDropoutDetector(network, trials=4, precision="float32", mask_scope="sample")
    plain.fit(images.images, images.labels)
    p, q = (e.sample_proba(held_out.images).double() for e in (plain, detector))
    expected = (p.clamp_min(1e-30).log() / detector._temperature).softmax(-1)
    np.testing.assert_allclose(q, expected, atol=1e-5)


def test_the_settings_of_the_evaluation_are_used(dropout_run, images):
    overrides = [
        "evaluation.trials=2",
        "evaluation.mask_scope=trial",
        "evaluation.score=mutual_information",
        # Not used by a classifier.
        "evaluation.recursions=9",
        "evaluation.recursion=5",
        "evaluation.head=knn",
    ]
    detector = fit_detector(dropout_run.path, images, overrides=overrides)
    assert (detector.trials, detector.mask_scope) == (2, "trial")
    assert (detector.recursions, detector.recursion) == (1, 0)
    assert detector.score == "mutual_information"
    with pytest.raises(AttractorError, match="training.seed=3"):
        fit_detector(dropout_run.path, images, overrides=["training.seed=3"])


def test_a_classifier_without_dropout_is_an_ensemble_of_one(members, images):
    detector = fit_detector(members[0], images)
    assert isinstance(detector, EnsembleDetector)
    assert (detector.trials, detector.seed) == (1, 3)


def test_an_autoencoder_has_attractors(digits, tmp_path):
    settings = short(
        model={"type": "dropout-cae"},
        dataset={"calibration_fraction": 0.0},
        training={"loss": "mse"},
        evaluation={"score": "entropy", "recursions": 2, "recursion": 1, "head": "knn"},
    )
    run = train(settings, digits, tmp_path / "run")
    detector = fit_detector(run.path, digits)
    assert isinstance(detector, AttractorDetector)
    assert (detector.recursions, detector.recursion, detector.head) == (2, 1, "knn")
    assert detector.augmentation is not None
    with pytest.raises(AttractorError, match="is an autoencoder"):
        fit_ensemble([run.path], digits)


def test_an_ensemble_is_the_mean_of_its_runs(members, images, held_out):
    overrides = ["evaluation.precision=float32", "evaluation.score=entropy"]
    ensemble = fit_ensemble(members, images, overrides=overrides)
    assert isinstance(ensemble, EnsembleDetector)
    assert (ensemble.trials, ensemble.score, ensemble.seed) == (2, "entropy", 3)
    assert ensemble.score_names[-1] == "ood_score"  # it is calibrated
    ensemble._temperature = 1.0
    each = []
    for folder in members:
        alone = fit_detector(folder, images, overrides=overrides)
        alone._temperature = 1.0
        each.append(alone.predict_proba(held_out.images))
    assert not torch.allclose(*each)
    torch.testing.assert_close(
        ensemble.predict_proba(held_out.images), torch.stack(each).mean(0), rtol=0, atol=1e-6
    )


def test_an_ensemble_is_calibrated_on_what_no_member_was_trained_on(members, images):
    """The same as by hand, on the images that the config keeps."""
    ensemble = fit_ensemble(members, images)
    trained, kept = images.divided(0.2, 0)
    assert len(kept) == 60
    by_hand = EnsembleDetector(ensemble.networks, seed=3, precision="float32")
    by_hand.fit(trained.images, trained.labels)
    by_hand.calibrate(kept.images, kept.labels)
    assert by_hand._temperature == ensemble._temperature
    assert torch.equal(by_hand.predict(images.images), ensemble.predict(images.images))


def test_members_that_do_not_fit_are_named(members, dropout_run, images, tmp_path):
    with pytest.raises(AttractorError, match="an ensemble needs at least one run"):
        fit_ensemble([], images)
    with pytest.raises(AttractorError, match=f"{dropout_run.path}: is a classifier with dropout"):
        fit_ensemble([members[0], dropout_run.path], images)
    with pytest.raises(AttractorError, match="same weights"):
        fit_ensemble([*members, members[0]], images)
    copy = shutil.copytree(members[1], tmp_path / "copy")
    with pytest.raises(AttractorError, match=f"{copy}: has the same weights as {members[1]}"):
        fit_ensemble([*members, copy], images)
    with pytest.raises(AttractorError, match="no such run folder"):
        fit_ensemble([members[0], tmp_path / "nothing"], images)
    other = ImageSet("mine", "train", images.images, images.labels, images.classes)
    with pytest.raises(AttractorError, match="was trained on dataset mnist5k, not mine"):
        fit_ensemble(members, other)
    renamed = ImageSet(images.name, "train", images.images, images.labels, tuple("abcdefghij"))
    with pytest.raises(AttractorError, match="was trained on classes"):
        fit_ensemble(members, renamed)


@pytest.mark.parametrize("key", ["calibration_fraction", "split_seed", "nbr_of_samples_per_class"])
def test_members_are_trained_on_the_same_images(members, images, tmp_path, key):
    value = {"calibration_fraction": 0.3}.get(key, 5)
    settings = short(seed=7, dropout=0.0, dataset={key: value})
    run = train(settings, images, tmp_path / "run")
    with pytest.raises(AttractorError, match=f"was trained with dataset.{key} = {value}, but"):
        fit_ensemble([*members, run.path], images)


def test_a_second_run_of_a_seed_is_the_same_member(members, images, tmp_path):
    again = train(short(seed=3, dropout=0.0), images, tmp_path / "again")
    with pytest.raises(AttractorError, match="different seeds"):
        fit_ensemble([members[0], again.path], images)


def test_the_fused_score_without_images_to_calibrate_on_is_refused(images, tmp_path):
    settings = short(dataset={"calibration_fraction": 0.0}, evaluation={"score": "entropy"})
    run = train(settings, images, tmp_path / "run")
    with pytest.raises(AttractorError, match="calibration_fraction"):
        fit_detector(run.path, images, overrides=["evaluation.score=ood_score"])
    assert fit_detector(run.path, images).score == "entropy"
