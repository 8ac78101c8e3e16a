"""Environments that answer with tensors give the rollouts of those that answer with arrays."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from agents.actions import DivergedError
from agents.on_device import DeviceEnv, ended, fetched
from agents.policy import PolicyConfig, PolicyInput, RecurrentPolicy, RewardConfig
from agents.ppo import PPOConfig, make_optimizer, ppo_update
from agents.rollout import EpisodeCounter, collect, start
from envs.on_device.repeat_previous import RepeatPreviousOnDevice, TensorStep
from envs.vector import EnvStep
from fwrl.cores.gru import GRUConfig
from fwrl.stack import StackConfig
from fwrl.state import tensors_in

N = 4


class ByArrays:
    """The same environments, which only their arrays are seen of."""

    def __init__(self, envs):
        self.envs = envs
        self.num_envs, self.reset, self.step = envs.num_envs, envs.reset, envs.step
        self.observation_space, self.action_space = envs.observation_space, envs.action_space


class Limited(RepeatPreviousOnDevice):
    """Every episode is cut after three of its steps, and its last observation is a fourth suit."""

    def step_on_device(self, action):
        step = super().step_on_device(action)
        cut = self.cards.time % 3 == 0
        return TensorStep(*step[:3], cut, torch.full_like(step.observation, 3), *step[5:])

    def step(self, action):
        step = self.step_on_device(torch.as_tensor(action))
        shown, reward, over, cut, final, success = (leaf.numpy() for leaf in step[:6])
        return EnvStep(shown, reward, over, cut, final, success)


def policy_of(envs, **options):
    torch.manual_seed(1)
    config = PolicyConfig(core=GRUConfig(), stack=StackConfig(width=8), **options)
    return RecurrentPolicy(envs.observation_space, envs.action_space, config)


def rollouts(envs, count=2):
    policy, counter = policy_of(envs, reward=RewardConfig(normalise=True)), EpisodeCounter(N)
    carry = start(envs, policy, seed=3)
    torch.manual_seed(2)
    outcomes = []
    for _ in range(count):
        rollout, carry, episodes = collect(envs, policy, carry, 40, 0.9, 0.8, counter, 20)
        outcomes.append((rollout, carry, episodes, counter.returns.copy()))
    return outcomes


@pytest.mark.parametrize("make", [RepeatPreviousOnDevice, Limited])
def test_rollouts_and_episodes_are_the_same_to_the_last_bit(make):
    assert isinstance(make(N), DeviceEnv)
    assert not isinstance(ByArrays(make(N)), DeviceEnv)
    pairs = zip(rollouts(make(N)), rollouts(ByArrays(make(N))), strict=True)
    total = 0
    for (rollout, carry, episodes, running), (other, other_carry, others, also) in pairs:
        for one, two in zip(tensors_in(rollout), tensors_in(other), strict=True):
            assert torch.equal(one, two)
        for one, two in zip(tensors_in(carry), tensors_in(other_carry), strict=True):
            assert torch.equal(one, two)
        assert episodes == others
        assert np.array_equal(running, also)
        total += len(episodes.returns)
    assert total >= N


def test_a_policy_that_is_not_finite_is_found_at_the_end_of_a_rollout():
    envs = RepeatPreviousOnDevice(N)
    policy = policy_of(envs)
    carry = start(envs, policy, seed=0)
    with torch.no_grad():
        policy.value.weight.fill_(torch.nan)
    with pytest.raises(DivergedError, match=r"value\.weight is not"):
        collect(envs, policy, carry, 8, 0.9, 0.9, EpisodeCounter(N))


def test_an_update_reads_its_metrics_at_once(monkeypatch):
    envs = RepeatPreviousOnDevice(N)
    policy = policy_of(envs)
    config = PPOConfig(num_steps=8, minibatches=2, epochs=2)
    rollout, *_ = collect(envs, policy, start(envs, policy, 0), 8, 0.9, 0.9, EpisodeCounter(N))
    asked = []
    monkeypatch.setattr(torch.Tensor, "item", asked.append)
    metrics = ppo_update(policy, make_optimizer(policy, config), rollout, config)
    assert not asked
    assert metrics["train/grad_norm"] > 0
    assert metrics["train/n_updates"] == 4


def test_steps_are_fetched_with_what_they_tell():
    envs = RepeatPreviousOnDevice(N)
    steps = [envs.step_on_device(torch.zeros(N, dtype=torch.int64)) for _ in range(51)]
    assert ended(steps[-1]).all()
    assert not ended(steps[0]).any()
    last = fetched(steps)[-1]
    assert last.terminated.all()
    assert not last.truncated.any()
    assert last.success.dtype == bool
    silent = [step._replace(success=None) for step in steps]
    assert fetched(silent)[0].success is None


@pytest.mark.parametrize("space", [spaces.MultiDiscrete([2, 3]), spaces.Box(-2, 5, (2,))])
def test_an_action_leaves_a_device_together_with_the_check(space, monkeypatch):
    torch.manual_seed(0)
    policy = RecurrentPolicy(spaces.Discrete(2), space, PolicyConfig(core=GRUConfig()))
    zeros = torch.zeros(N, dtype=torch.int64)
    inputs = PolicyInput(zeros, policy.initial_action(N), torch.zeros(N), zeros)
    output, _ = policy.step(inputs, policy.initial_state(N))
    action = output.action.sample()
    expected = policy.to_environment(action, output, inputs)
    monkeypatch.setattr("agents.policy.may_look", lambda x: False)
    np.testing.assert_array_equal(policy.to_environment(action, output, inputs), expected)
    with pytest.raises(DivergedError):
        policy.to_environment(action, output._replace(value=output.value * torch.nan), inputs)


@pytest.mark.parametrize(
    "space", [spaces.Discrete(3, start=5), spaces.MultiDiscrete([2, 3], start=[1, 4])]
)
def test_actions_of_a_device_are_those_of_the_host(space):
    torch.manual_seed(0)
    policy = RecurrentPolicy(spaces.Discrete(2), space, PolicyConfig(core=GRUConfig()))
    action = torch.randint(2, (N, policy.head.action_size))
    on_device = policy.head.environment_action(action)
    np.testing.assert_array_equal(on_device.numpy(), policy.head.to_environment(action))
