"""Advantage actor-critic as it was published is one PPO update with the numbers of its file."""

from pathlib import Path

import pytest
import torch

from agents.policy import RecurrentPolicy
from agents.ppo import make_optimizer, ppo_update
from agents.rollout import EpisodeCounter, collect, start
from envs import make_envs
from fwrl.bench.metarl.benchmark import BENCHMARK, MetaRLSettings
from fwrl.config import validate
from fwrl.run.config import load_run_config

FILE = Path(__file__).parents[2] / "configs/memory/graph_meta_rl_a2c.yaml"
NUM_ENVS, EPISODE = 7, 30


@pytest.fixture
def config():
    return load_run_config(FILE, [f"env.num_envs={NUM_ENVS}"])


@pytest.fixture
def acted(config):
    """A policy that has been trained a little, and a rollout of it."""
    torch.manual_seed(0)
    envs = make_envs(config.env)
    policy = RecurrentPolicy(envs.observation_space, envs.action_space, config.policy)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(2.0)
    carry, counter = start(envs, policy, seed=0), EpisodeCounter(NUM_ENVS)
    collected = collect(
        envs, policy, carry, EPISODE, config.ppo.discount, config.ppo.gae_lambda, counter
    )
    return policy, *collected


def rewards_of(carry, rollout):
    """The reward of each step, which the policy observes after it."""
    told = rollout.inputs.previous_reward
    return torch.cat([told[:, 1:], carry.inputs.previous_reward.unsqueeze(1)], dim=1)


def published_loss(policy, rollout, rewards):
    """The loss by loops over environments and time steps, with the paper's equations."""
    total = 0.0
    for n in range(NUM_ENVS):
        state = policy.initial_state(1)
        terms = []
        for t in range(EPISODE):
            inputs = type(rollout.inputs)(*(leaf[n : n + 1, t] for leaf in rollout.inputs))
            output, state = policy.step(inputs, state)
            future = sum(0.9 ** (s - t) * rewards[n, s].item() for s in range(t, EPISODE))
            logits = output.action.log_probs[0, 0]
            chosen = torch.distributions.Categorical(logits=logits)
            advantage = future - output.value[0]
            actor = -chosen.log_prob(rollout.action[n, t, 0]) * advantage.detach()
            terms.append(actor - 0.03 * chosen.entropy() + 0.1 * advantage**2)
        total = total + sum(terms) / EPISODE
    return total / NUM_ENVS


def test_the_gradient_is_that_of_the_published_loss(config, acted):
    policy, rollout, carry, _ = acted
    rewards = rewards_of(carry, rollout)
    assert (rewards == 10).any()
    published_loss(policy, rollout, rewards).backward()
    expected = {name: parameter.grad.clone() for name, parameter in policy.named_parameters()}
    descent = torch.optim.SGD(policy.parameters(), lr=1.0)
    before = {name: parameter.detach().clone() for name, parameter in policy.named_parameters()}
    metrics = ppo_update(policy, descent, rollout, config.ppo)
    assert metrics["train/n_updates"] == 1
    # the update takes its rate from the configuration
    rate = config.ppo.learning_rate
    for name, parameter in policy.named_parameters():
        change = (before[name] - parameter.detach()) / rate
        scale = expected[name].abs().max().item()
        torch.testing.assert_close(change, expected[name], atol=1e-3 * scale, rtol=1e-3, msg=name)


def test_a_long_gradient_is_not_shortened(config, acted):
    policy, rollout, *_ = acted
    lengths = []
    for longest in (None, 1e-3):
        state = {name: leaf.clone() for name, leaf in policy.state_dict().items()}
        ppo = config.ppo.model_copy(update={"max_grad_norm": longest})
        ppo_update(policy, torch.optim.SGD(policy.parameters(), lr=1.0), rollout, ppo)
        moved = [(leaf - state[name]).norm() for name, leaf in policy.state_dict().items()]
        lengths.append(torch.stack(moved).norm().item() / ppo.learning_rate)
        policy.load_state_dict(state)
    assert lengths[0] > 1
    assert lengths[1] == pytest.approx(1e-3, rel=0.1)


def test_every_rollout_is_whole_episodes(acted):
    _, rollout, carry, episodes = acted
    assert rollout.inputs.elapsed.tolist() == [list(range(EPISODE))] * NUM_ENVS
    assert episodes.lengths == [EPISODE] * NUM_ENVS
    assert carry.inputs.starts.all()


def test_the_optimiser_is_the_published_one(config, acted):
    (group,) = make_optimizer(acted[0], config.ppo).param_groups
    assert (group["lr"], group["eps"], group["betas"]) == (1e-3, 1e-4, (0.9, 0.999))


def test_the_file_and_the_benchmark_say_the_same():
    run = load_run_config(FILE)
    bench = validate(MetaRLSettings, dict(BENCHMARK.presets["paper"]))
    assert run.ppo == bench.ppo
    assert run.policy == bench.policy("fast_weight_memory")
    assert run.env.num_envs == bench.num_envs
    assert run.total_steps == bench.updates * bench.num_envs * EPISODE
    ours = bench.envs(bench.graphs, 4).reset(seed=0)
    assert (make_envs(run.env, 4).reset(seed=0) == ours).all()


def test_the_published_network_but_for_double_biases(config, acted):
    count = sum(parameter.numel() for parameter in acted[0].parameters())
    assert count == 10_933 - 4 * 32
