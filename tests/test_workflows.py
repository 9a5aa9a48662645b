import numpy as np
import pytest
import torch

from attractor_ae import ExperimentConfig, ImageSet, fit_estimator, run_evaluation, train
from attractor_ae.errors import AttractorError
from attractor_ae.presets import preset

SETTINGS = {
    "dataset": {"name": "mnist5k", "nbr_of_samples_per_class": 4},
    "training": {"epochs": 1, "batch_size": 16, "loss": "mse"},
    "evaluation": {"recursions": 2, "recursion": 1, "trials": 2},
}


@pytest.fixture
def own(digits):
    """Own arrays under another name and with other classes."""
    even = (digits.labels % 2).astype(np.int64)
    return ImageSet("mine", "train", digits.images, even, ("even", "odd"))


def test_own_arrays_are_trained_fitted_and_scored(own, tmp_path):
    """The README's way with own data."""
    run = train(ExperimentConfig.from_dict(SETTINGS), own, tmp_path / "mine")
    estimator = fit_estimator(run.path, own, overrides=["evaluation.trials=3"])
    assert estimator.trials == 3
    assert estimator.augmentation is not None
    u = estimator.predict(own.images)
    assert u.shape == (40,)
    assert torch.equal(estimator.classes_, torch.tensor([0, 1]))


def test_a_run_is_not_evaluated_on_a_set_that_it_was_not_trained_on(own, digits, tmp_path):
    run = train(ExperimentConfig.from_dict(SETTINGS), own, tmp_path / "mine")
    with pytest.raises(AttractorError, match="was trained on dataset mine, not mnist5k"):
        run_evaluation(run.path)
    with pytest.raises(AttractorError, match="was trained on dataset mine, not mnist5k"):
        fit_estimator(run.path, digits)


def test_a_classifier_has_no_attractors(digits, tmp_path):
    settings = ExperimentConfig.from_dict({**SETTINGS, "model": {"type": "conv"}})
    run = train(settings, digits, tmp_path / "conv")
    with pytest.raises(AttractorError, match="holds a classifier, which has no attractors"):
        fit_estimator(run.path, digits)


def test_the_preset_of_the_demo_is_a_config():
    config = preset("quick", ["training.seed=5"])
    assert isinstance(config, ExperimentConfig)
    assert config.training.seed == 5
    assert config.dataset.name == "mnist5k"
    assert config.evaluation.shift_datasets == ("digits8",)
