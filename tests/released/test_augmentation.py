import numpy as np
import pytest
import torch

from attractor_ae._random import Stream, generator
from attractor_ae.data.augmentation import Augmentation, _box_blur
from attractor_ae.data.info import STEPS
from released import arrays

KINDS = ("grey", "natural", "cars")
DRAWS = 3000


@pytest.fixture(scope="module")
def released():
    return arrays("augmentation.npz")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("image", range(5))
def test_moments_and_touched_share_are_those_of_the_release(released, kind, image):
    row = (KINDS.index(kind), image)
    pixels = torch.from_numpy(released["images"][image]).float() / 255
    images = pixels.expand(DRAWS, 1, 64, 64)
    result = Augmentation(STEPS[kind])(images, generator(image, Stream.TRAINING)).numpy()
    means, deviations = result.mean(axis=(1, 2, 3)), result.std(axis=(1, 2, 3))
    unchanged = (result == images.numpy()).all(axis=(1, 2, 3)).mean()
    # Two samples of 3 000; 4.5 standard errors, as there are 45 comparisons.
    for name, sample in (("mean", means), ("std", deviations)):
        error = 4.5 * np.sqrt(2 / DRAWS) * released[f"std_of_{name}"][row] + 1e-6
        assert sample.mean() == pytest.approx(released[f"mean_of_{name}"][row], abs=error)
        found, expected = sample.std(), released[f"std_of_{name}"][row]
        assert found == pytest.approx(expected, rel=0.15, abs=1e-6)
    assert unchanged == pytest.approx(released["share_unchanged"][row], abs=4.5 * 0.0125)


def grey(released, index):
    return torch.from_numpy(released["images"][index]).float().reshape(1, 1, 64, 64) / 255


class Drawn(np.random.Generator):
    """A generator that draws the given factors of brightness and contrast for every image."""

    def __init__(self, factors):
        super().__init__(np.random.PCG64())
        self._factors = factors

    def random(self, shape, dtype=np.float64):
        return self._factors if shape == self._factors.shape else np.zeros(shape, dtype)

    def integers(self, high, size):
        return np.zeros(size, dtype=np.int64)


def test_brightness_contrast_is_that_of_the_release(released):
    alpha, beta = released["bc_alpha"], released["bc_beta"]
    augment = Augmentation(("brightness-contrast",), brightness_contrast=1.0)
    drawn = Drawn(np.stack([alpha - 1, beta]))
    for index, expected in zip(released["bc_images"], released["bc_output"], strict=True):
        images = grey(released, index).expand(len(alpha), 1, 64, 64)
        result = augment(images, drawn)
        np.testing.assert_allclose(result[:, 0].numpy(), expected, atol=1e-6)


def test_blur_is_that_of_the_release(released):
    kernels = released["blur_sizes"]
    for index, expected in zip(released["blur_images"], released["blur_output"], strict=True):
        images = grey(released, index).expand(len(kernels), 1, 64, 64)
        result = _box_blur(images, (kernels - 3) // 2, 7)
        np.testing.assert_allclose(result[:, 0].numpy(), expected, atol=1e-6)


def test_every_step_of_a_kind_is_taken():
    image = torch.full((400, 1, 64, 64), 0.5)
    for kind in KINDS:
        changed = Augmentation(STEPS[kind])(image, generator(0, Stream.TRAINING)).mean((1, 2, 3))
        assert (changed > 0.52).any() == (kind != "grey")
