import http.client
from pathlib import Path
from urllib.error import URLError

import lpips
import numpy as np
import pytest
import skimage.data
import torch
from skimage.transform import resize
from torch import nn

from attractor_ae._errors import AttractorError
from attractor_ae.losses.perceptual import PerceptualLoss

WEIGHTS = "vgg16-397923af.pth"


@pytest.fixture(scope="module")
def baseline():
    """The LPIPS network without its linear weights, its trunk and biases random."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        # lpips names torchvision's argument as it was called before version 0.13.
        with (
            pytest.warns(UserWarning, match="'pretrained' is deprecated"),
            pytest.warns(UserWarning, match="Arguments other than a weight enum"),
        ):
            network = lpips.LPIPS(net="vgg", lpips=False, pnet_rand=True, verbose=False)
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                nn.init.normal_(parameter, std=0.1)
    return network


@pytest.fixture(scope="module")
def features(baseline):
    blocks = [getattr(baseline.net, f"slice{block}") for block in range(1, 6)]
    return nn.Sequential(*(layer for block in blocks for layer in block))


@pytest.fixture(scope="module")
def pair():
    images = [getattr(skimage.data, name)() / 255 for name in ("camera", "coins", "moon")]
    target = np.stack([resize(i, (32, 48), anti_aliasing=True) for i in images])[:, None]
    noise = np.random.default_rng(0).standard_normal(target.shape)
    return torch.from_numpy(1.2 * target - 0.1 + 0.1 * noise).float(), torch.from_numpy(
        target
    ).float()


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache of torchvision's weights, and no network."""

    def unreachable(url, dst, hash_prefix=None, progress=True):
        raise URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    return tmp_path / "hub" / "checkpoints"


def test_the_distance_is_that_of_lpips_without_linear_weights(baseline, features, pair):
    x, y = pair
    colour = (image.expand(-1, 3, -1, -1) for image in pair)
    expected = baseline(*colour, normalize=True).flatten()
    loss = PerceptualLoss(features)
    alone = torch.stack([loss(x[i : i + 1], y[i : i + 1]) for i in range(len(x))])
    assert expected.min() > 0.01
    torch.testing.assert_close(alone, expected, rtol=1e-4, atol=0)
    torch.testing.assert_close(loss(x, y), expected.mean(), rtol=1e-4, atol=0)


def test_the_gradient_is_that_of_lpips(baseline, features, pair):
    ours, theirs = (pair[0].clone().requires_grad_() for _ in range(2))
    PerceptualLoss(features)(ours, pair[1]).backward()
    colour = (image.expand(-1, 3, -1, -1) for image in (theirs, pair[1]))
    baseline(*colour, normalize=True).mean().backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    scale = theirs.grad.abs().max()
    assert scale > 0
    torch.testing.assert_close(ours.grad / scale, theirs.grad / scale, rtol=0, atol=1e-4)


def test_colour_images_are_compared_as_they_are(baseline, features):
    images = [getattr(skimage.data, name)() for name in ("astronaut", "coffee")]
    x, y = (torch.from_numpy(resize(i, (32, 48))).float().permute(2, 0, 1)[None] for i in images)
    expected = baseline(x, y, normalize=True).mean()
    torch.testing.assert_close(PerceptualLoss(features)(x, y), expected, rtol=1e-4, atol=0)


def test_silent_features_have_a_gradient(features):
    loss = PerceptualLoss(features)
    with torch.no_grad():
        for layer in loss.modules():
            if isinstance(layer, nn.Conv2d):
                assert layer.bias is not None
                layer.bias.fill_(-1e6)
    x = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss(x, torch.zeros(1, 1, 32, 32)).backward()
    assert x.grad is not None
    assert bool((x.grad == 0).all())


def test_the_weights_are_frozen_copies(features, pair):
    trainable = nn.Sequential(*features).requires_grad_(True)
    loss = PerceptualLoss(trainable)
    assert not any(parameter.requires_grad for parameter in loss.parameters())
    assert not any(module.training for module in loss.modules())
    assert all(parameter.requires_grad for parameter in trainable.parameters())
    before = loss(*pair)
    weight = trainable[0].weight
    assert isinstance(weight, nn.Parameter)
    saved = weight.detach().clone()
    with torch.no_grad():
        weight.zero_()
        after = loss(*pair)
        weight.copy_(saved)
    trainable.requires_grad_(False)
    assert torch.equal(before, after)


def test_the_default_weights_come_from_the_cache_of_torchvision(cache, features, pair):
    # Also a layer of the classifier, which the file has and the loss leaves.
    state = {f"features.{k}": v for k, v in features.state_dict().items()}
    state["classifier.6.bias"] = torch.zeros(1000)
    cache.mkdir(parents=True)
    torch.save(state, cache / WEIGHTS)
    random_state = torch.get_rng_state()
    loss = PerceptualLoss()
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.equal(loss(*pair), PerceptualLoss(features)(*pair))
    assert not any(parameter.requires_grad for parameter in loss.parameters())


def test_absent_weights_are_downloaded_and_checked(cache, monkeypatch):
    calls = []

    def download(url, dst, hash_prefix=None, progress=True):
        calls.append((url, dst, hash_prefix))
        Path(dst).write_bytes(b"truncated")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(AttractorError):
        PerceptualLoss()
    url = f"https://download.pytorch.org/models/{WEIGHTS}"
    assert calls == [(url, str(cache / WEIGHTS), "397923af")]


@pytest.mark.parametrize(
    "failure",
    [
        URLError("no route to host"),
        http.client.IncompleteRead(b""),
        RuntimeError('invalid hash value (expected "397923af", got "0")'),
    ],
)
def test_a_failed_download_names_the_file_and_its_place(cache, monkeypatch, failure):
    def fail(url, dst, hash_prefix=None, progress=True):
        raise failure

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(AttractorError) as caught:
        PerceptualLoss()
    line = str(caught.value)
    assert "\n" not in line
    assert f"https://download.pytorch.org/models/{WEIGHTS}" in line
    assert str(cache / WEIGHTS) in line
    assert str(failure) in line


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", "other network", "a number"])
def test_a_damaged_file_is_named(cache, content):
    cache.mkdir(parents=True)
    path = cache / WEIGHTS
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save({"features.0.weight": torch.zeros(1)} if "other" in content else 3, path)
    with pytest.raises(AttractorError) as caught:
        PerceptualLoss()
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(f"{path}: ")
    assert f"https://download.pytorch.org/models/{WEIGHTS}" in line


def test_features_of_another_network_are_refused():
    with pytest.raises(AttractorError, match="30 layers of VGG16, got 2"):
        PerceptualLoss(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()))


@pytest.mark.parametrize("shape", [(1, 1, 15, 64), (1, 2, 64, 64)])
def test_images_that_do_not_fit_are_refused(features, shape):
    loss = PerceptualLoss(features)
    assert loss(torch.ones(1, 1, 16, 16), torch.zeros(1, 1, 16, 16)).item() > 0
    with pytest.raises(AttractorError, match="1 or 3 channels and at least 16 x 16"):
        loss(torch.zeros(shape), torch.zeros(shape))
