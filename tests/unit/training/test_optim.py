import itertools

import pytest
import torch
from torch import nn

from brainsegfounder.settings import OptimizerSettings
from brainsegfounder.training.optim import learning_rate, make_optimizer


def test_the_rate_rises_linearly_peaks_and_falls_to_its_final_share() -> None:
    settings = OptimizerSettings(peak_lr=1.0, warmup_steps=4, final_lr_fraction=0.1)
    rates = [learning_rate(step, 100, settings) for step in range(101)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert max(rates) == 1.0
    assert rates[100] == pytest.approx(0.1)
    assert all(a >= b for a, b in itertools.pairwise(rates[4:]))


def test_weight_decay_spares_biases_norms_and_bias_tables() -> None:
    model = nn.Module()
    model.linear = nn.Linear(3, 3)
    model.norm = nn.LayerNorm(3)
    model.relative_position_bias_table = nn.Parameter(torch.zeros(5, 2))
    decayed, spared = make_optimizer(model, OptimizerSettings(weight_decay=0.5)).param_groups
    assert [p is model.linear.weight for p in decayed["params"]] == [True]
    assert decayed["weight_decay"] == 0.5
    assert len(spared["params"]) == 4
    assert spared["weight_decay"] == 0
