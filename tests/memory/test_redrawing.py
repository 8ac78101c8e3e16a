"""Random features that change during training, and what must not change with them."""

import math

import pytest
import torch
from scheduled_env import EPISODES, ScheduledEnv

from agents.policy import PolicyConfig, RecurrentPolicy
from agents.ppo import PPOConfig, make_optimizer, ppo_update
from agents.rollout import EpisodeCounter, collect, start
from fwrl import redraw_when_due
from fwrl.cores.fast_weight import FastWeightConfig
from fwrl.feature_maps.random import RandomFeatures, favor, random_directions
from fwrl.files.checkpoint import Checkpoint, optimizer_tensors, pack, unpack
from fwrl.run.state import Learner, load_learner
from fwrl.stack import StackConfig


def test_directions_stay_until_they_are_due_and_are_saved_with_their_age():
    torch.manual_seed(0)
    never, third = RandomFeatures(favor, 4, 8), RandomFeatures(favor, 4, 8, redraw_every=3)
    both = torch.nn.ModuleList([never, torch.nn.Sequential(third)])
    kept, replaced = never.projection.clone(), []
    for _ in range(7):
        before = third.projection.clone()
        redraw_when_due(both)
        replaced.append(not torch.equal(third.projection, before))
    assert replaced == [False, False, True, False, False, True, False]
    assert torch.equal(never.projection, kept)
    other = RandomFeatures(favor, 4, 8, redraw_every=3)
    x = torch.randn(3, 4)
    assert not torch.equal(other(x), third(x))
    other.load_state_dict(third.state_dict())
    assert torch.equal(other(x), third(x))
    # two more updates are missing, here as there, and then both draw the same
    for features in (third, other):
        torch.manual_seed(1)
        redraw_when_due(features)
        before = features.projection.clone()
        redraw_when_due(features)
        assert not torch.equal(features.projection, before)
    assert torch.equal(other(x), third(x))


@pytest.mark.parametrize("kind", ["orthogonal", "orthogonal_regularised", "independent"])
def test_new_directions_are_of_the_same_kind(kind):
    features = RandomFeatures(favor, 4, 8, directions=kind)
    torch.manual_seed(0)
    features.redraw()
    torch.manual_seed(0)
    assert torch.equal(features.projection, random_directions(4, 8, kind))


def redrawing_policy(redraw_every=1):
    core = FastWeightConfig(feature_map="favor", num_features=8, redraw_every=redraw_every)
    envs = ScheduledEnv(EPISODES)
    config = PolicyConfig(core=core, stack=StackConfig(width=16))
    policy = RecurrentPolicy(envs.observation_space, envs.action_space, config)
    policy.head.linear.weight.data.mul_(50)
    return envs, policy


def directions_of(policy):
    return [part.projection for part in policy.modules() if isinstance(part, RandomFeatures)]


def test_a_rollout_and_its_update_see_the_same_directions():
    torch.manual_seed(0)
    envs, policy = redrawing_policy()
    config = PPOConfig(epochs=1, minibatches=2, learning_rate=1e-9)
    optimizer = make_optimizer(policy, config)
    carry, counter = start(envs, policy, seed=0), EpisodeCounter(envs.num_envs)
    for _ in range(3):
        rollout, carry, _ = collect(envs, policy, carry, 12, 0.9, 0.8, counter)
        assert rollout.inputs.starts[:, 1:].any()
        before = [rows.clone() for rows in directions_of(policy)]
        assert before
        output, _ = policy.unroll(rollout.inputs, rollout.memory)
        ratio = (output.action.log_prob(rollout.action) - rollout.log_prob).exp()
        torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=1e-4, rtol=0)
        metrics = ppo_update(policy, optimizer, rollout, config)
        # with hardly a step taken, every minibatch agrees with the rollout
        assert abs(metrics["train/approx_kl"]) < 1e-6
        assert all(math.isfinite(value) for value in metrics.values())
        pairs = zip(before, directions_of(policy), strict=True)
        assert not any(torch.equal(old, new) for old, new in pairs)


def test_a_run_that_continues_draws_the_same_directions_at_the_same_update():
    config = PPOConfig()

    def make_learner():
        _, policy = redrawing_policy(redraw_every=3)
        return Learner(policy, make_optimizer(policy, config))

    torch.manual_seed(0)
    learner = make_learner()
    for _ in range(4):
        redraw_when_due(learner.policy)
    learned = {"policy": learner.policy.state_dict()}
    learned["optimizer"] = optimizer_tensors(learner.optimizer)
    saved, numbers = pack(Checkpoint(learned, {})), torch.get_rng_state()

    def next_directions(policy):
        drawn = []
        for _ in range(3):
            redraw_when_due(policy)
            drawn.append(torch.stack(directions_of(policy)))
        return drawn

    whole = next_directions(learner.policy)
    assert not torch.equal(whole[0], whole[1])
    continued = make_learner()
    load_learner(continued, unpack(saved))
    torch.set_rng_state(numbers)
    for here, there in zip(whole, next_directions(continued.policy), strict=True):
        assert torch.equal(here, there)


def test_a_policy_is_redrawn_on_the_gpu_as_on_the_cpu(cuda):
    torch.manual_seed(0)
    _, policy = redrawing_policy(redraw_every=2)
    _, other = redrawing_policy(redraw_every=2)
    other.load_state_dict(policy.state_dict())
    other.to(cuda)
    for each in (policy, other):
        torch.manual_seed(1)
        redraw_when_due(each)
        redraw_when_due(each)
    for here, there in zip(directions_of(policy), directions_of(other), strict=True):
        assert there.is_cuda
        assert torch.equal(here, there.cpu())
