from itertools import islice

import numpy as np
import pytest
import torch
from scheduled_env import EPISODES, ScheduledEnv, reward_of, small_policy
from stable_baselines3.common.evaluation import evaluate_policy

from agents.evaluation import (
    act,
    evaluate,
    success_rate,
    summarise,
)
from agents.rollout import Episodes
from envs import GymnasiumConfig, make_envs
from envs.sb3 import to_sb3


class Idle:
    """A Stable-Baselines3 model that always does the same."""

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.zeros(len(observation), np.int64), None


@pytest.mark.parametrize("episodes", [1, 3, 4, 6, 11])
def test_the_shares_of_the_slots_are_those_of_stable_baselines(episodes):
    policy = small_policy(ScheduledEnv(EPISODES))
    ours = evaluate(policy, ScheduledEnv(EPISODES), episodes, seed=0)
    returns, lengths = evaluate_policy(
        Idle(), to_sb3(ScheduledEnv(EPISODES)), episodes, return_episode_rewards=True, warn=False
    )
    assert len(ours.returns) == episodes
    assert ours.lengths == [int(length) for length in lengths]
    assert ours.returns == pytest.approx(returns, abs=1e-5)
    # a slot with short episodes is not asked for more than its share
    share = [(episodes + slot) // 4 for slot in range(4)]
    plans = [[length for length, _ in plan] for plan in EPISODES]
    expected = [
        plan[e % len(plan)] for plan, count in zip(plans, share, strict=True) for e in range(count)
    ]
    assert sorted(ours.lengths) == sorted(expected)


def test_returns_are_raw_sums_of_whole_episodes():
    found = evaluate(small_policy(ScheduledEnv(EPISODES)), ScheduledEnv(EPISODES[:1]), 2, seed=0)
    assert found.returns == pytest.approx(
        [sum(reward_of(0, 0, t) for t in (1, 2, 3)), sum(reward_of(0, 1, t) for t in (1, 2))],
        abs=1e-5,
    )
    assert found.lengths == [3, 2]


def make_cartpole(num_envs):
    return make_envs(GymnasiumConfig(id="CartPole-v1", max_episode_steps=20), num_envs)


def test_the_same_seeds_give_the_same_episodes():
    torch.manual_seed(0)
    policy = small_policy(make_cartpole(1), gain=1.0)

    def episodes(seed, deterministic):
        torch.manual_seed(5)
        return evaluate(policy, make_cartpole(3), 7, seed, deterministic)

    for deterministic in (True, False):
        assert episodes(0, deterministic) == episodes(0, deterministic)
        assert episodes(0, deterministic) != episodes(30, deterministic)
    assert episodes(0, True) != episodes(0, False)


def test_evaluation_uses_no_random_numbers_unless_it_samples():
    envs = ScheduledEnv(EPISODES)
    policy = small_policy(envs)
    before = torch.get_rng_state()
    evaluate(policy, envs, 4, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    evaluate(policy, envs, 4, seed=0, deterministic=False)
    assert not torch.equal(torch.get_rng_state(), before)
    assert envs.seeds == [0, 0]


def test_playing_reads_what_a_rollout_reads():
    torch.manual_seed(0)
    envs, seen = ScheduledEnv(EPISODES), []
    policy = small_policy(envs)
    step = policy.step

    def watch(inputs, state):
        seen.append(inputs)
        return step(inputs, state)

    policy.step = watch
    assert len(list(islice(act(policy, envs, seed=0), 6))) == 6
    # slot 0: three steps, then two
    assert [int(inputs.elapsed[0]) for inputs in seen] == [0, 1, 2, 0, 1, 0]
    assert [int(inputs.observation[0, 2]) for inputs in seen] == [0, 1, 2, 0, 1, 0]
    for t in range(1, 6):
        assert np.array_equal(seen[t].previous_action[:, 0], envs.actions[t - 1])
    assert seen[1].previous_reward[0].item() == pytest.approx(reward_of(0, 0, 1), abs=1e-6)


def test_the_success_rate_is_that_of_the_counted_episodes_or_nothing():
    policy = small_policy(ScheduledEnv(EPISODES))
    silent = summarise(evaluate(policy, ScheduledEnv(EPISODES), 4, seed=0))
    assert silent.success_rate is None
    told = evaluate(policy, ScheduledEnv(EPISODES, says_success=True), 10, seed=0)
    # shares 2, 2, 3, 3; every other episode succeeds, the first of them
    assert summarise(told).success_rate == pytest.approx((1 + 1 + 2 + 2) / 10)


@pytest.mark.parametrize("num_envs", [1, 2, 5])
def test_what_says_success_only_where_there_is_one_counts_the_others_as_failures(num_envs):
    """Whoever ends an episode in the same step as another must not decide how it counts."""
    plan = [(1, "t"), (2, "t"), (1, "t"), (3, "t"), (1, "t")]
    envs = ScheduledEnv([plan] * num_envs, says_success=True)
    whole = envs.step

    def only_success(action):
        step = whole(action)
        # episodes 0, 2 and 4 of each slot succeed; a step without any says nothing
        anyone = step.success is not None and (step.success & step.terminated).any()
        return step._replace(success=step.success if anyone else None)

    envs.step = only_success
    told = evaluate(small_policy(envs), envs, 5 * num_envs, seed=0)
    assert summarise(told).success_rate == pytest.approx(3 / 5)
    assert success_rate([None, None]) is None
    assert success_rate([None, False]) == 0


def test_a_summary_by_hand():
    found = summarise(Episodes([4.0, 0.0, 1.0, 3.0], [1, 2, 3, 4], [True, False, True, True], []))
    assert found.return_mean == 2.0
    assert found.return_std == pytest.approx(np.sqrt(2.5))
    # the middle half: 1 and 3
    assert found.return_iqm == 2.0
    assert found.length_mean == 2.5
    assert found.success_rate == 0.75
    low, high = found.return_ci95
    assert 0.0 <= low <= 2.0 <= high <= 4.0
