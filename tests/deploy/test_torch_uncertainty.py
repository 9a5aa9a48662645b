"""Ensemble modules in torch-uncertainty: its routine and metrics are the other side."""

import itertools
import math

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from attractor_ae import as_ensemble_module
from attractor_ae.metrics import detection_metrics, expected_calibration_error


def test_the_rows_are_those_of_each_member_in_turn(shared_model, small_digits):
    images = torch.from_numpy(small_digits[2].images) / 255
    detector = shared_model.detector
    module = as_ensemble_module(detector)
    logits = module(images)
    assert logits.shape == (module.num_estimators * len(images), 10)
    p = logits.softmax(-1).unflatten(0, (3, len(images)))
    torch.testing.assert_close(p, detector.sample_proba(images), rtol=0, atol=1e-6)
    assert not torch.allclose(p[0], p[1], atol=0.01)
    assert not logits.requires_grad


# Notes of Lightning and torch-uncertainty: on memory, the loaders of a short test, and PyTorch.
@pytest.mark.filterwarnings("ignore:Metric `.*` will save all:UserWarning")
@pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning")
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning")
@pytest.mark.slow  # the import of torch-uncertainty
def test_the_metrics_of_its_routine_are_ours(digit_classifier, digits_and_noise):
    from lightning.pytorch import Trainer
    from torch_uncertainty.routines import ClassificationRoutine

    detector, (known, labels, unknown) = digit_classifier.detector_, digits_and_noise
    settings = {"is_ensemble": True, "eval_ood": True, "ood_criterion": "mutual_information"}
    routine = ClassificationRoutine(as_ensemble_module(detector), 10, **settings)
    settings = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    loaders = [
        DataLoader(TensorDataset(x, y), batch_size=detector.batch_size)
        for x, y in ((known, labels), (unknown, torch.zeros(len(unknown), dtype=torch.int64)))
    ]
    results = Trainer(accelerator="cpu", **settings).test(routine, loaders, verbose=False)
    found = {n.partition("/dataloader")[0]: v for of_set in results for n, v in of_set.items()}

    p = detector.predict_proba(known)
    right = (detector.predict_label(known) == labels).numpy()
    votes = detector.sample_proba(known).argmax(-1)  # (members, n)
    pairs = [(a != b).double().mean() for a, b in itertools.combinations(votes, 2)]
    inside, outside = (
        {name: values[0] for name, values in detector.predict_scores(x, None, [1]).scores.items()}
        for x in (known, unknown)
    )
    separated = detection_metrics(inside["mutual_information"], outside["mutual_information"])
    nat = math.log(10)  # ours are in units of the largest entropy
    expected = {
        "test/cls/Acc": right.mean(),
        "test/cls/Entropy": nat * inside["entropy"].mean(),
        "test/ens_Entropy": nat * inside["member_entropy"].mean(),
        "test/ens_MI": nat * inside["mutual_information"].mean(),
        "ood/ens_MI": nat * outside["mutual_information"].mean(),
        "test/ens_Disagreement": torch.stack(pairs).mean(),
        "test/cal/ECE": expected_calibration_error(p.amax(-1), right),
        "ood/AUROC": separated.auroc,
        "ood/FPR95": separated.fpr95_out,
    }
    assert 0.1 < right.mean() < 1
    for name, value in expected.items():
        assert found[name] == pytest.approx(float(value), abs=1e-6), name
