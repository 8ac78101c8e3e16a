import math
from collections import Counter

import pytest
import torch
from gymnasium import spaces
from mixed_stacks import MIXES
from pydantic import ValidationError
from scheduled_env import EPISODES, ScheduledEnv, small_policy

from agents.critic import CriticConfig, PopArtCritic
from agents.encoders import EncoderConfig
from agents.policy import PolicyConfig, RecurrentPolicy, RewardConfig
from agents.ppo import PPOConfig, make_optimizer, ppo_loss, ppo_update, schedule
from agents.rollout import EpisodeCounter, collect, start
from fwrl import CORES, use_kernel
from fwrl.cores.fast_weight import FastWeightConfig
from fwrl.kernels.native.library import served
from fwrl.state import tensors_in

NUM_STEPS = 12
NOW = schedule(PPOConfig(), 1.0)


def make_rollout(policy, sequence_length=None, rollouts=1, exact=False):
    """The last of some rollouts, so that it begins in the middle of episodes."""
    envs = ScheduledEnv(EPISODES)
    carry, counter = start(envs, policy, seed=0), EpisodeCounter(envs.num_envs)
    for _ in range(rollouts):
        rollout, carry, _ = collect(
            envs, policy, carry, NUM_STEPS, 0.9, 0.8, counter, sequence_length, exact
        )
    assert rollout.inputs.starts[:, 1:].any()
    return rollout


@pytest.fixture
def policy():
    torch.manual_seed(0)
    return small_policy(ScheduledEnv(EPISODES))


# pieces of streams are exact only if whole streams are
@pytest.mark.unchecked
@pytest.mark.parametrize(("sequence_length", "kernel"), [(None, None), (4, None), (4, "reference")])
@pytest.mark.parametrize("kind", [*CORES, *MIXES])
def test_before_the_first_update_the_ratio_is_one(kind, sequence_length, kernel):
    torch.manual_seed(0)
    policy = small_policy(ScheduledEnv(EPISODES), kind, encoder=EncoderConfig(time_frequencies=2))

    def check(exact=False):
        rollout = make_rollout(policy, sequence_length, rollouts=2, exact=exact)
        # rows in other company than when acting
        for batch in rollout.minibatches(3):
            output, _ = policy.unroll(batch.inputs, batch.memory, exact)
            ratio = (output.action.log_prob(batch.action) - batch.log_prob).exp()
            if not exact:
                torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=1e-4, rtol=0)
                torch.testing.assert_close(output.value, batch.value, atol=1e-4, rtol=1e-4)
            else:
                assert torch.equal(ratio, torch.ones_like(ratio))
                assert torch.equal(output.value, batch.value)

    if kernel is None:
        check()
    else:
        with use_kernel(kernel):
            check(exact=True)


@pytest.mark.unchecked
@pytest.mark.parametrize("kind", [*CORES, *MIXES])
def test_bfloat16_acts_and_replays_alike(kind):
    torch.manual_seed(0)
    policy = small_policy(ScheduledEnv(EPISODES), kind, precision="bfloat16")
    # as in training: each weight is converted once for a rollout
    with torch.no_grad(), policy.autocast():
        rollout = make_rollout(policy)
    output, state = policy.unroll(rollout.inputs, rollout.memory)
    assert {leaf.dtype for leaf in tensors_in((output, state))} <= {torch.float32, torch.int64}
    ratio = (output.action.log_prob(rollout.action) - rollout.log_prob).exp()
    torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=1e-2, rtol=0)
    exact = small_policy(ScheduledEnv(EPISODES), kind)
    exact.load_state_dict(policy.state_dict())
    wanted, _ = exact.unroll(rollout.inputs, rollout.memory)
    torch.testing.assert_close(output.value, wanted.value, atol=0.1, rtol=0.1)
    if kind != "none":
        assert not torch.equal(output.value, wanted.value)
    output.value.sum().backward()
    assert {p.grad.dtype for p in policy.parameters() if p.grad is not None} == {torch.float32}


