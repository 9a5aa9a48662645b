import pytest
import torch
import torch.nn.functional as F

from attractor_ae._errors import AttractorError
from attractor_ae._random import Stream, generator
from attractor_ae.baselines import ConvClassifier
from attractor_ae.core.masks import draw_masks


def test_layers_are_those_of_the_protocol():
    """Section 2: encoder 1-4 with dropout after each, flatten, linear 32w -> f, f -> classes."""
    model = ConvClassifier(classes=10, generator=torch.Generator().manual_seed(0))
    w, f = 43, 341
    expected = (16 * w + w) + (16 * w * w + w) + (16 * w * 2 * w + 2 * w)
    expected += (16 * 4 * w * w + 2 * w) + (32 * w * f + f) + (f * 10 + 10)
    assert sum(p.numel() for p in model.parameters()) == expected
    assert model.site_shapes == ((w, 32, 32), (w, 16, 16), (2 * w, 8, 8), (2 * w, 4, 4))

    x = torch.rand(2, 1, 64, 64)
    masks = draw_masks(model.site_shapes, 0.33, 2, generator(0, Stream.TRAINING))
    h = x
    for convolution, mask in zip(model.encoder, masks.sites, strict=True):
        h = F.relu(convolution(h)) * mask
    expected_logits = model.output(F.relu(model.hidden(h.flatten(1))))
    torch.testing.assert_close(model(x, masks), expected_logits)
    assert not torch.allclose(model(x), expected_logits)


def test_impossible_settings_are_refused():
    with pytest.raises(AttractorError, match="at least 2 classes, got 1"):
        ConvClassifier(classes=1)
    with pytest.raises(AttractorError, match="dropout rate"):
        ConvClassifier(classes=3, dropout=-0.1)


def test_in_the_standardised_space_brightness_and_contrast_do_not_matter():
    model = ConvClassifier(classes=3, space="standardised")
    x = torch.rand(2, 1, 64, 64)
    torch.testing.assert_close(model(0.1 + 0.3 * x), model(x), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(ConvClassifier(classes=3)(0.1 + 0.3 * x), model(x))
