import numpy as np
import pytest
import torch

from attractor_ae import (
    EvaluationResult,
    ExperimentConfig,
    ImageSet,
    fit_estimator,
    load,
    load_estimator,
    run_evaluation,
    train,
)
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


@pytest.mark.parametrize(("dropout", "method"), [(0.33, "MC dropout"), (0.0, "deep ensemble")])
def test_a_classifier_is_evaluated_too(digits, tmp_path, dropout, method):
    """With the scores that it has, and without pictures of what it does not do."""
    settings = {
        **SETTINGS,
        "model": {"type": "conv", "dropout": dropout},
        "evaluation": {
            **SETTINGS["evaluation"],
            "nbr_of_samples_per_class": 2,
            "scores": ["mutual_information", "displacement", "neighbours"],
            "out_datasets": ["textures"],
        },
    }
    run = train(ExperimentConfig.from_dict(settings), digits, tmp_path / "conv")
    # As an evaluation by an earlier version may have left it.
    run.evaluation_folder.mkdir()
    (run.evaluation_folder / "recursions.png").touch()
    result = run_evaluation(run.path)
    assert (result.method, result.recursions) == (method, 1)
    assert result.score_names == ("entropy", "mutual_information")
    assert {p.name for p in run.evaluation_folder.iterdir()} == {
        "entropy.pdf",
        "entropy.png",
        "metrics.json",
        "scores.safetensors",
    }
    again = EvaluationResult.load(run.evaluation_folder)
    assert again.metrics() == result.metrics()
    estimator = load_estimator(run.estimator_file)
    assert estimator.method == method
    u = estimator.predict(load("textures", "test", per_class=7).images[:5])
    np.testing.assert_allclose(result.out_scores[0].uncertainty(0)[:5], u, rtol=1e-5)


def test_the_preset_of_the_demo_is_a_config():
    config = preset("quick", ["training.seed=5"])
    assert isinstance(config, ExperimentConfig)
    assert config.training.seed == 5
    assert config.dataset.name == "mnist5k"
    assert config.evaluation.shift_datasets == ("digits8",)