def test_weights_that_changed_are_converted_again(policy):
    policy = small_policy(ScheduledEnv(EPISODES), precision="bfloat16")
    before, after = make_rollout(policy), []
    optimizer = make_optimizer(policy, PPOConfig(learning_rate=0.1))
    for _ in range(2):
        output, _ = policy.unroll(before.inputs, before.memory)
        after.append(output.value.detach())
        output.value.square().mean().backward()
        optimizer.step()
    assert not torch.equal(*after)


def test_a_forgotten_memory_would_show(policy):
    rollout = make_rollout(policy, sequence_length=4)
    forgotten = policy.initial_state(rollout.value.shape[0])
    output, _ = policy.unroll(rollout.inputs, forgotten)
    ratio = (output.action.log_prob(rollout.action) - rollout.log_prob).exp()
    assert (ratio - 1).abs().max() > 0.01


@pytest.mark.unchecked
@pytest.mark.parametrize("kind", [*CORES, *MIXES])
def test_the_loss_falls_on_one_repeated_rollout(kind):
    torch.manual_seed(0)
    policy = small_policy(ScheduledEnv(EPISODES), kind, gain=1.0)
    config = PPOConfig(learning_rate=3e-3, epochs=10, minibatches=2, entropy_weight=0.0)
    rollout, optimizer = make_rollout(policy), make_optimizer(policy, config)
    before, old = ppo_loss(policy, rollout, config, schedule(config, 1.0))
    metrics = ppo_update(policy, optimizer, rollout, config)
    after, new = ppo_loss(policy, rollout, config, schedule(config, 1.0))
    assert after < before - 0.05
    assert new["train/value_loss"] < 0.9 * old["train/value_loss"]
    assert new["train/policy_gradient_loss"] < -0.02 < old["train/policy_gradient_loss"]
    assert all(math.isfinite(value) for value in metrics.values())
    assert metrics["train/n_updates"] == 20


def test_before_the_update_nothing_is_clipped_and_the_entropy_is_that_of_the_policy(policy):
    config = PPOConfig()
    rollout = make_rollout(policy)
    loss, metrics = ppo_loss(policy, rollout, config, schedule(config, 1.0))
    assert metrics["train/clip_fraction"] == 0
    assert abs(metrics["train/approx_kl"]) < 1e-6
    # normalised advantages sum to nothing
    assert abs(metrics["train/policy_gradient_loss"]) < 1e-5
    assert metrics["train/value_loss"].item() == pytest.approx(
        rollout.advantage.square().mean().item(), rel=1e-4
    )
    parts = metrics["train/policy_gradient_loss"] + 0.5 * metrics["train/value_loss"]
    torch.testing.assert_close(loss, parts + 0.02 * metrics["train/entropy_loss"])
    middle, _ = ppo_loss(policy, rollout, config, schedule(config, 0.5))
    torch.testing.assert_close(middle, parts + 0.01 * metrics["train/entropy_loss"])
    logits = policy.unroll(rollout.inputs, rollout.memory)[0].action.log_probs
    expected = torch.distributions.Categorical(logits=logits).entropy().mean()
    torch.testing.assert_close(-metrics["train/entropy_loss"], expected)


def test_the_surrogate_is_clipped_on_the_side_where_it_would_gain(policy):
    config = PPOConfig(normalise_advantage=False)
    rollout = make_rollout(policy)
    # as if acting had been less (or more) sure of each action: the ratio is 1.5 (or 0.5)
    for ratio, gain, expected in [
        (1.5, 1.0, 1.2),
        (1.5, -1.0, -1.5),
        (0.5, 1.0, 0.5),
        (0.5, -1.0, -0.8),
    ]:
        batch = rollout._replace(
            log_prob=rollout.log_prob - math.log(ratio),
            advantage=torch.full_like(rollout.value, gain),
        )
        _, metrics = ppo_loss(policy, batch, config, schedule(config, 1.0))
        assert metrics["train/policy_gradient_loss"].item() == pytest.approx(-expected, abs=1e-4)
        assert metrics["train/clip_fraction"] == 1
        assert metrics["train/approx_kl"].item() == pytest.approx(
            ratio - 1 - math.log(ratio), abs=1e-4
        )


