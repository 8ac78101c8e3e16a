"""Critics: values are what they say, learned in units of the rewards, whatever these are."""

from collections import namedtuple

import pytest
import torch
from pydantic import ValidationError
from scheduled_env import EPISODES, ScheduledEnv, small_policy

from agents.critic import CRITICS, CriticConfig, TwoHotCritic
from agents.encoders import EncoderConfig
from agents.policy import RewardConfig
from agents.ppo import PPOConfig, make_optimizer, ppo_update
from agents.rollout import EpisodeCounter, collect, start
from agents.saving import describe_policy, load_policy
from fwrl.files.checkpoint import save_checkpoint
from fwrl.run.config import RunConfig

NORMALISED = EncoderConfig(normalise_reward=True)
Training = namedtuple("Training", ["policy", "metrics", "rollouts"])


def train(head, iterations, scale=1.0, config=None, **parts):
    """A small training, with the metrics and the rollout of each iteration."""
    torch.manual_seed(0)
    envs = ScheduledEnv(EPISODES)
    parts = {"encoder": NORMALISED} | parts
    policy = small_policy(
        envs, gain=1.0, critic=CriticConfig(head=head), reward=RewardConfig(scale=scale), **parts
    )
    config = config or PPOConfig(minibatches=2, epochs=2, learning_rate=1e-3)
    optimizer = make_optimizer(policy, config)
    carry, counter = start(envs, policy, seed=0), EpisodeCounter(envs.num_envs)
    metrics, rollouts = [], []
    for _ in range(iterations):
        rollout, carry, _ = collect(envs, policy, carry, 12, 0.9, 0.8, counter)
        metrics.append(ppo_update(policy, optimizer, rollout, config))
        rollouts.append(rollout)
    return Training(policy, metrics, rollouts)


@pytest.mark.parametrize("head", CRITICS)
def test_the_first_ratio_of_every_rollout_is_one(head):
    config = PPOConfig(epochs=1, minibatches=1, learning_rate=1e-2)
    found = train(head, 4, scale=300.0, config=config)
    for metrics in found.metrics:
        assert abs(metrics["train/approx_kl"]) < 1e-6
        assert metrics["train/clip_fraction"] == 0


def test_corrected_heads_say_the_values_that_they_said():
    found = train("popart", 3)
    policy, rollout = found.policy, found.rollouts[-1]
    before, _ = policy.unroll(rollout.inputs, rollout.memory)
    numbers = before.raw_value.clone()
    policy.critic.include(70.0 + 9.0 * rollout.value_target, policy.value)
    after, _ = policy.unroll(rollout.inputs, rollout.memory)
    assert (after.raw_value - numbers).abs().max() > 0.1
    torch.testing.assert_close(after.value, before.value, atol=1e-4, rtol=1e-4)


def test_numbers_of_the_head_are_distances_from_the_mean_in_deviations():
    found = train("popart", 3)
    targets = torch.cat([each.value_target.flatten() for each in found.rollouts])
    torch.testing.assert_close(found.policy.critic.mean, targets.mean().view(1))
    torch.testing.assert_close(found.policy.critic.scale, targets.std(correction=0).view(1))
    target = found.rollouts[0].value_target
    right = (target - targets.mean()) / targets.std(correction=0)
    for raw, loss in ((right, 0.0), (right + 2.0, 4.0)):
        found_loss = found.policy.critic.loss(raw.unsqueeze(-1), target, target, None)
        assert found_loss.item() == pytest.approx(loss, abs=1e-4)
    # nobody has said what a value before the first update is
    assert not train("popart", 1).rollouts[0].value.any()


@pytest.mark.parametrize("scale", [1e5, 1e-3])
def test_learning_is_the_same_in_units_of_the_rewards(scale):
    one, other = train("popart", 6), train("popart", 6, scale=scale)
    pairs = zip(one.policy.named_parameters(), other.policy.parameters(), strict=True)
    for (name, a), b in pairs:
        torch.testing.assert_close(a, b, atol=2e-4, rtol=1e-3, msg=name)
    for a, b in zip(one.rollouts, other.rollouts, strict=True):
        torch.testing.assert_close(a.inputs.previous_reward, b.inputs.previous_reward)
        torch.testing.assert_close(a.value, b.value / scale, atol=1e-3, rtol=1e-3)
    for a, b in zip(one.metrics, other.metrics, strict=True):
        assert a["train/value_loss"] == pytest.approx(b["train/value_loss"], rel=1e-2)
    # with a linear head it is not
    losses = [train("linear", 2, scale=each).metrics[-1]["train/value_loss"] for each in (1, scale)]
    assert losses[0] != pytest.approx(losses[1], rel=0.5)


