from typing import get_args

import numpy as np
import pytest
import pytorch_msssim
import skimage.data
import torch
from scipy.ndimage import gaussian_filter
from scipy.signal import convolve2d
from skimage.metrics import structural_similarity
from skimage.transform import resize
from torchvision.models.vgg import cfgs, make_layers

from attractor_ae._errors import AttractorError
from attractor_ae.experiment.config import ReconstructionLossName
from attractor_ae.losses import perceptual
from attractor_ae.losses.reconstruction import RECONSTRUCTION_LOSSES, reconstruction_loss

POINTWISE = ("mse", "l1", "huber", "bce")
WITHOUT_WEIGHTS = tuple(name for name in RECONSTRUCTION_LOSSES if name != "perceptual")
PHOTOGRAPHS = ("camera", "coins", "moon", "brick")


def photographs(side):
    images = [getattr(skimage.data, name)() for name in PHOTOGRAPHS]
    return np.stack([resize(i / 255, (side, side), anti_aliasing=True) for i in images])[:, None]


def degraded(images, seed=0):
    """Blurred and noisy, one of them a negative, and out of [0, 1] as a network's output is."""
    blurred = gaussian_filter(images, (0, 0, 1.5, 1.5))
    result = 1.3 * blurred - 0.1
    result[-1] = 1 - images[-1]
    return result + 0.03 * np.random.default_rng(seed).standard_normal(images.shape)


@pytest.fixture(scope="module")
def pair():
    target = photographs(64)
    return degraded(target), target


def value(name, reconstruction, target):
    return reconstruction_loss(name)(
        torch.from_numpy(reconstruction).float(), torch.from_numpy(target).float()
    ).item()