def test_advantages_are_normalised_within_the_minibatch(policy):
    rollout = make_rollout(policy)
    shifted = rollout._replace(
        advantage=3.0 * rollout.advantage + 7.0,
        log_prob=rollout.log_prob + 0.1 * torch.randn(4, NUM_STEPS),
    )
    plain = shifted._replace(advantage=rollout.advantage)
    one, two = (
        ppo_loss(policy, batch, PPOConfig(), NOW)[1]["train/policy_gradient_loss"]
        for batch in (shifted, plain)
    )
    torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)
    raw = PPOConfig(normalise_advantage=False)
    assert abs(ppo_loss(policy, shifted, raw, NOW)[1]["train/policy_gradient_loss"] - two) > 1


@pytest.mark.parametrize("head", ["popart", "linear", "two_hot"])
def test_small_advantages_stay_small_where_the_size_of_returns_is_known(head):
    policy = small_policy(ScheduledEnv(EPISODES), critic=CriticConfig(head=head))
    config = PPOConfig(advantage_floor=0.05)
    rollout = make_rollout(policy)
    if isinstance(policy.critic, PopArtCritic):
        policy.critic.include(7.0 * torch.randn(4, NUM_STEPS), policy.value)
    advantage = torch.randn(4, NUM_STEPS)
    advantage = (advantage - advantage.mean()) / advantage.std()
    # as if the policy had come closer to the better actions
    log_prob = rollout.log_prob - 0.1 * advantage
    advantage = advantage * policy.critic.unit()

    def policy_loss(size):
        batch = rollout._replace(log_prob=log_prob, advantage=size * advantage)
        return ppo_loss(policy, batch, config, NOW)[1]["train/policy_gradient_loss"]

    whole = policy_loss(1.0)
    assert whole < -0.03
    # above the floor the size of all advantages together does not count
    torch.testing.assert_close(policy_loss(0.06), whole, rtol=1e-4, atol=1e-6)
    expected = 0.2 * whole if head == "popart" else whole
    torch.testing.assert_close(policy_loss(0.01), expected, rtol=1e-4, atol=1e-6)


# How often one gradient step with one layer calls the library in C.
LEARNING = {
    **dict.fromkeys(("fwrl_sum_norm_forward", "fwrl_sum_norm_backward"), 3),
    **dict.fromkeys(("fwrl_bias_gelu_forward", "fwrl_bias_gelu_backward"), 1),
    **dict.fromkeys(("fwrl_projected_scan_forward", "fwrl_projected_scan_backward"), 1),
}


@pytest.mark.skipif(not served(), reason="there is no library in C")
@pytest.mark.parametrize(
    ("core", "critic"),
    [({}, "shared"), ({"update_rule": "delta"}, "own"), ({"learned_initial_state": True}, "own")],
)
def test_a_training_takes_every_way_through_c(core, critic, calls):
    # each is only faster: nothing else would tell that it is not taken
    envs = ScheduledEnv(EPISODES)
    config = PolicyConfig(core=FastWeightConfig(**core), critic={"memory": critic})
    policy = RecurrentPolicy(envs.observation_space, envs.action_space, config)
    trunks = 1 if critic == "shared" else 2
    rollout = make_rollout(policy)
    assert set(calls) == {"fwrl_residual", "fwrl_draw"}
    calls.clear()
    update = PPOConfig(epochs=2, minibatches=1)
    ppo_update(policy, make_optimizer(policy, update), rollout, update)
    expected = {name: 2 * trunks * count for name, count in LEARNING.items()}
    # Adam's first step, which makes its state, is PyTorch's
    assert Counter(calls) == {**expected, "fwrl_adam": 1}


