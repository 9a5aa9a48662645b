import numpy as np
import pytest
import torch

from attractor_ae import load, train
from attractor_ae._files import load_weights, read_tensors
from attractor_ae.core.dynamics import iterate
from attractor_ae.core.masks import trial_masks
from attractor_ae.experiment.presets import preset
from attractor_ae.training import build_network
from attractor_ae.training.feedback import Feedback


def test_the_wanted_share_of_inputs_is_replaced_by_the_last_outputs():
    images = torch.zeros(500, 1, 2, 2, dtype=torch.uint8)
    feedback = Feedback(images, 0.3)
    rows = np.arange(499, 99, -1)
    feedback.keep(torch.full((400, 1, 2, 2), 0.5), rows)
    assert (feedback.outputs[100:] == 0.5).all()
    assert (feedback.outputs[:100] == 0).all()
    x = torch.ones(400, 1, 2, 2)
    mixed = feedback.mix(x, rows, np.random.default_rng(0))
    assert (x == 1).all()
    fed = (mixed == 0.5).all(dim=(1, 2, 3))
    assert (fed | (mixed == 1).all(dim=(1, 2, 3))).all()
    # A share of 400 has a standard deviation of sqrt(0.3 * 0.7 / 400) = 0.023.
    assert abs(fed.float().mean() - 0.3) < 5 * 0.023


def test_an_image_gets_its_own_output():
    images = torch.arange(6, dtype=torch.uint8).reshape(6, 1, 1, 1)
    feedback = Feedback(images, 1.0)
    np.testing.assert_allclose(feedback.outputs.flatten(), np.arange(6) / 255, rtol=1e-3)
    feedback.keep(torch.tensor([10.0, 20.0]).reshape(2, 1, 1, 1), np.array([4, 2]))
    mixed = feedback.mix(torch.zeros(3, 1, 1, 1), np.array([2, 0, 4]), np.random.default_rng(0))
    assert mixed.flatten().tolist() == [20.0, 0.0, 10.0]


@pytest.fixture(scope="module")
def drift(tmp_path_factory):
    """How far five recursions take training images, by the share of fed back inputs."""
    images = load("mnist5k", per_class=20)
    found = {}
    for share in (0.0, 0.7):
        settings = ["training.epochs=25", "training.batch_size=32", "training.device=cpu"]
        settings += ["dataset.calibration_fraction=0", "evaluation.score=entropy"]
        config = preset("default", [*settings, f"training.feedback={share}"])
        run = train(config, images, tmp_path_factory.mktemp("run"))
        model = build_network(config, 10)
        load_weights(model, read_tensors(run.weights_file)[0], run.weights_file)
        x = torch.from_numpy(images.images).float() / 255
        drifts = []
        for trial in range(6):
            masks = trial_masks(model.site_shapes, model.dropout, 0, trial)
            with torch.no_grad():
                last = iterate(model, x, masks, 5).reconstructions[-1]
            drifts.append((last - x).square().mean().sqrt().item())
        found[share] = sum(drifts) / len(drifts)
    return found


def test_with_feedback_known_images_stay_where_they_are(drift):
    """On real digits: what the method asks for, and what training one pass alone does not give."""
    assert drift[0.7] < 0.9 * drift[0.0]
