import pytest
import torch

from attractor_ae._errors import AttractorError
from attractor_ae.core.autoencoder import Autoencoder
from attractor_ae.core.dynamics import iterate
from attractor_ae.core.masks import trial_masks


@pytest.fixture
def masks(autoencoder):
    return trial_masks(autoencoder.site_shapes, 0.33, 0, 0)


def test_recursion_r_is_the_model_applied_r_plus_one_times(autoencoder, masks, digits):
    """PROTOCOL section 1: x_{r+1} = f(x_r), and z_r is the code that x_{r+1} is made from."""
    x = torch.from_numpy(digits.images[:3]).float() / 255
    with torch.no_grad():
        trajectory = iterate(autoencoder, x, masks, 3)
        state = x
        for r in range(3):
            z = autoencoder.encode(state, masks)
            state = autoencoder.decode(z, masks)
            assert torch.equal(trajectory.latents[r], z)
            assert torch.equal(trajectory.reconstructions[r], state)


def test_latents_alone_are_those_of_the_whole_trajectory(autoencoder, masks):
    x = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        for held in (masks, None):
            whole, short = (iterate(autoencoder, x, held, 4, last=last) for last in (True, False))
            assert torch.equal(short.latents, whole.latents)
            assert torch.equal(short.reconstructions, whole.reconstructions[:3])
        assert iterate(autoencoder, x, masks, 1, last=False).reconstructions.shape[0] == 0


def test_a_linear_contraction_converges_to_its_fixed_point():
    """A network whose dynamics are known: constant output b, so x_1 = x_2 = ... = b."""
    model = Autoencoder()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.output.bias.fill_(0.25)
        trajectory = iterate(model, torch.rand(2, 1, 64, 64), None, 3)
    assert (trajectory.reconstructions == 0.25).all()
    assert (trajectory.latents == 0).all()


def test_no_recursion_is_refused(autoencoder):
    with pytest.raises(AttractorError, match="at least 1, got 0"):
        iterate(autoencoder, torch.zeros(1, 1, 64, 64), None, 0)
