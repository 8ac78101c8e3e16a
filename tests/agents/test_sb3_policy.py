import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from scheduled_env import EPISODES, ScheduledEnv, reward_of, small_policy
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecMonitor

from agents.encoders import EncoderConfig
from agents.evaluation import evaluate
from agents.policy import PolicyConfig, RecurrentPolicy, RewardConfig
from agents.saving import describe_policy
from agents.sb3 import SB3Policy, load
from envs import GymnasiumConfig, make_envs
from envs.sb3 import to_sb3
from fwrl.files.checkpoint import save_checkpoint

ENVS = {
    "fwrl": GymnasiumConfig(id="fwrl/RepeatPrevious-v0", max_episode_steps=30),
    "gymnasium": GymnasiumConfig(id="CartPole-v1", max_episode_steps=40),
}


def make_policy(envs, previous_reward=True):
    torch.manual_seed(0)
    encoder = EncoderConfig(previous_reward=previous_reward, time_frequencies=2)
    return small_policy(envs, encoder=encoder, reward=RewardConfig(scale=20.0, clip=5.0))


@pytest.mark.parametrize("previous_reward", [True, False])
@pytest.mark.parametrize("name", ENVS)
def test_evaluate_policy_gives_our_returns(name, previous_reward, tmp_path):
    def make():
        return make_envs(ENVS[name], 3, evaluation=True)

    policy = make_policy(make(), previous_reward)
    ours = evaluate(policy, make(), episodes=7, seed=11)
    document = {"policy": describe_policy(policy)}
    save_checkpoint(tmp_path / "checkpoints" / "5", {"policy": policy.state_dict()}, document)
    model = load(tmp_path)
    vec_env = to_sb3(make())
    if previous_reward:
        vec_env = model.watch(vec_env)
    vec_env.seed(11)
    returns, lengths = evaluate_policy(model, VecMonitor(vec_env), 7, return_episode_rewards=True)
    assert lengths == ours.lengths
    assert returns == pytest.approx(ours.returns, abs=1e-4)
    assert len(set(ours.returns)) > 1
    vec_env.seed(11)
    mean, _ = evaluate_policy(model, vec_env, 7, warn=False)
    assert mean == pytest.approx(np.mean(ours.returns), abs=1e-5)


def test_predict_reads_what_playing_reads():
    envs = ScheduledEnv(EPISODES)
    policy = make_policy(envs)
    model, seen, step = SB3Policy(policy), [], policy.step

    def watch(inputs, state):
        seen.append(inputs)
        return step(inputs, state)

    policy.step = watch
    vec_env = model.watch(to_sb3(envs))
    observation, state, starts = vec_env.reset(), None, np.ones(4, bool)
    for _ in range(6):
        action, state = model.predict(observation, state, starts, deterministic=True)
        observation, _, starts, _ = vec_env.step(action)
    # slot 0: three steps, then two
    assert [int(inputs.elapsed[0]) for inputs in seen] == [0, 1, 2, 0, 1, 0]
    for t in range(1, 6):
        assert np.array_equal(seen[t].previous_action[:, 0], envs.actions[t - 1])
    expected = min(max(20.0 * reward_of(0, 0, 1), -5.0), 5.0)
    assert seen[1].previous_reward[0].item() == pytest.approx(expected, abs=1e-4)


def test_without_a_state_episodes_open_everywhere_and_with_one_nowhere():
    model = SB3Policy(make_policy(ScheduledEnv(EPISODES), previous_reward=False))
    observation = np.zeros((4, 3), np.float32)
    _, state = model.predict(observation)
    assert state.elapsed.tolist() == [1] * 4
    _, state = model.predict(observation, state)
    assert state.elapsed.tolist() == [2] * 4
    _, state = model.predict(observation, state, np.array([True, False, False, True]))
    assert state.elapsed.tolist() == [1, 3, 3, 1]


def test_the_given_state_is_left_as_it_was():
    model = SB3Policy(make_policy(ScheduledEnv(EPISODES), previous_reward=False))
    observation = np.ones((4, 3), np.float32)
    _, state = model.predict(observation)
    one, _ = model.predict(observation, state, deterministic=True)
    two, _ = model.predict(observation, state, deterministic=True)
    assert np.array_equal(one, two)


def test_missing_rewards_are_an_error_that_says_what_to_do():
    model = SB3Policy(make_policy(ScheduledEnv(EPISODES)))
    observation = np.zeros((4, 3), np.float32)
    # nothing was earned before an episode opens
    _, state = model.predict(observation)
    with pytest.raises(
        ValueError, match=r"env = model.watch\(env\), or train with encoder"
    ) as error:
        model.predict(observation, state)
    assert "\n" not in str(error.value)


def test_actions_are_the_environments_own():
    for space in (spaces.Discrete(3, start=2), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2)):
        envs = ScheduledEnv(EPISODES)
        envs.action_space = space
        model = SB3Policy(make_policy(envs))
        for deterministic in (True, False):
            action, _ = model.predict(np.zeros((4, 3), np.float32), deterministic=deterministic)
            assert all(space.contains(row) for row in np.asarray(action, space.dtype))


def test_sampling_follows_the_generator():
    model = SB3Policy(make_policy(ScheduledEnv(EPISODES), previous_reward=False))
    observation = np.zeros((64, 3), np.float32)
    torch.manual_seed(0)
    one, _ = model.predict(observation)
    torch.manual_seed(0)
    two, _ = model.predict(observation)
    assert np.array_equal(one, two)
    assert len(np.unique(one)) > 1


@pytest.mark.parametrize("env_id", ["CartPole-v1", "fwrl/Autoencode-v0", "Pendulum-v1"])
def test_one_environment_is_predicted_like_a_batch_of_one(env_id):
    many = make_envs(GymnasiumConfig(id=env_id), 1)
    one = gymnasium.make(env_id)
    config = PolicyConfig(encoder=EncoderConfig(previous_reward=False))
    model = SB3Policy(RecurrentPolicy(many.observation_space, many.action_space, config))
    batch, (single, _) = many.reset(3), one.reset(seed=3)
    states = None, None
    for _ in range(6):
        actions, state_of_batch = model.predict(batch, states[0], deterministic=True)
        action, state_of_one = model.predict(single, states[1], deterministic=True)
        np.testing.assert_array_equal(actions[0], action)
        assert one.action_space.contains(action)
        states = state_of_batch, state_of_one
        batch, single = many.step(actions).observation, one.step(action)[0]