def test_previous_rewards_are_read_in_units_of_the_return():
    found = train("popart", 4, scale=1e4)
    firsts = [each.inputs.previous_reward for each in found.rollouts]
    assert not firsts[0].any()
    assert 0.1 < firsts[-1].abs().max() <= 10
    policy = found.policy
    deviation = policy.return_moments.variance.sqrt().item()
    rewards = torch.tensor([0.0, 0.5, -1e9])
    expected = [0.0, 1e4 * 0.5 / deviation, -10.0]
    assert policy.reward_feature(rewards).tolist() == pytest.approx(expected)
    raw = train("linear", 2, scale=2.0, encoder=EncoderConfig()).policy
    assert raw.return_moments is None
    assert raw.reward_feature(rewards).tolist() == [0.0, 1.0, -2e9]


@pytest.mark.parametrize("head", ["popart", "two_hot"])
def test_rewards_that_are_always_nothing_leave_all_finite(head):
    torch.manual_seed(0)
    envs = ScheduledEnv(EPISODES)
    policy = small_policy(envs, critic=CriticConfig(head=head), encoder=NORMALISED)
    head_before = policy.value.weight.clone()
    policy.critic.include(torch.zeros(2, 5), policy.value)
    policy.update_normalisers(torch.zeros(2, 5, 3), torch.zeros(2, 5))
    assert torch.equal(policy.value.weight, head_before)
    assert policy.reward_feature(torch.ones(2)).tolist() == [0.0, 0.0]
    rollout, _, _ = collect(
        envs, policy, start(envs, policy, 0), 12, 0.9, 0.8, EpisodeCounter(envs.num_envs)
    )
    config = PPOConfig(minibatches=2)
    metrics = ppo_update(policy, make_optimizer(policy, config), rollout, config)
    assert all(parameter.isfinite().all() for parameter in policy.parameters())
    assert metrics["health/skipped_updates"] == 0


@pytest.mark.parametrize("target", [0.0, 1.0, -1e-3, 250.5, -1e5, 3e8])
def test_two_classes_say_any_value(target):
    critic, wanted = TwoHotCritic(), torch.tensor([target])
    raw = torch.zeros(1, critic.size, requires_grad=True)
    optimizer = torch.optim.Adam([raw], lr=0.5)
    for _ in range(400):
        optimizer.zero_grad()
        critic.loss(raw, wanted, wanted, None).backward()
        optimizer.step()
    assert critic.values(raw.detach()).item() == pytest.approx(target, rel=0.05, abs=1e-2)
    assert critic.values(torch.zeros(3, critic.size)).tolist() == pytest.approx([0.0] * 3, abs=1e-4)


def test_classes_of_values_are_learned():
    torch.manual_seed(0)
    critic, wanted = TwoHotCritic(), torch.tensor([-3.0, -0.1, 0.0, 2.0, 40.0])
    head = torch.nn.Linear(5, critic.size)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.1)
    for _ in range(300):
        seen = torch.eye(5).repeat(8, 1)
        target = wanted.repeat(8) * (1 + 0.1 * torch.randn(40))
        optimizer.zero_grad()
        critic.loss(head(seen), target, target, None).backward()
        optimizer.step()
    values = critic.values(head(torch.eye(5)).detach())
    torch.testing.assert_close(values, wanted, atol=0.05, rtol=0.1)


@pytest.mark.parametrize("head", CRITICS)
def test_what_is_saved_says_the_same_values(tmp_path, head):
    found = train(head, 2, scale=50.0)
    document = {"policy": describe_policy(found.policy), "score": None}
    save_checkpoint(tmp_path / "checkpoints" / "1", {"policy": found.policy.state_dict()}, document)
    loaded = load_policy(tmp_path)
    rollout = found.rollouts[-1]
    ours, theirs = (p.unroll(rollout.inputs, rollout.memory)[0] for p in (found.policy, loaded))
    assert torch.equal(ours.value, theirs.value)
    assert theirs.value.any()


def test_classes_are_not_clipped():
    values = {"env": {"id": "CartPole-v1"}, "total_steps": 1, "ppo": {"value_clip": 0.2}}
    RunConfig.model_validate(values | {"critic": {"head": "popart"}})
    with pytest.raises(ValidationError, match="clips no values"):
        RunConfig.model_validate(values | {"critic": {"head": "two_hot"}})
