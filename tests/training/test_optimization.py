import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

from attractor_ae.experiment.config import TrainingConfig
from attractor_ae.training.optimization import build_optimizer, dropout_rate, learning_rate


def test_the_constant_schedule_is_constant():
    settings = TrainingConfig(learning_rate=1e-3)
    assert {learning_rate(settings, step, 100) for step in range(100)} == {1e-3}


def test_one_cycle_rises_in_a_line_and_falls_as_pytorchs_cosine():
    settings = TrainingConfig(learning_rate=1e-3, schedule="onecycle")
    rates = [learning_rate(settings, step, 100) for step in range(100)]
    np.testing.assert_allclose(rates[:10], 1e-3 * np.arange(1, 11) / 10)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-3)
    cosine = CosineAnnealingLR(optimizer, T_max=89, eta_min=1e-6)
    expected = []
    for _ in range(90):
        expected.append(cosine.get_last_lr()[0])
        optimizer.step()
        cosine.step()
    np.testing.assert_allclose(rates[10:], expected, rtol=1e-9)


def test_the_dropout_rate_is_zero_then_rises_in_a_line():
    rates = [dropout_rate(0.33, step, 400) for step in (0, 200, 250, 300, 399, 400, 9999)]
    expected = [0, 0, 0.0825, 0.165, 0.33 * 199 / 200, 0.33, 0.33]
    np.testing.assert_allclose(rates, expected, rtol=1e-12)
    assert dropout_rate(0.33, 0, 0) == 0.33


@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD"])
def test_optimizers_are_those_of_the_protocol(name):
    optimizer = build_optimizer(
        torch.nn.Linear(2, 2), TrainingConfig(optimizer=name, learning_rate=1e-3, weight_decay=0.25)
    )
    assert type(optimizer).__name__ == name
    assert optimizer.defaults["lr"] == 1e-3
    assert optimizer.defaults["weight_decay"] == 0.25
    if name == "SGD":
        assert (optimizer.defaults["momentum"], optimizer.defaults["nesterov"]) == (0.9, True)
