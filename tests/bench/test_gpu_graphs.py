"""The benchmark of a GPU computes what training does; here without one."""

import runpy
from functools import partial

import torch
from markdown_pages import ROOT

from agents.ppo import PPOConfig
from agents.rollout import EpisodeCounter, collect, start
from envs.on_device.repeat_previous import RepeatPreviousOnDevice
from fwrl.state import tensors_in


def test_its_rollouts_are_those_of_training_and_graphs_fall_back(capsys):
    script = runpy.run_path(str(ROOT / "benchmarks/gpu_graphs.py"))
    config = PPOConfig(num_steps=60, minibatches=2, epochs=1, discount=0.5)
    setup = script["made"](4, torch.device("cpu"), config)
    plain = partial(script["act"], setup.policy, setup.rules)
    step, how = script["tried"]("acting", plain, setup.streams)
    assert how == "acting: plain, there is no CUDA device"
    torch.manual_seed(1)
    rollout, *_ = script["rollout_of"](step, setup.policy, setup.streams, config)
    envs = RepeatPreviousOnDevice(4)
    carry = start(envs, setup.policy, seed=0)
    torch.manual_seed(1)
    expected, *_ = collect(envs, setup.policy, carry, 60, 0.5, 0.95, EpisodeCounter(4))
    # it has no discounted returns, which only normalisers read
    rollout = rollout._replace(discounted=expected.discounted)
    assert rollout.noise is expected.noise is None
    for one, other in zip(rollout[:-1], expected[:-1], strict=True):
        torch.testing.assert_close(tensors_in(one), tensors_in(other))
    before = [parameter.clone() for parameter in setup.policy.parameters()]
    update = partial(script["learn"], setup.policy, setup.optimizer, config)
    speed, returns = script["run"](setup, step, update, config, 0.01)
    assert speed > 0
    assert len(returns) == 1
    assert not all(map(torch.equal, before, setup.policy.parameters()))
