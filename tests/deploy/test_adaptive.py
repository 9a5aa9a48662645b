"""Adaptive sampling: which images stop, and what their verdicts are."""

import numpy as np
import pytest
import torch
from small_models import make_model

from attractor_ae import AttractorError
from attractor_ae.conformal import Groups
from attractor_ae.deploy import _adaptive
from attractor_ae.deploy._adaptive import StoppingRule, chosen_stages, sampled, stages


def test_the_rule_by_hand():
    # Four calibration images; alpha 0.5 rejects the two largest T of all trials: q is 3.
    t = torch.tensor([[1.0, 2.5, 3.0, 9.0], [1.0, 2.0, 3.0, 4.0]])
    labels = torch.tensor([[0, 1, 0, 0], [0, 0, 1, 1]])
    rule = StoppingRule.of(t, 0.5, Groups.of(labels[1], 2))
    assert rule.thresholds.tolist() == [3.0, 3.0]  # of both classes together
    assert rule.distances[0] == 5.0  # the largest difference
    some = torch.tensor([-2.5, -2.0, 3.0, 8.0, 8.5])
    assert rule.stops(some, torch.tensor([0, 1, 0, 1, 0]), 0).tolist() == [1, 0, 0, 0, 1]
    known, stopped = rule.applied(t, labels)
    assert known.tolist() == [1.0, 2.0, 3.0, 9.0]  # the last one stops at once
    assert stopped.tolist() == [0, 0, 1, 0]


def test_the_rule_of_each_class_by_hand():
    t, labels = torch.tensor([[0.0, 1, 2, 9], [1, 2, 3, 4]]), torch.tensor([0, 0, 1, 1])
    rule = StoppingRule.of(t, 0.4, Groups.of(labels, 2, least=2))  # the larger of each two
    assert rule.thresholds.tolist() == [2.0, 4.0]
    assert rule.distances[0] == 5.0
    assert rule.stops(torch.tensor([7.5, 7.5, 9.5]), torch.tensor([0, 1, 1]), 0).tolist() == [
        1,
        0,
        1,
    ]


def test_stages_are_powers_of_two_and_all():
    assert [stages(n) for n in (1, 2, 3, 20)] == [[1], [1, 2], [1, 2, 3], [1, 2, 4, 8, 16, 20]]
    assert stages(20)[chosen_stages(20, (2, 16))] == [2, 4, 8, 16]


@pytest.mark.parametrize("trials", [(0, 2), (2, 1), (1, 5), (1, 100), (1, 2, 3)])
def test_other_numbers_of_trials_are_refused(model, small_digits, trials):
    with pytest.raises(AttractorError, match=" to ".join(map(str, trials))):
        model.score(small_digits[2].images[:1], trials=trials)


def test_a_list_of_trials_is_a_pair(shared_model, small_digits):
    images = small_digits[2].images[:5]
    assert shared_model.score(images, trials=[1, 3]) == shared_model.score(images, trials=(1, 3))


def test_masks_per_image_need_all_trials(small_digits):
    model = make_model(*small_digits[:2], mask_scope="sample")
    images = small_digits[2].images[:20]
    with pytest.raises(AttractorError, match="mask_scope=trial"):
        model.score(images, trials=(1, 3))
    every = model.score(images)
    assert model.score(images, trials=(3, 3)) == every  # no image stops early
    assert len(model.score(images, trials=(1, 1))) == 20


def test_means_over_stages_are_those_of_all_trials(model, small_digits):
    images, detector = torch.tensor(small_digits[2].images[:20]), model.detector
    names = [*model.ood.components, "member_entropy"]
    *_, (rows, means) = sampled(detector, images, names, [0, 1], stages(detector.trials))
    found = detector.predict_scores(images, names, [0, 1])
    assert rows.tolist() == list(range(20))
    torch.testing.assert_close(means.pop(""), found.probabilities)
    for name, values in means.items():
        torch.testing.assert_close(values, found.scores[name], rtol=1e-5, atol=1e-6)


def test_means_of_earlier_stages_stay_as_they_are(model, small_digits):
    images, detector = torch.tensor(small_digits[2].images[:20]), model.detector
    names = list(model.ood.components)
    first, *_ = list(sampled(detector, images, names, [1], stages(detector.trials)))
    found = detector.some_trials(0, 1).predict_scores(images, names, [1])
    assert torch.equal(first[1].pop(""), found.probabilities)
    assert {name: values.tolist() for name, values in first[1].items()} == {
        name: values.tolist() for name, values in found.scores.items()
    }


def test_far_images_draw_few_masks_and_their_verdict_is_the_same(model, small_digits, monkeypatch):
    passes = []
    sampled_before = _adaptive.sampled

    def counting(*arguments):
        for rows, means in sampled_before(*arguments):
            passes.append(len(rows))
            yield rows, means

    monkeypatch.setattr("attractor_ae.deploy.model.sampled", counting)
    known = small_digits[2].images
    noise = np.random.default_rng(0).integers(0, 256, known.shape, dtype=np.uint8)
    every = model.detector.trials
    for images in (known, noise):
        passes.clear()
        all_trials = model.score(images)
        assert passes == [len(images)]
        passes.clear()
        stopped = model.score(images, trials=(1, every))
        assert passes[0] == len(images)
        same = [a.verdict == b.verdict for a, b in zip(all_trials, stopped, strict=True)]
        assert np.mean(same) >= 0.95
    assert passes == [len(noise)]  # every noise image stops after one mask
    assert {verdict.verdict for verdict in stopped} == {"unknown"}


def test_fixed_trials_are_those_of_a_detector_with_fewer(model, small_digits):
    images = small_digits[2].images[:10]
    found = model.score(images, trials=(1, 1))
    one = model.detector.some_trials(0, 1)
    values = one.predict_scores(images, model.ood.components, [one.recursion])
    t = model.ood.statistic(
        torch.stack([values.scores[name][0] for name in model.ood.components]), one.recursion
    ).numpy()
    known = model.ood.statistic(model.values[0], one.recursion).numpy()
    p = (1 + (known >= t[:, None]).sum(1)) / (1 + len(known))
    assert np.allclose([verdict.p_value for verdict in found], p, atol=1e-6)