def test_a_single_number_has_no_spread_to_divide_by(policy):
    envs = ScheduledEnv(EPISODES[:1])
    rollout, _, _ = collect(envs, policy, start(envs, policy, 0), 1, 0.9, 0.8, EpisodeCounter(1))
    config = PPOConfig(num_steps=1, minibatches=1)
    loss, _ = ppo_loss(policy, rollout, config, schedule(config, 1.0))
    assert loss.isfinite()
    metrics = ppo_update(policy, make_optimizer(policy, config), rollout, config)
    assert math.isnan(metrics.pop("train/explained_variance"))
    assert all(math.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize(("advantage", "clipped"), [(-5.0, True), (5.0, False)])
def test_the_worse_of_the_clipped_and_the_free_value_counts(policy, advantage, clipped):
    rollout = make_rollout(policy)
    batch = rollout._replace(
        value=rollout.value + 1.0, advantage=torch.full_like(rollout.value, advantage)
    )
    # the critic has come down by 1, of which 0.1 is allowed; the target is 1 + advantage away
    expected = max((1 + advantage) ** 2, (0.1 + advantage) ** 2)
    config = PPOConfig(value_clip=0.1, normalise_advantage=False, entropy_weight=0.0)
    _, metrics = ppo_loss(policy, batch, config, schedule(config, 1.0))
    assert metrics["train/value_loss"].item() == pytest.approx(expected, rel=1e-4)
    loss, _ = ppo_loss(
        policy, batch._replace(advantage=batch.advantage), config, schedule(config, 1.0)
    )
    loss.backward()
    assert bool((policy.value.weight.grad == 0).all()) is clipped
    _, free = ppo_loss(policy, batch, PPOConfig(), NOW)
    assert free["train/value_loss"].item() == pytest.approx((1 + advantage) ** 2, rel=1e-4)


def test_target_kl_stops_the_updates(policy):
    many = PPOConfig(learning_rate=1e-2, epochs=3, minibatches=2)
    rollout = make_rollout(policy)
    state = {name: leaf.clone() for name, leaf in policy.state_dict().items()}
    metrics = ppo_update(policy, make_optimizer(policy, many), rollout, many)
    assert metrics["train/n_updates"] == 6
    policy.load_state_dict(state)
    few = many.model_copy(update={"target_kl": 1e-4})
    metrics = ppo_update(policy, make_optimizer(policy, few), rollout, few)
    # the first is always made: it finds the policy that acted
    assert metrics["train/n_updates"] == 1
    assert any((policy.state_dict()[name] != leaf).any() for name, leaf in state.items())
    policy.load_state_dict(state)
    loose = many.model_copy(update={"target_kl": 100.0})
    metrics = ppo_update(policy, make_optimizer(policy, loose), rollout, loose)
    assert metrics["train/n_updates"] == 6


def test_schedules():
    constant = PPOConfig(
        learning_rate=0.1,
        learning_rate_schedule="constant",
        clip=0.3,
        entropy_weight=0.2,
        entropy_schedule="constant",
    )
    assert schedule(constant, 1.0) == schedule(constant, 0.0) == (0.1, 0.3, 0.2)
    for number, name in enumerate(("learning_rate", "clip", "entropy")):
        falls = constant.model_copy(update={f"{name}_schedule": "linear"})
        expected = [0.1, 0.3, 0.2]
        expected[number] /= 4
        assert schedule(falls, 0.25) == pytest.approx(expected)
        # a run that went a little further than planned
        assert schedule(falls, -0.1)[number] == 0


def test_the_rate_rises_over_a_part_of_the_run():
    rates = {"constant": [0.01, 0.055, 0.1, 0.1, 0.1], "linear": [0.01, 0.0495, 0.08, 0.05, 0.0]}
    for name, expected in rates.items():
        rises = PPOConfig(learning_rate=0.1, learning_rate_schedule=name, learning_rate_warmup=0.2)
        found = [
            schedule(rises, remaining).learning_rate for remaining in (1.0, 0.9, 0.8, 0.5, 0.0)
        ]
        assert found == pytest.approx(expected)


def test_the_schedule_reaches_the_optimiser(policy):
    config = PPOConfig(learning_rate=0.1, learning_rate_schedule="linear", clip_schedule="linear")
    optimizer = make_optimizer(policy, config)
    before = [parameter.clone() for parameter in policy.parameters()]
    metrics = ppo_update(policy, optimizer, make_rollout(policy), config, remaining=0.0)
    assert metrics["train/learning_rate"] == metrics["train/clip_range"] == 0
    assert all(map(torch.equal, before, policy.parameters()))
    metrics = ppo_update(policy, optimizer, make_rollout(policy), config, remaining=0.5)
    assert optimizer.param_groups[0]["lr"] == metrics["train/learning_rate"] == 0.05
    assert metrics["train/clip_range"] == 0.1
    assert not all(map(torch.equal, before, policy.parameters()))


def test_gradients_are_clipped_to_their_joint_norm(policy):
    config = PPOConfig(learning_rate=1.0, epochs=1, minibatches=1, max_grad_norm=1e-3)
    optimizer = torch.optim.SGD(policy.parameters(), lr=1.0)
    before = torch.cat([parameter.detach().flatten() for parameter in policy.parameters()])
    metrics = ppo_update(policy, optimizer, make_rollout(policy), config)
    after = torch.cat([parameter.detach().flatten() for parameter in policy.parameters()])
    assert (after - before).norm().item() == pytest.approx(1e-3, rel=0.02)
    assert metrics["train/grad_norm"] > 1e-2


def test_normalisers_move_only_after_the_updates(monkeypatch):
    torch.manual_seed(0)
    policy = small_policy(
        ScheduledEnv(EPISODES),
        encoder=EncoderConfig(normalise_observations=True),
        reward=RewardConfig(normalise=True),
    )
    normalisers = (policy.return_moments, policy.encoder.moments)
    config = PPOConfig(epochs=2, minibatches=2)
    counts, unroll = [], policy.unroll

    def watch(inputs, state):
        counts.append([normaliser.count.item() for normaliser in normalisers])
        return unroll(inputs, state)

    monkeypatch.setattr(policy, "unroll", watch)
    rollout = make_rollout(policy)
    assert [normaliser.count for normaliser in normalisers] == [0, 0]
    ppo_update(policy, make_optimizer(policy, config), rollout, config)
    assert counts == [[0, 0]] * 4
    assert [normaliser.count for normaliser in normalisers] == [4 * NUM_STEPS] * 2
    observations = rollout.inputs.observation.double().flatten(0, 1)
    torch.testing.assert_close(policy.encoder.moments.mean, observations.mean(0))
    discounted = rollout.discounted.double()
    torch.testing.assert_close(policy.return_moments.variance, discounted.var(correction=0).view(1))


def test_minibatches_differ_between_epochs_and_cover_each_epoch(policy, monkeypatch):
    config = PPOConfig(epochs=6, minibatches=2)
    rollout, seen, unroll = make_rollout(policy), [], policy.unroll

    def watch(inputs, state):
        seen.append(tuple(inputs.observation[:, 0, 0].int().tolist()))
        return unroll(inputs, state)

    monkeypatch.setattr(policy, "unroll", watch)
    ppo_update(policy, make_optimizer(policy, config), rollout, config)
    epochs = [one + two for one, two in zip(seen[::2], seen[1::2], strict=True)]
    assert all(sorted(epoch) == [0, 1, 2, 3] for epoch in epochs)
    assert len(set(epochs)) > 1


def test_sequence_length_must_divide_num_steps():
    assert PPOConfig(num_steps=12, sequence_length=4).sequence_length == 4
    for sequence_length in (5, 24):
        with pytest.raises(ValidationError, match="it should divide num_steps"):
            PPOConfig(num_steps=12, sequence_length=sequence_length)


def test_the_spread_of_real_actions_is_reported():
    envs = ScheduledEnv(EPISODES)
    envs.action_space = spaces.Box(-2, 2, (3,))
    policy = RecurrentPolicy(envs.observation_space, envs.action_space, PolicyConfig())
    carry, counter = start(envs, policy, seed=0), EpisodeCounter(envs.num_envs)
    rollout, *_ = collect(envs, policy, carry, NUM_STEPS, 0.9, 0.8, counter)
    config = PPOConfig(learning_rate=0.05, minibatches=1)
    metrics = ppo_update(policy, make_optimizer(policy, config), rollout, config)
    assert metrics["train/std"] == pytest.approx(policy.head.log_std.exp().mean().item())
    assert abs(metrics["train/std"] - 1.0) > 0.01
