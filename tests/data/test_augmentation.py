import dataclasses

import numpy as np
import pytest
import skimage.data
import torch
from scipy.ndimage import uniform_filter
from scipy.stats import binom, chi2_contingency, kstest, pearsonr
from skimage.transform import resize

from attractor_ae._errors import AttractorError
from attractor_ae._random import Stream, generator
from attractor_ae.data.augmentation import Augmentation, shifted
from attractor_ae.data.info import STEPS

BLUR, NOISE, BRIGHTNESS_CONTRAST = (
    Augmentation((step,), probability=1.0) for step in ("blur", "noise", "brightness-contrast")
)
EVERYTHING = Augmentation(STEPS["natural"])


def rng(seed=0):
    return generator(seed, Stream.TRAINING)


def photographs(n, height=64, width=64):
    """Return n different crops of photographs, shape (n, 1, height, width), in [0, 1]."""
    names = ("camera", "coins", "moon", "brick", "grass", "gravel")
    scenes = [resize(getattr(skimage.data, name)() / 255, (96, 96)) for name in names]
    draw = np.random.default_rng(7)
    crops = []
    for i in range(n):
        top, left = draw.integers(96 - height + 1), draw.integers(96 - width + 1)
        crops.append(scenes[i % len(scenes)][top : top + height, left : left + width])
    return torch.from_numpy(np.stack(crops)).float()[:, None]


def colour_photographs():
    images = [resize(getattr(skimage.data, n)(), (64, 64)) for n in ("astronaut", "coffee")]
    return torch.from_numpy(np.stack(images)).float().permute(0, 3, 1, 2).contiguous()


def expected_count(n, rate):
    """Return bounds of the count of events of one rate among n, wrong once in a million."""
    low, high = binom.interval(1 - 1e-6, n, rate)
    return low, high


# --- shift ---


def test_a_shift_moves_each_image_and_repeats_its_edges():
    images = torch.cat([colour_photographs(), colour_photographs().flip(3)])
    moves = np.array([[3, -5, 0, 1], [-2, 0, 0, 64]])
    result = shifted(images, moves)
    for image, moved, (down, right) in zip(images.numpy(), result.numpy(), moves.T, strict=True):
        padded = np.pad(image, ((0, 0), (64, 64), (64, 64)), mode="edge")
        expected = padded[:, 64 - down : 128 - down, 64 - right : 128 - right]
        np.testing.assert_array_equal(moved, expected)


# --- blur ---


@pytest.mark.parametrize(("height", "width"), [(64, 64), (40, 72)])
def test_blur_is_a_box_of_3_5_or_7_pixels_with_a_mirrored_border(height, width):
    images = photographs(300, height, width)
    result = BLUR(images, rng()).numpy()
    kernels = []
    for image, blurred in zip(images.double().numpy()[:, 0], result[:, 0], strict=True):
        errors = {
            k: np.abs(uniform_filter(image, k, mode="mirror") - blurred).max() for k in (3, 5, 7)
        }
        kernel = min(errors, key=errors.__getitem__)
        assert errors[kernel] < 1e-6
        kernels.append(kernel)
    low, high = expected_count(len(images), 1 / 3)
    assert all(low <= kernels.count(k) <= high for k in (3, 5, 7))


@pytest.mark.parametrize("largest", [1, 3, 5, 11])
def test_the_largest_kernel_can_be_chosen(largest):
    images = photographs(60)
    result = dataclasses.replace(BLUR, max_blur=largest)(images, rng())
    kernels = range(3, largest + 1, 2) or [1]
    by_scipy = np.stack(
        [uniform_filter(images.numpy(), (1, 1, k, k), mode="mirror") for k in kernels]
    )
    errors = np.abs(by_scipy - result.numpy()).max(axis=(2, 3, 4))  # (kernels, n)
    assert errors.min(axis=0).max() < 1e-6
    assert set(errors.argmin(axis=0)) == set(range(len(kernels)))


def test_the_channels_of_an_image_share_a_kernel():
    images = colour_photographs()
    result = dataclasses.replace(BLUR, max_blur=3)(images, rng())
    expected = uniform_filter(images.numpy(), (1, 1, 3, 3), mode="mirror")
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-6)


def test_blur_of_an_image_smaller_than_the_kernel():
    images = torch.rand(20, 1, 2, 3, generator=torch.Generator().manual_seed(0))
    result = BLUR(images, rng())
    by_scipy = np.stack(
        [uniform_filter(images.numpy(), (1, 1, k, k), mode="mirror") for k in (3, 5, 7)]
    )
    assert np.abs(by_scipy - result.numpy()).max(axis=(2, 3, 4)).min(axis=0).max() < 1e-6


