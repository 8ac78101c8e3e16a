import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecMonitor, VecNormalize

from envs import AtariConfig, EnvConfigError, GymnasiumConfig, VectorEnv, make_envs
from envs.sb3 import from_sb3, to_sb3
from envs.workers.replay import episode_seed

SHORT = 12


def cartpole(num_envs=2, limit=SHORT):
    return make_envs(GymnasiumConfig(id="CartPole-v1", max_episode_steps=limit), num_envs)


class SeedsEveryEpisode(gymnasium.Wrapper):
    """As ours do: the later episodes with a hash of the first one's seed and their number."""

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.seed, self.episode = seed, -1
        self.episode = getattr(self, "episode", -1) + 1
        return self.env.reset(seed=episode_seed(getattr(self, "seed", 0), self.episode))


def sb3_cartpole(num_envs=2, limit=SHORT):
    make = lambda: SeedsEveryEpisode(  # noqa: E731
        gymnasium.make("CartPole-v1", max_episode_steps=limit)
    )
    return DummyVecEnv([make] * num_envs)


def actions(num_steps, num_envs=2, seed=0):
    return np.random.default_rng(seed).integers(0, 2, (num_steps, num_envs))


def assert_same_step(one, other):
    ended = one.terminated | one.truncated
    for name in ("observation", "reward", "terminated", "truncated"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert getattr(one, name).dtype == getattr(other, name).dtype
    assert (one.final_observation is None) == (other.final_observation is None)
    if ended.any():
        np.testing.assert_array_equal(one.final_observation[ended], other.final_observation[ended])


def bridges():
    return {
        "from_sb3": from_sb3(sb3_cartpole()),
        "there and back": from_sb3(to_sb3(cartpole())),
    }


@pytest.mark.parametrize("name", bridges())
def test_the_same_episodes_on_either_side(name):
    ours, theirs = cartpole(), bridges()[name]
    assert isinstance(theirs, VectorEnv)
    assert theirs.observation_space == ours.observation_space
    assert theirs.action_space == ours.action_space
    np.testing.assert_array_equal(theirs.reset(3), ours.reset(3))
    seen = {"terminated": 0, "truncated": 0}
    for action in actions(80):
        step = ours.step(action)
        assert_same_step(step, theirs.step(action))
        seen["terminated"] += step.terminated.sum()
        seen["truncated"] += step.truncated.sum()
    assert min(seen.values()) > 0
    # without a seed the random numbers go on
    assert not np.array_equal(theirs.reset(), theirs.reset())


def test_ours_look_like_theirs():
    ours, theirs = to_sb3(cartpole()), sb3_cartpole()
    assert ours.seed(5) == theirs.seed(5) == [5, 6]
    np.testing.assert_array_equal(ours.reset(), theirs.reset())
    for action in actions(40):
        observation, reward, last, infos = ours.step(action)
        their_observation, their_reward, their_last, their_infos = theirs.step(action)
        np.testing.assert_array_equal(observation, their_observation)
        np.testing.assert_array_equal(reward, their_reward)
        np.testing.assert_array_equal(last, their_last)
        for info, their_info in zip(infos, their_infos, strict=True):
            assert info.keys() == their_info.keys()
            assert info["TimeLimit.truncated"] == their_info["TimeLimit.truncated"]
            if "terminal_observation" in info:
                np.testing.assert_array_equal(
                    info["terminal_observation"], their_info["terminal_observation"]
                )


def test_a_seed_holds_for_one_reset():
    envs = to_sb3(cartpole())
    envs.seed(5)
    first = envs.reset()
    assert not np.array_equal(first, envs.reset())
    envs.seed(5)
    np.testing.assert_array_equal(first, envs.reset())


def test_what_was_returned_survives_wrappers_with_buffers():
    stacked = from_sb3(VecFrameStack(sb3_cartpole(), 3))
    observation = stacked.reset(0)
    kept = observation.copy()
    steps = [stacked.step(action) for action in actions(30)]
    np.testing.assert_array_equal(observation, kept)
    again = from_sb3(VecFrameStack(sb3_cartpole(), 3))
    again.reset(0)
    for step, action in zip(steps, actions(30), strict=True):
        assert_same_step(step, again.step(action))


def test_the_true_last_observation_under_wrappers():
    wrapped = from_sb3(VecNormalize(VecMonitor(sb3_cartpole()), norm_obs=False, norm_reward=False))
    ours = cartpole()
    np.testing.assert_array_equal(wrapped.reset(1), ours.reset(1))
    for action in actions(3 * SHORT):
        step = ours.step(action)
        # they say of a step either that it terminated or that it was truncated
        step = step._replace(truncated=step.truncated & ~step.terminated)
        assert_same_step(wrapped.step(action), step)


def test_success_crosses_both_ways():
    config = GymnasiumConfig(id="fwrl/RepeatFirst-v0")
    ours, back = make_envs(config, 3), from_sb3(to_sb3(make_envs(config, 3)))
    first = ours.reset(0)
    np.testing.assert_array_equal(first, back.reset(0))
    # slot 0 answers rightly all the time
    action = (first + np.arange(3)) % 4
    for _ in range(51):
        step, other = ours.step(action), back.step(action)
        assert_same_step(step, other)
    assert step.terminated.all()
    np.testing.assert_array_equal(step.success, [True, False, False])
    np.testing.assert_array_equal(other.success, step.success)


def test_dictionaries_and_tuples_cross():
    config = GymnasiumConfig(id="MiniGrid-MemoryS11-v0", options={"max_steps": 5})
    back = from_sb3(to_sb3(make_envs(config, 2)))
    ours = make_envs(config, 2)
    back.reset(0)
    ours.reset(0)
    for _ in range(5):
        step, other = ours.step(np.array([2, 1])), back.step(np.array([2, 1]))
    assert step.truncated.all()
    for key in ("image", "direction"):
        np.testing.assert_array_equal(step.final_observation[key], other.final_observation[key])


class Still:
    """A policy that always pushes to the left."""

    def predict(self, observation, state=None, episode_start=None, deterministic=True):
        return np.zeros(len(observation), int), state


def test_their_evaluation_runs_on_ours():
    expected = evaluate_policy(Still(), seeded(sb3_cartpole()), 6, warn=False)
    ours = evaluate_policy(Still(), seeded(to_sb3(cartpole())), 6, warn=False)
    assert ours == pytest.approx(expected)
    monitored = VecMonitor(seeded(to_sb3(cartpole())))
    assert evaluate_policy(Still(), monitored, 6) == pytest.approx(expected)
    assert 5 < expected[0] < SHORT


def seeded(vec_env):
    vec_env.seed(0)
    return vec_env


def test_their_recurrent_agent_trains_on_ours():
    envs = to_sb3(cartpole(limit=None))
    agent = RecurrentPPO("MlpLstmPolicy", envs, n_steps=8, batch_size=8, n_epochs=1, seed=0)
    agent.learn(32)
    assert agent.num_timesteps == 32
    atari = to_sb3(make_envs(AtariConfig(game="pong", frame_stack=2), 1))
    agent = RecurrentPPO("CnnLstmPolicy", atari, n_steps=4, batch_size=4, n_epochs=1, seed=0)
    agent.learn(4)


def test_pictures_cross_both_ways():
    config = GymnasiumConfig(id="CartPole-v1")
    shown = to_sb3(make_envs(config, 2, render=True), render=True)
    shown.reset()
    assert shown.render_mode == "rgb_array"
    assert shown.metadata["render_modes"] == ["human", "rgb_array"]
    assert shown.render().shape == (400, 600, 3)
    theirs = from_sb3(make_vec_env("CartPole-v1", 2, env_kwargs={"render_mode": "rgb_array"}))
    theirs.reset()
    assert theirs.render().shape == (400, 600, 3)
    assert from_sb3(sb3_cartpole()).render() is None
    assert to_sb3(cartpole()).render_mode is None


def test_what_cannot_be_reached_is_said():
    envs = to_sb3(cartpole())
    assert not envs.has_attr("spec")
    for reach in (
        lambda: envs.get_attr("spec"),
        lambda: envs.set_attr("gravity", 1),
        lambda: envs.env_method("seed"),
    ):
        with pytest.raises(AttributeError, match="out of reach"):
            reach()
    text = sb3_cartpole()
    text.observation_space = spaces.Text(3)
    with pytest.raises(EnvConfigError, match="not supported"):
        from_sb3(text)