@pytest.fixture
def random_vgg(monkeypatch):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        # VGG16 with an eighth of its channels.
        features = make_layers([w if w == "M" else w // 8 for w in cfgs["D"]], batch_norm=False)
    monkeypatch.setattr(perceptual, "_imagenet_features", lambda: features)
    return features


# --- the names ---


def test_the_names_are_those_of_a_config():
    assert get_args(ReconstructionLossName) == ("", *RECONSTRUCTION_LOSSES)


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(AttractorError, match=r"^unknown reconstruction loss 'sim'.*'ssim'"):
        reconstruction_loss("sim")


# --- SSIM ---


def skimages_similarities(reconstructions, targets):
    return [
        structural_similarity(
            x[0], y[0], gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1
        )
        for x, y in zip(reconstructions, targets, strict=True)
    ]


def test_ssim_is_that_of_skimage(pair):
    similarities = skimages_similarities(*pair)
    assert min(similarities) < 0 < max(similarities)
    assert value("ssim", *pair) == pytest.approx(1 - np.mean(similarities), abs=1e-5)


def test_ssim_of_colour_images_is_the_mean_over_channels():
    images = [resize(getattr(skimage.data, n)(), (64, 64)) for n in ("astronaut", "coffee")]
    target = np.stack(images).transpose(0, 3, 1, 2)
    reconstruction = degraded(target)
    similarities = [
        structural_similarity(
            x,
            y,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1,
            channel_axis=0,
        )
        for x, y in zip(reconstruction, target, strict=True)
    ]
    assert value("ssim", reconstruction, target) == pytest.approx(
        1 - np.mean(similarities), abs=1e-5
    )


@pytest.mark.parametrize(
    ("channels", "height", "width"),
    [(1, 64, 64), (3, 64, 64), (1, 128, 128), (1, 32, 48), (3, 41, 72), (1, 11, 90)],
)
def test_ssim_is_that_of_pytorch_msssim(channels, height, width):
    assert_same_as(
        lambda x, y: 1 - pytorch_msssim.ssim(x, y, data_range=1),
        "ssim",
        *photographs_of_shape(channels, height, width),
    )


def test_ssim_of_digits_on_black_is_that_of_pytorch_msssim(digits):
    target = digits.images[:8] / 255  # flat over most of its pixels
    reconstruction = degraded(target)
    reconstruction[:4] = np.clip(reconstruction[:4], 0, 1)
    assert_same_as(
        lambda x, y: 1 - pytorch_msssim.ssim(x, y, data_range=1), "ssim", reconstruction, target
    )


def photographs_of_shape(channels, height, width):
    """Return a degraded and a clean batch; a channel is a photograph of its own."""
    square = photographs(max(height, width))[..., :height, :width]
    target = np.concatenate([np.roll(square, c, axis=0) for c in range(channels)], axis=1)
    return degraded(target), target


def assert_same_as(oracle, name, reconstruction, target):
    """Compare value and gradient.

    The gradient of a mean over pixels is small, so it is measured by its largest entry. In float32
    the oracle's own gradient is off by up to 5e-5 of that, and its value by 3e-6.
    """
    y = torch.from_numpy(target).float()
    x = torch.from_numpy(reconstruction).float().requires_grad_()
    results = [oracle(x, y), reconstruction_loss(name)(x, y)]
    expected, found = (torch.autograd.grad(result, x)[0] for result in results)
    assert results[1].item() == pytest.approx(results[0].item(), abs=5e-6)
    assert float(expected.abs().max()) > 0
    torch.testing.assert_close(
        found / expected.abs().max(), expected / expected.abs().max(), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("name", ["ssim", "ms-ssim"])
def test_a_loss_that_was_first_had_in_inference_mode_can_be_trained_with(name):
    # No other test has images of this size: what is kept of them is made here.
    with torch.inference_mode():
        images = torch.rand(1, 1, 37, 53)
        reconstruction_loss(name)(images, images)
    x = torch.rand(1, 1, 37, 53).requires_grad_()
    reconstruction_loss(name)(x, torch.rand(1, 1, 37, 53)).backward()
    assert x.grad is not None


# --- MS-SSIM ---


def ms_ssim_by_hand(x, y, weights):
    """Wang et al. 2003, equation 7, on one grey image."""
    coordinates = np.arange(-3, 4)
    window = np.exp(-(coordinates**2) / (2 * 1.5**2))
    window = np.outer(window, window) / window.sum() ** 2
    c1, c2 = 0.01**2, 0.03**2

    def local_mean(image):
        return convolve2d(image, window, mode="valid")

    result = 1.0
    for scale, weight in enumerate(weights):
        mx, my = local_mean(x), local_mean(y)
        vx, vy = local_mean(x**2) - mx**2, local_mean(y**2) - my**2
        covariance = local_mean(x * y) - mx * my
        similarity = (2 * covariance + c2) / (vx + vy + c2)
        if scale == len(weights) - 1:
            similarity = similarity * (2 * mx * my + c1) / (mx**2 + my**2 + c1)
        result *= max(similarity.mean(), 0) ** weight
        side = len(x) // 2
        x, y = (i.reshape(side, 2, side, 2).mean(axis=(1, 3)) for i in (x, y))
    return result


FIVE_SCALES = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])
FOUR_SCALES = FIVE_SCALES[:4] * FIVE_SCALES.sum() / FIVE_SCALES[:4].sum()


@pytest.mark.parametrize(("side", "weights"), [(64, FOUR_SCALES), (128, FIVE_SCALES)])
def test_ms_ssim_is_the_formula_over_the_scales_that_the_window_fits_in(side, weights):
    target = photographs(side)
    reconstruction = degraded(target)
    similarities = [
        ms_ssim_by_hand(x[0], y[0], weights) for x, y in zip(reconstruction, target, strict=True)
    ]
    assert similarities[-1] == 0  # the negative
    assert 0.1 < similarities[0] < 0.95
    assert value("ms-ssim", reconstruction, target) == pytest.approx(
        1 - np.mean(similarities), abs=1e-5
    )


@pytest.mark.parametrize("side", [97, 101, 128, 176])
@pytest.mark.parametrize("channels", [1, 3])
def test_ms_ssim_of_large_images_is_that_of_pytorch_msssim(side, channels):
    assert_same_as(
        lambda x, y: 1 - pytorch_msssim.ms_ssim(x, y, data_range=1, win_size=7),
        "ms-ssim",
        *photographs_of_shape(channels, side, side),
    )


def test_ms_ssim_has_a_gradient_where_there_is_no_similarity(pair):
    target = torch.from_numpy(pair[1]).float()
    reconstruction = (1 - target).requires_grad_()
    loss = reconstruction_loss("ms-ssim")(reconstruction, target)
    loss.backward()
    assert loss.item() == 1
    assert reconstruction.grad is not None
    assert bool(reconstruction.grad.isfinite().all())


# --- the pointwise losses ---


def huber_by_hand(x, y):
    error = np.abs(x - y)
    return np.where(error < 1, error**2 / 2, error - 1 / 2)


def bce_by_hand(x, y):
    probability = 1 / (1 + np.exp(-x))
    return -(y * np.log(probability) + (1 - y) * np.log(1 - probability))


@pytest.mark.parametrize(
    ("name", "pixelwise", "images_averaged"),
    [
        ("mse", lambda x, y: (x - y) ** 2, True),
        ("l1", lambda x, y: np.abs(x - y), True),
        ("huber", huber_by_hand, True),
        ("bce", bce_by_hand, False),
    ],
)
def test_pointwise_losses_are_sums_over_pixels(pair, name, pixelwise, images_averaged):
    target = pair[1]
    reconstruction = 4 * pair[0] - 2  # errors on both sides of Huber's delta
    errors = pixelwise(reconstruction, target)
    expected = errors.sum() / (len(target) if images_averaged else 1)
    assert value(name, reconstruction, target) == pytest.approx(expected, rel=1e-5)


# --- all of them ---


@pytest.mark.parametrize("name", RECONSTRUCTION_LOSSES)
def test_a_batch_has_the_mean_of_its_images_or_the_sum_for_bce(pair, name, random_vgg):
    alone = [value(name, x[None], y[None]) for x, y in zip(*pair, strict=True)]
    assert np.ptp(alone) > 1e-3
    expected = np.sum(alone) if name == "bce" else np.mean(alone)
    assert value(name, *pair) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", [name for name in RECONSTRUCTION_LOSSES if name != "bce"])
def test_the_loss_of_the_target_itself_is_zero(pair, name, random_vgg):
    assert value(name, pair[1], pair[1]) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("name", RECONSTRUCTION_LOSSES)
def test_a_step_down_the_gradient_lowers_the_loss(pair, name, random_vgg):
    target = torch.from_numpy(pair[1][:3]).float()
    reconstruction = torch.from_numpy(pair[0][:3]).float().requires_grad_()
    loss = reconstruction_loss(name)(reconstruction, target)
    assert loss.shape == ()
    (gradient,) = torch.autograd.grad(loss, reconstruction)
    assert all(bool(g.abs().max() > 0) for g in gradient)
    with torch.no_grad():
        lower = reconstruction - 0.01 * gradient / gradient.abs().max()
    assert reconstruction_loss(name)(lower, target).item() < loss.item()


@pytest.mark.parametrize("name", RECONSTRUCTION_LOSSES)
def test_autocast_changes_nothing(pair, name, random_vgg):
    loss = reconstruction_loss(name)
    x, y = (torch.from_numpy(i).float() for i in pair)
    expected = loss(x, y)
    with torch.autocast("cpu", torch.bfloat16):
        result = loss(x, y)
    assert result.dtype == torch.float32
    assert torch.equal(result, expected)


@pytest.mark.parametrize("name", RECONSTRUCTION_LOSSES)
def test_a_reconstruction_in_16_bit_is_compared_in_32(pair, name, random_vgg):
    loss = reconstruction_loss(name)
    x, y = torch.from_numpy(pair[0]).bfloat16(), torch.from_numpy(pair[1]).float()
    assert torch.equal(loss(x, y), loss(x.float(), y))


@pytest.mark.parametrize("name", RECONSTRUCTION_LOSSES)
def test_other_shapes_are_refused_rather_than_broadcast(name, random_vgg):
    with pytest.raises(AttractorError, match=r"same shape.*\(2, 3, 64, 64\) and \(2, 1, 64, 64\)"):
        reconstruction_loss(name)(torch.zeros(2, 3, 64, 64), torch.zeros(2, 1, 64, 64))


@pytest.mark.parametrize(("name", "window"), [("ssim", 11), ("ms-ssim", 7)])
def test_images_smaller_than_the_window_are_refused(name, window):
    loss = reconstruction_loss(name)
    loss(torch.zeros(1, 1, window, window), torch.zeros(1, 1, window, window))
    small = torch.zeros(1, 1, 64, window - 1)
    with pytest.raises(AttractorError, match=rf"'{name}' needs .* got 64 x {window - 1};"):
        loss(small, small)


def test_the_perceptual_loss_is_that_of_its_network(pair, random_vgg):
    x, y = (torch.from_numpy(i).float() for i in pair)
    expected = perceptual.PerceptualLoss(random_vgg)(x, y)
    assert expected.item() > 0.01
    assert torch.equal(reconstruction_loss("perceptual")(x, y), expected)