# --- noise ---


def test_noise_is_a_uniform_factor_of_its_own_for_each_pixel():
    images = photographs(16).clamp(0.1, 0.8)  # so that nothing is clipped
    factors = (NOISE(images, rng()) / images).numpy()
    assert factors.min() >= 0.75 - 1e-6
    assert factors.max() <= 1.25 + 1e-6
    assert kstest(factors.ravel(), "uniform", (0.75, 0.5)).pvalue > 1e-4
    for axis in (0, 2, 3):  # image, row, column
        one, next_one = (f.ravel() for f in (np.roll(factors, 1, axis), factors))
        assert pearsonr(one, next_one).pvalue > 1e-4


def test_the_range_of_the_noise_can_be_chosen_and_is_clipped():
    images = photographs(4).clamp(0.1, 0.9)
    result = dataclasses.replace(NOISE, noise=(1.0, 3.0))(images, rng())
    assert bool((result >= images - 1e-6).all())
    assert result.max() == 1
    factors = (result / images)[result < 1]
    assert factors.max() > 2.5


def test_the_channels_of_a_pixel_share_the_noise():
    images = colour_photographs().clamp(0.1, 0.8)
    factors = NOISE(images, rng()) / images
    assert factors[:, 0].std() > 0.1
    torch.testing.assert_close(factors[:, 0], factors[:, 1], rtol=1e-5, atol=0)
    torch.testing.assert_close(factors[:, 0], factors[:, 2], rtol=1e-5, atol=0)


# --- brightness and contrast (against the released code: tests/released/test_augmentation.py) ---


def recovered_factors(images, result):
    """Return alpha and beta of images where nothing was clipped: a scale and an offset."""
    alpha = result.std(dim=(1, 2, 3)) / images.std(dim=(1, 2, 3))
    scaled = alpha * images.mean(dim=(1, 2, 3))
    return alpha, result.mean(dim=(1, 2, 3)) / scaled - 1


@pytest.mark.parametrize("channels", [1, 3])
def test_brightness_and_contrast_are_a_scale_and_an_offset_in_the_given_range(channels):
    if channels == 1:
        images = 0.2 + 0.3 * photographs(300)  # so that nothing is clipped
    else:
        images = 0.2 + 0.3 * colour_photographs().repeat(150, 1, 1, 1)
    result = BRIGHTNESS_CONTRAST(images, rng())
    alpha, beta = recovered_factors(images, result)
    offset = beta * alpha * images.mean(dim=(1, 2, 3))
    expected = images * alpha[:, None, None, None] + offset[:, None, None, None]
    torch.testing.assert_close(result, expected, rtol=0, atol=2e-6)
    assert kstest(alpha.numpy(), "uniform", (1, 0.33)).pvalue > 1e-4
    assert kstest(beta.numpy(), "uniform", (0, 0.33)).pvalue > 1e-4
    assert pearsonr(alpha, beta).pvalue > 1e-4


def test_the_steps_can_be_chosen():
    images = photographs(64)
    assert Augmentation().steps == ("blur", "noise")
    assert torch.equal(Augmentation(())(images, rng()), images)
    # Draws do not depend on the steps: each step changes the same images, alone or with others.
    one, other = (
        (Augmentation((step,))(images, rng()) != images).flatten(1).any(1)
        for step in ("blur", "brightness-contrast")
    )
    both = Augmentation(("blur", "brightness-contrast"))(images, rng())
    assert torch.equal((both != images).flatten(1).any(1), one | other)


# --- decisions ---


def decisions(probability, n=4000):
    """Return which of n images were blurred, and which had noise: bool arrays (n,)."""
    # All noise is a factor of a half, so that it can be told from blur.
    augment = Augmentation(probability=probability, noise=(0.5, 0.5))
    images = photographs(n, 8, 8)
    result = augment(images, rng())
    noisy = result.mean(dim=(1, 2, 3)) < 0.75 * images.mean(dim=(1, 2, 3))
    rescaled = torch.where(noisy[:, None, None, None], 2 * result, result)
    blurred = (rescaled - images).abs().amax(dim=(1, 2, 3)) > 1e-6
    return blurred.numpy(), noisy.numpy()


