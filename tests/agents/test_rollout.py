"""The alignment table of agents/rollout.py, column by column, against one stream at a time."""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scheduled_env import EPISODES, ScheduledEnv, ScheduledStep, reward_of, small_policy

from agents.encoders import EncoderConfig
from agents.policy import PolicyInput, RewardConfig
from agents.rollout import (
    EpisodeCounter,
    Episodes,
    Rollout,
    collect,
    explained_variance,
    start,
    to_tensors,
)
from fwrl.state import map_tensors, take_rows, tensors_in

DISCOUNT = 0.9


def play(envs, policy, num_steps, carry=None, gae_lambda=0.0, counter=None, **options):
    carry = carry or start(envs, policy, seed=0)
    counter = counter or EpisodeCounter(envs.num_envs)
    return collect(envs, policy, carry, num_steps, DISCOUNT, gae_lambda, counter, **options)


def timetable(slot, num_steps):
    """For each step of a slot: (episode, step) before it, and how it ended its episode, or None."""
    plan, rows, episode = EPISODES[slot], [], 0
    while len(rows) < num_steps:
        length, how = plan[episode % len(plan)]
        rows += [(episode, t, how if t == length - 1 else None) for t in range(length)]
        episode += 1
    return rows[:num_steps]


@pytest.fixture
def envs():
    return ScheduledEnv(EPISODES)


@pytest.fixture
def policy(envs):
    torch.manual_seed(1)
    return small_policy(envs, encoder=EncoderConfig(time_frequencies=2))


def test_observations_elapsed_actions_and_rewards_stand_where_the_table_says(envs, policy):
    rollout, carry, _ = play(envs, policy, 12)
    inputs = rollout.inputs
    earned = torch.cat([inputs.previous_reward[:, 1:], carry.inputs.previous_reward[:, None]], 1)
    for n in range(envs.num_envs):
        for t, (episode, step, how) in enumerate(timetable(n, 12)):
            assert inputs.observation[n, t].tolist() == [n, episode, step]
            assert inputs.elapsed[n, t] == step
            assert earned[n, t].item() == pytest.approx(reward_of(n, episode, step + 1), abs=1e-6)
            starts_next = inputs.starts[n, t + 1] if t < 11 else carry.inputs.starts[n]
            assert bool(starts_next) == (how is not None)
    assert torch.equal(inputs.previous_action[:, 1:], rollout.action[:, :-1])
    assert torch.equal(carry.inputs.previous_action, rollout.action[:, -1])
    assert np.array_equal(rollout.action[..., 0].numpy(), np.stack(envs.actions, 1))


def next_values(policy, rollout, num_steps):
    """Bootstrap values of all steps, stream by stream, and the values of the wrong observations."""
    right, wrong = [], []
    for n in range(len(EPISODES)):
        row = torch.tensor([n])
        inputs, state = take_rows(rollout.inputs, row), policy.initial_state(1)
        rows = timetable(n, num_steps + 1)
        for t in range(num_steps):
            now = map_tensors(lambda leaf, t=t: leaf[:, t], inputs)
            _, state = policy.step(now, state)
            episode, step, how = rows[t]
            final = PolicyInput(
                torch.tensor([[n, episode, step + 1.0]]),
                rollout.action[row, t],
                torch.tensor([reward_of(n, episode, step + 1)]),
                torch.tensor([step + 1]),
            )
            value = policy.step(final, state)[0].value.item()
            opening = torch.tensor([[n, *rows[t + 1][:2]]], dtype=torch.float32)
            wrong.append(policy.step(final._replace(observation=opening), state)[0].value.item())
            right.append(0.0 if how in ("t", "b") else value)
    shape = (len(EPISODES), num_steps)
    return torch.tensor(right).view(shape), torch.tensor(wrong).view(shape)


@torch.no_grad()
def test_truncation_is_worth_the_final_observation_with_the_state_after_the_step(envs, policy):
    rollout, carry, _ = play(envs, policy, 12)
    earned = torch.cat(
        [rollout.inputs.previous_reward[:, 1:], carry.inputs.previous_reward[:, None]], 1
    )
    found = (rollout.advantage + rollout.value - earned) / DISCOUNT
    expected, wrong = next_values(policy, rollout, 12)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    truncated = torch.tensor([[how == "c" for *_, how in timetable(n, 12)] for n in range(4)])
    assert truncated.sum() >= 6
    assert ((wrong - expected)[truncated].abs() > 1e-3).all()


