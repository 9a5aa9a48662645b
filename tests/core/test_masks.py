import numpy as np
import pytest
import torch
from scipy.stats import binom

from attractor_ae._errors import AttractorError
from attractor_ae._strata import stratified_masks
from attractor_ae.core.autoencoder import Autoencoder
from attractor_ae.core.masks import DropoutMasks, draw_masks, sample_masks, trial_masks

SHAPES = Autoencoder().site_shapes


@pytest.mark.parametrize("rate", [0.1, 0.33, 0.5])
def test_entries_are_zero_at_the_rate_and_scaled_otherwise(rate):
    masks = draw_masks(SHAPES, rate, 4, np.random.default_rng(0))
    for site in masks.sites:
        values = site.unique()
        assert values[0] == 0
        # PROTOCOL section 2: 1 / (1 - p), to within what sixteen bits can say of p.
        assert values[1].item() == pytest.approx(1 / (1 - rate), rel=3e-5)
        assert len(values) == 2
        low, high = binom.interval(1 - 1e-6, site.numel(), rate)
        assert low <= (site == 0).sum().item() <= high


def test_elements_pixels_channels_and_images_are_independent():
    masks = draw_masks([(16, 32, 32)], 0.33, 8, np.random.default_rng(1))
    kept = (masks.sites[0] > 0).double()  # (8, 16, 32, 32)
    for axis in range(4):
        # Chi-squared of the counts along each axis: a shared row or channel would blow it up.
        counts = kept.movedim(axis, 0).flatten(1).sum(1)
        per = kept.numel() / len(counts)
        mean, variance = per * 0.67, per * 0.67 * 0.33
        statistic = ((counts - mean) ** 2 / variance).sum().item()
        assert statistic < len(counts) + 6 * (2 * len(counts)) ** 0.5


def test_no_dropout_leaves_everything():
    masks = draw_masks(SHAPES, 0.0, 2, np.random.default_rng(0))
    assert all(bool((site == 1).all()) for site in masks.sites)


def test_a_trial_has_one_mask_that_its_seed_and_number_name(unchanged_random_state):
    a, b, other = (trial_masks(SHAPES, 0.33, 7, trial) for trial in (3, 3, 4))
    assert [tuple(s.shape) for s in a.sites] == [(1, *shape) for shape in SHAPES]
    assert all(torch.equal(x, y) for x, y in zip(a.sites, b.sites, strict=True))
    assert not any(torch.equal(x, y) for x, y in zip(a.sites, other.sites, strict=True))


@pytest.mark.parametrize(("rate", "counts"), [(0.1, {0, 1}), (1 / 3, {1}), (0.5, {1, 2})])
def test_stratified_masks_drop_an_entry_about_equally_often_in_three_trials(rate, counts):
    drawn = [stratified_masks(SHAPES, rate, 7, trial) for trial in range(6)]
    for sites in zip(*(masks.sites for masks in drawn), strict=True):
        dropped = (torch.cat(sites) == 0).int()
        assert {int(n) for triple in dropped.split(3) for n in triple.sum(0).unique()} == counts
        low, high = binom.interval(1 - 1e-6, sites[0].numel(), rate)
        assert all(low <= int(n) <= high for n in dropped.flatten(1).sum(1))  # of each trial
        assert not torch.equal(dropped[:3], dropped[3:])
    plain = trial_masks(SHAPES, rate, 7, 0)
    for a, b in zip(drawn[0].sites, plain.sites, strict=True):
        assert (a.shape, a.stride(), a.dtype) == (b.shape, b.stride(), b.dtype)
        assert a.max() == pytest.approx(b.max().item(), rel=3e-5)


def test_a_sample_mask_depends_on_the_image_index_and_not_on_the_batch():
    together = sample_masks(SHAPES, 0.33, 7, 0, 4, 36)
    for index in (4, 15, 16, 39):
        alone = sample_masks(SHAPES, 0.33, 7, 0, index, 1)
        for site, single in zip(together.sites, alone.sites, strict=True):
            assert torch.equal(site[index - 4 : index - 3], single)
    for site in together.sites:
        assert len(torch.unique(site.flatten(1), dim=0)) == 36  # no two images share one


def test_masks_that_do_not_fit_are_refused(autoencoder):
    small = Autoencoder(dropout=0.1)
    masks = trial_masks(small.site_shapes, 0.1, 0, 0)
    with pytest.raises(AttractorError, match="masks"):
        autoencoder(torch.zeros(1, 1, 64, 64), masks)
    with pytest.raises(AttractorError, match="masks"):
        autoencoder(torch.zeros(1, 1, 64, 64), DropoutMasks(masks.sites[:3]))


def test_a_rate_of_one_is_refused():
    with pytest.raises(AttractorError, match=r"must be in \[0, 1\), got 1"):
        draw_masks(SHAPES, 1.0, 1, np.random.default_rng(0))