def brightness_contrast_decisions(probability, n=4000):
    """Return which of n images had another brightness and contrast, and which had noise."""
    images = 0.2 + 0.3 * photographs(n, 8, 8)
    steps = ("brightness-contrast", "noise")
    result = Augmentation(steps, probability=probability, noise=(0.5, 0.5))(images, rng())
    ratio = result.mean(dim=(1, 2, 3)) / images.mean(dim=(1, 2, 3))  # at most 1.33 * 1.33
    noisy = ratio < 0.9
    return (torch.where(noisy, 2 * ratio, ratio) > 1 + 1e-5).numpy(), noisy.numpy()


@pytest.mark.parametrize("decide", [decisions, brightness_contrast_decisions])
def test_each_augmentation_is_decided_for_each_image_alone(decide):
    first, second = decide(0.4)
    low, high = expected_count(len(first), 0.4)
    assert low <= first.sum() <= high
    assert low <= second.sum() <= high
    for one, other in ((first, second), (first[1:], first[:-1]), (second[1:], second[:-1])):
        table = [[(a & b).sum() for b in (other, ~other)] for a in (one, ~one)]
        assert chi2_contingency(table).pvalue > 1e-4


def test_the_probability_can_be_chosen():
    assert Augmentation().probability == 0.4
    blurred, noisy = decisions(0.1)
    low, high = expected_count(len(blurred), 0.1)
    assert low <= blurred.sum() <= high
    assert low <= noisy.sum() <= high
    images = photographs(32)
    nothing = dataclasses.replace(EVERYTHING, probability=0.0)
    assert torch.equal(nothing(images, rng()), images)


def test_blur_comes_first_then_noise():
    # Noise after blur leaves neighbours far apart; blurred noise would be smooth.
    flat = torch.full((8, 1, 64, 64), 0.5)
    result = Augmentation(("blur", "noise"), probability=1.0)(flat, rng())
    assert bool((result.std(dim=(1, 2, 3)) > 0.06).all())  # 0.5 * 0.5 / sqrt(12) = 0.072


# --- the contract ---


@pytest.mark.parametrize("shape", [(0, 1, 64, 64), (1, 1, 64, 64), (5, 3, 32, 48), (7, 2, 16, 16)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_shape_and_dtype_are_kept_and_values_lie_in_the_unit_range(shape, dtype):
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    result = dataclasses.replace(EVERYTHING, probability=1.0)(images, rng())
    assert result.shape == shape
    assert result.dtype == dtype
    assert bool(((result >= 0) & (result <= 1)).all())
    assert not len(images) or not torch.equal(result, images)


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_black_and_white_stay_in_the_unit_range(level):
    result = dataclasses.replace(EVERYTHING, probability=1.0)(
        torch.full((64, 1, 64, 64), level), rng()
    )
    assert result.min() >= 0
    assert result.max() <= 1


def test_the_generator_alone_decides(unchanged_random_state):
    images = photographs(64)
    first, again, other = (EVERYTHING(images, rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    one = rng()
    assert not torch.equal(EVERYTHING(images, one), EVERYTHING(images, one))


def test_the_draws_depend_on_the_shape_of_the_images_only():
    following = []
    for images in (photographs(64), torch.zeros(64, 1, 64, 64), photographs(64).double()):
        draws = rng()
        EVERYTHING(images, draws)
        following.append(draws.random())
    assert len(set(following)) == 1


def test_the_images_are_not_modified():
    images = photographs(64)
    before = images.clone()
    result = EVERYTHING(images, rng())
    assert torch.equal(images, before)
    assert result.data_ptr() != images.data_ptr()
    nothing = dataclasses.replace(EVERYTHING, probability=0.0)(images, rng())
    assert nothing.data_ptr() != images.data_ptr()


def test_autocast_changes_nothing():
    images = photographs(64)
    expected = EVERYTHING(images, rng())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(EVERYTHING(images, rng()), expected)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"probability": 1.5}, r"probability must be in \[0, 1\], got 1.5"),
        ({"probability": float("nan")}, "probability must be in .* got nan"),
        ({"max_blur": 6}, "max_blur must be an odd number of pixels, got 6"),
        ({"max_blur": -1}, "max_blur must be an odd number of pixels, got -1"),
        ({"noise": (1.25, 0.75)}, r"noise must be .* got \(1.25, 0.75\)"),
        ({"noise": (-0.1, 0.75)}, "noise must be .* at least 0"),
        ({"brightness_contrast": -0.1}, "brightness_contrast must be at least 0, got -0.1"),
        ({"brightness_contrast": float("inf")}, "brightness_contrast must be at least 0, got inf"),
        ({"steps": ("blurr",)}, "unknown augmentation step 'blurr'; did you mean 'blur'"),
    ],
)
def test_impossible_values_are_refused(values, message):
    with pytest.raises(AttractorError, match=message):
        Augmentation(**values)