def test_advantages_are_those_of_each_row(envs, policy):
    rollout, carry, _ = play(envs, policy, 12, gae_lambda=0.8)
    earned = torch.cat(
        [rollout.inputs.previous_reward[:, 1:], carry.inputs.previous_reward[:, None]], 1
    )
    with torch.no_grad():
        following, _ = next_values(policy, rollout, 12)
    error = earned + DISCOUNT * following - rollout.value
    for n in range(4):
        later = 0.0
        for t, (*_, how) in reversed(list(enumerate(timetable(n, 12)))):
            later = error[n, t].item() + (0.0 if how else DISCOUNT * 0.8 * later)
            assert rollout.advantage[n, t].item() == pytest.approx(later, abs=1e-3)
    torch.testing.assert_close(rollout.value_target, rollout.value + rollout.advantage)


def test_one_rollout_of_2t_equals_two_of_t(policy):
    def columns(rollout):
        return (rollout.inputs, rollout.action, rollout.log_prob, rollout.value, rollout.discounted)

    torch.manual_seed(3)
    whole, end, episodes = play(ScheduledEnv(EPISODES), policy, 14)
    torch.manual_seed(3)
    envs, counter = ScheduledEnv(EPISODES), EpisodeCounter(4)
    first, carry, some = play(envs, policy, 7, counter=counter)
    second, carry, more = play(envs, policy, 7, carry, counter=counter)
    joined = map_tensors(lambda a, b: torch.cat([a, b], 1), columns(first), columns(second))
    for one, two in zip(tensors_in(columns(whole)), tensors_in(joined), strict=True):
        assert torch.equal(one, two)
    for one, two in zip(tensors_in(end), tensors_in(carry), strict=True):
        assert torch.equal(one, two)
    assert episodes.returns == some.returns + more.returns
    assert episodes.lengths == some.lengths + more.lengths


@torch.no_grad()
def test_pieces_start_from_the_memory_that_the_stream_had(policy):
    torch.manual_seed(3)
    whole, _, _ = play(ScheduledEnv(EPISODES), policy, 12, gae_lambda=0.7)
    torch.manual_seed(3)
    pieces, _, _ = play(ScheduledEnv(EPISODES), policy, 12, gae_lambda=0.7, sequence_length=4)
    assert pieces.value.shape == (12, 4)
    for one, two in zip(
        tensors_in(whole._replace(memory=())), tensors_in(pieces._replace(memory=())), strict=True
    ):
        assert torch.equal(one.flatten(0, 1), two.flatten(0, 1))
    for n in range(4):
        for piece in range(3):
            rows = torch.tensor([n])
            before = map_tensors(
                lambda leaf, t=4 * piece: leaf[:, :t], take_rows(whole.inputs, rows)
            )
            state = take_rows(whole.memory, rows)
            if piece:
                _, state = policy.unroll(before, state)
            kept = take_rows(pieces.memory, torch.tensor([3 * n + piece]))
            for one, two in zip(tensors_in(state), tensors_in(kept), strict=True):
                torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)
    assert any(leaf.abs().max() > 0.01 for leaf in tensors_in(kept))


def test_minibatches_are_whole_rows_each_once(envs, policy):
    rollout, _, _ = play(envs, policy, 6, sequence_length=3)
    batches = list(rollout.minibatches(3))
    assert [batch.value.shape for batch in batches] == [(3, 3), (3, 3), (2, 3)]
    found = torch.cat([batch.inputs.observation for batch in batches])
    order = [
        int(torch.where((row == rollout.inputs.observation).all(-1).all(-1))[0]) for row in found
    ]
    assert sorted(order) == list(range(8))
    assert torch.equal(torch.cat([batch.log_prob for batch in batches]), rollout.log_prob[order])
    memory = torch.cat([tensors_in(batch.memory)[0] for batch in batches])
    assert torch.equal(memory, tensors_in(rollout.memory)[0][order])


def test_more_minibatches_than_rows_are_refused(envs, policy):
    rollout, _, _ = play(envs, policy, 2)
    with pytest.raises(ValueError, match=r"minibatches is 5; it should be at most .* rows, 4"):
        next(rollout.minibatches(5))


def test_statistics_stay_raw_whatever_the_learner_makes_of_rewards(envs):
    policy = small_policy(envs, reward=RewardConfig(scale=3.0, clip=1.0, normalise=True))
    rollout, _, episodes = play(envs, policy, 12)
    expected = []
    for t in range(12):
        for n in range(4):
            episode, step, how = timetable(n, 12)[t]
            if how:
                expected.append(
                    (sum(reward_of(n, episode, s) for s in range(1, step + 2)), step + 1)
                )
    assert episodes.lengths == [length for _, length in expected]
    assert episodes.returns == pytest.approx([value for value, _ in expected], abs=1e-5)
    seen = rollout.inputs.previous_reward
    assert seen.abs().max() == 1.0
    raw = reward_of(0, 0, 1)
    assert seen[0, 1].item() == pytest.approx(min(max(3.0 * raw, -1.0), 1.0))


