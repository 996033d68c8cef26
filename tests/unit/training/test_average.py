import torch
from torch import nn

from brainsegfounder.settings import OptimizerSettings
from brainsegfounder.training.average import MovingAverage
from brainsegfounder.training.optim import make_learner


def test_the_average_moves_by_one_minus_its_decay() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    average = MovingAverage(model, 0.75)
    nn.init.constant_(model.weight, 5.0)
    average.update(model)
    assert average.shadow["weight"].item() == 2.0
    average.update(model)
    assert average.shadow["weight"].item() == 2.75


def test_in_its_place_the_network_has_the_average_and_afterwards_its_own_bit_for_bit() -> None:
    model = nn.Linear(7, 5)
    average = MovingAverage(model, 0.9)
    with torch.no_grad():
        model.weight.normal_()
    average.update(model)
    own = {name: value.clone() for name, value in model.state_dict().items()}
    shadow = average.shadow["weight"].clone()
    with average.in_place(model):
        assert torch.equal(model.weight, shadow)
    assert all(torch.equal(value, own[name]) for name, value in model.state_dict().items())
    assert torch.equal(average.shadow["weight"], shadow)


def test_also_where_the_work_in_between_fails() -> None:
    model = nn.Linear(2, 2)
    average = MovingAverage(model, 0.5)
    average.shadow["weight"].zero_()
    own = model.weight.detach().clone()
    raised = False
    try:
        with average.in_place(model):
            raise RuntimeError
    except RuntimeError:
        raised = True
    assert raised
    assert torch.equal(model.weight, own)


def test_a_learner_has_an_average_only_where_the_settings_ask_for_one() -> None:
    assert make_learner(nn.Linear(1, 1), OptimizerSettings()).average is None
    asked = make_learner(nn.Linear(1, 1), OptimizerSettings(ema_decay=0.5))
    assert asked.average is not None
    assert asked.average.decay == 0.5


def test_the_average_follows_every_step_of_the_learner() -> None:
    learner = make_learner(nn.Linear(1, 1, bias=False), OptimizerSettings(ema_decay=0.5))
    before = learner.model.weight.detach().clone()
    learner.model(torch.ones(1, 1)).sum().backward()
    learner.step(0.1)
    assert torch.allclose(
        learner.average.shadow["weight"], (before + learner.model.weight.detach()) / 2
    )
