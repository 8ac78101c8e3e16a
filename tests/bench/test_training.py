"""The learner: its schedule, and that a training goes on as if it had never stopped."""

import math
import time

import pytest
import torch

from fwrl.bench.supervised import Learner, TrainingConfig, learning_rate
from fwrl.config import ConfigError
from fwrl.files.checkpoint import CheckpointError
from fwrl.run.process import Clock, choose_device


def learner(**options):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Dropout(0.3), torch.nn.Linear(4, 1))
    return Learner(model, TrainingConfig(steps=20, **options))


def advance(learner, generator, carried, steps):
    """Each step depends on the data, on torch's own generator, and on what the last one left."""
    for _ in range(steps):
        x = torch.randn(5, 3, generator=generator)
        loss = (learner.model(x).squeeze(-1) - x.sum(dim=-1) - 0.1 * carried[0]).square().mean()
        carried = (loss.detach().clamp_max(1), {"twice": carried[1]["twice"] * 2})
        learner.update(loss)
    return carried


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_a_restored_training_goes_on_as_if_nothing_had_happened(optimizer, tmp_path):
    begin = (torch.zeros(()), {"twice": torch.ones(1)})
    whole, data = learner(optimizer=optimizer, warmup_steps=5), torch.Generator().manual_seed(1)
    torch.manual_seed(2)
    end = advance(whole, data, begin, 20)

    first, data = learner(optimizer=optimizer, warmup_steps=5), torch.Generator().manual_seed(1)
    torch.manual_seed(2)
    middle = advance(first, data, begin, 8)
    first.save(tmp_path, data, middle, [{"step": 8, "loss": 0.5}])
    advance(first, data, middle, 3)

    second, data = learner(optimizer=optimizer, warmup_steps=5), torch.Generator().manual_seed(9)
    carried, rows = second.restore(tmp_path, data, begin)
    assert second.step == 8
    assert rows == [{"step": 8, "loss": 0.5}]
    again = advance(second, data, carried, 12)
    assert torch.equal(again[0], end[0])
    assert torch.equal(again[1]["twice"], end[1]["twice"])
    for one, other in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_nothing_to_restore(tmp_path):
    assert learner().restore(tmp_path, torch.Generator(), "begin") == ("begin", [])


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    learner().save(tmp_path, torch.Generator())
    other = Learner(torch.nn.Linear(3, 4), TrainingConfig())
    with pytest.raises(CheckpointError, match="saved by another model"):
        other.restore(tmp_path, torch.Generator())


def test_the_learning_rate_rises_and_falls():
    config = TrainingConfig(steps=110, warmup_steps=10, learning_rate=0.5)
    rates = [learning_rate(config, step) for step in range(111)]
    assert rates[:10] == pytest.approx([0.05 * (i + 1) for i in range(10)])
    assert rates[10] == 0.5
    assert rates[60] == pytest.approx(0.25)
    assert rates[35] == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)) / 2)
    assert rates[110] == pytest.approx(0)
    constant = TrainingConfig(steps=110, learning_rate=0.5, schedule="constant")
    assert {learning_rate(constant, step) for step in (0, 50, 1000)} == {0.5}


def test_the_optimiser_follows_the_schedule_and_the_clip():
    one = learner(max_grad_norm=None, learning_rate=0.1)
    one.update(one.model(torch.ones(2, 3)).sum())
    assert one.optimizer.param_groups[0]["lr"] == 0.1
    one.step = 10
    one.update(one.model(torch.ones(2, 3)).sum())
    assert one.optimizer.param_groups[0]["lr"] == pytest.approx(0.05)

    def length(limit):
        clipped = learner(max_grad_norm=limit)
        clipped.update(100 * clipped.model.eval()(torch.ones(2, 3)).sum())
        gradients = [each.grad.flatten() for each in clipped.model.parameters()]
        return torch.cat(gradients).norm().item()

    assert length(0.25) == pytest.approx(0.25, rel=1e-4)
    assert length(None) > 10


def test_what_is_frozen_is_not_trained():
    model = torch.nn.Linear(2, 2)
    model.bias.requires_grad_(requires_grad=False)
    before = model.bias.clone()
    Learner(model, TrainingConfig(weight_decay=0.9)).update(model(torch.ones(1, 2)).sum())
    assert torch.equal(model.bias, before)


def test_a_clock_strikes_once_per_interval():
    assert not Clock(60.0).due()
    clock = Clock(0.02)
    time.sleep(0.03)
    assert clock.due()
    assert not clock.due()


def test_devices():
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no CUDA device"):
            choose_device("cuda")