def test_the_normaliser_divides_rewards_and_shifts_nothing(envs):
    torch.manual_seed(0)
    policy = small_policy(envs, reward=RewardConfig(normalise=True))
    torch.manual_seed(5)
    plain, _, _ = play(envs, policy, 6)
    policy.return_moments.variance.fill_(4.0)
    policy.return_moments.mean.fill_(7.0)
    torch.manual_seed(5)
    scaled, carry, _ = play(ScheduledEnv(EPISODES), policy, 6)
    earned = torch.cat(
        [plain.inputs.previous_reward[:, 1:], carry.inputs.previous_reward[:, None]], 1
    )
    torch.testing.assert_close(plain.advantage - scaled.advantage, earned / 2, atol=1e-5, rtol=1e-5)


def test_discounted_sums_begin_anew_with_each_episode(envs, policy):
    rollout, carry, _ = play(envs, policy, 12)
    for n in range(4):
        total = 0.0
        for t, (episode, step, how) in enumerate(timetable(n, 12)):
            total = DISCOUNT * total + reward_of(n, episode, step + 1)
            assert rollout.discounted[n, t].item() == pytest.approx(total, abs=1e-5)
            total = 0.0 if how else total
        assert carry.discounted[n].item() == pytest.approx(total, abs=1e-5)


def pictures(rows):
    steps = rows[:, 2, None, None, None].astype(np.uint8)
    images = np.broadcast_to(steps, (len(rows), 3, 4, 4)).copy()
    return {"where": rows, "nested": (rows[:, 0].astype(np.int64), images)}


def test_dictionaries_and_tuples_keep_their_nesting_and_types():
    inside = spaces.Tuple([spaces.Discrete(4), spaces.Box(0, 255, (3, 4, 4), np.uint8)])
    space = spaces.Dict({"where": spaces.Box(-1e6, 1e6, (3,)), "nested": inside})
    policy = small_policy(ScheduledEnv(EPISODES, space=space))
    torch.manual_seed(2)
    rollout, _, _ = play(
        ScheduledEnv(EPISODES, nest=pictures, space=space), policy, 8, sequence_length=4
    )
    observation = rollout.inputs.observation
    assert observation["where"].shape == (8, 4, 3)
    slots, images = observation["nested"]
    assert slots.dtype == torch.int64
    assert slots.tolist() == [[n // 2] * 4 for n in range(8)]
    assert images.dtype == torch.uint8
    assert images.shape == (8, 4, 3, 4, 4)
    assert torch.equal(images[..., 0, 0, 0], observation["where"][..., 2].to(torch.uint8))
    output, _ = policy.unroll(rollout.inputs, rollout.memory)
    torch.testing.assert_close(output.value, rollout.value, atol=1e-4, rtol=1e-4)


def test_an_episode_counter_counts_over_several_calls():
    def step(reward, ended, success=None):
        none = np.zeros(2, bool)
        return ScheduledStep(None, np.array(reward), np.array(ended), none, None, success)

    counter, episodes = EpisodeCounter(2), Episodes.none()
    assert not counter.count(step([1.0, 2.0], [False, False]), episodes).any()
    assert counter.count(
        step([1.5, 0.5], [False, True], np.array([False, True])), episodes
    ).tolist() == [False, True]
    counter.count(step([1.0, 9.0], [True, False], np.array([False, True])), episodes)
    assert episodes == Episodes([2.5, 3.5], [2, 3], [True, False], [])
    # unwanted episodes end too, but nobody writes them down
    unwanted = counter.count(step([0.0, 1.0], [False, True]), episodes, np.array([True, False]))
    assert not unwanted.any()
    assert counter.returns.tolist() == [0.0, 0.0]
    assert counter.lengths.tolist() == [1, 0]
    assert len(episodes.returns) == 2


def test_the_seed_reaches_the_environments(policy):
    envs = ScheduledEnv(EPISODES)
    start(envs, policy, 17)
    assert envs.seeds == [17]


def test_explained_variance():
    target = torch.tensor([[1.0, 2.0, 4.0]])
    assert explained_variance(target, target) == 1.0
    assert explained_variance(torch.full((1, 3), 9.0), target).item() == pytest.approx(0.0)
    assert explained_variance(-target, target).item() == pytest.approx(-3.0)
    assert math.isnan(explained_variance(target, torch.ones(1, 3)).item())


def test_arrays_become_tensors_of_the_same_type():
    tree = {"a": np.zeros((2, 3), np.uint8), "b": (np.zeros(2, np.float32), np.zeros(2, bool))}
    found = to_tensors(tree, torch.device("cpu"))
    assert isinstance(found["b"], tuple)
    assert [leaf.dtype for leaf in tensors_in(found)] == [torch.uint8, torch.float32, torch.bool]


def test_a_rollout_is_free_of_gradients(policy):
    rollout, carry, _ = play(ScheduledEnv(EPISODES), policy, 3)
    assert isinstance(rollout, Rollout)
    assert not any(leaf.requires_grad for leaf in tensors_in((rollout, carry)))
