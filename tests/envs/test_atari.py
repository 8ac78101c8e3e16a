import itertools

import gymnasium
import numpy as np
import pytest
from ale_py.vector_env import AtariVectorEnv
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from pydantic import ValidationError

from envs import AtariConfig, EnvConfigError, VectorEnv, make_envs
from envs.atari import MULTIPLAYER, atari_games

# episodes of 100 steps
SHORT = 400


def play(games, num_steps, seed=0):
    """The first observation, and random steps, the same for the same seed."""
    rng = np.random.default_rng(seed)
    first = games.reset(seed)
    actions = rng.integers(0, games.action_space.n, (num_steps, games.num_envs))
    return first, [games.step(action) for action in actions]


def ended(step):
    return step.terminated | step.truncated


@pytest.mark.parametrize("game", ["pong", "breakout"])
def test_what_comes_out(game):
    games = make_envs(AtariConfig(game=game, frame_stack=2, num_envs=3))
    assert isinstance(games, VectorEnv)
    assert games.observation_space == spaces.Box(0, 255, (2, 84, 84), np.uint8)
    assert games.action_space == spaces.Discrete({"pong": 6, "breakout": 4}[game])
    first, steps = play(games, 30)
    assert first.dtype == np.uint8
    assert first.shape == (3, 2, 84, 84)
    for step, following in itertools.pairwise(steps):
        assert step.reward.dtype == np.float32
        assert step.terminated.dtype == step.truncated.dtype == np.bool_
        # the newest frame is the last
        np.testing.assert_array_equal(following.observation[:, 0], step.observation[:, 1])
    assert games.render() is None
    games.close()
    games.close()


def test_the_same_seed_gives_the_same_games_and_slot_i_has_seed_plus_i():
    config = AtariConfig(game="breakout", max_episode_frames=SHORT)
    three, again, alone = make_envs(config, 3), make_envs(config, 3), make_envs(config, 1)
    first, steps = play(three, 250, seed=4)
    other_first, other_steps = play(again, 250, seed=4)
    np.testing.assert_array_equal(first, other_first)
    # another seed, but the actions of slot 2
    np.testing.assert_array_equal(first[2:], alone.reset(6))
    assert any((step.observation[0] != step.observation[1]).any() for step in steps[:20])
    actions = np.random.default_rng(4).integers(0, 4, (250, 3))
    for action, one, other in zip(actions, steps, other_steps, strict=True):
        mine = alone.step(action[2:])
        for name in ("observation", "reward", "terminated", "truncated"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
            np.testing.assert_array_equal(getattr(one, name)[2:], getattr(mine, name))


def test_what_was_returned_is_never_touched_again():
    first, steps = play(make_envs(AtariConfig(game="pong", max_episode_frames=80), 2), 40)
    kept = [first.copy()] + [step.observation.copy() for step in steps]
    again, same = play(make_envs(AtariConfig(game="pong", max_episode_frames=80), 2), 40)
    shown = [again] + [step.observation for step in same]
    for one, other in zip(kept, shown, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("seed", [2**31 - 1, 2**32 - 1, 2**40, None])
def test_any_seed_will_do(seed):
    games = make_envs(AtariConfig(game="pong"), 2)
    assert games.reset(seed).shape == (2, 1, 84, 84)


def test_final_observations_are_those_of_an_emulator_that_does_not_reset_at_once():
    config = AtariConfig(game="breakout", max_episode_frames=SHORT, noop_max=0)
    games = make_envs(config, 2)
    later = AtariVectorEnv(
        "breakout",
        2,
        stack_num=1,
        noop_max=0,
        repeat_action_probability=0.25,
        use_fire_reset=False,
        max_num_frames_per_episode=SHORT,
        autoreset_mode=AutoresetMode.NEXT_STEP,
    )
    _, steps = play(games, 100)
    later.reset(seed=0)
    actions = np.random.default_rng(0).integers(0, 4, (100, 2))
    num_ended = 0
    for action, step in zip(actions, steps, strict=True):
        observation, *_ = later.step(action)
        if ended(step).any():
            num_ended += 1
            rows = ended(step)
            np.testing.assert_array_equal(step.final_observation[rows], observation[rows])
            assert (step.final_observation[rows] != step.observation[rows]).any()
            break
        assert step.final_observation is None
        np.testing.assert_array_equal(step.observation, observation)
    assert num_ended == 1


def test_truncation_comes_after_the_frames_asked_for():
    games = make_envs(AtariConfig(game="pong", max_episode_frames=SHORT, noop_max=0), 2)
    _, steps = play(games, 2 * SHORT // 4)
    at = [time for time, step in enumerate(steps, 1) if step.truncated.any()]
    assert at == [SHORT // 4, 2 * SHORT // 4]
    assert not any(step.terminated.any() for step in steps)


def test_rewards_are_not_clipped():
    _, steps = play(make_envs(AtariConfig(game="qbert"), 4), 300)
    rewards = np.array([step.reward for step in steps])
    assert rewards.max() >= 25


def test_a_lost_life_ends_an_episode_but_not_the_game():
    config = AtariConfig(game="breakout")
    whole, by_life = (
        make_envs(config, 4),
        make_envs(config.model_copy(update={"life_loss_terminates": True}), 4),
    )
    (first, games), (same_first, lives) = play(whole, 400), play(by_life, 400)
    np.testing.assert_array_equal(first, same_first)
    lost, over = np.zeros(4, int), np.zeros(4, int)
    for game, life in zip(games, lives, strict=True):
        # it is the very same game
        np.testing.assert_array_equal(game.observation, life.observation)
        np.testing.assert_array_equal(game.reward, life.reward)
        assert (life.terminated | ~game.terminated).all()
        only_a_life = life.terminated & ~game.terminated
        lost += only_a_life
        over += game.terminated
        if only_a_life.any():
            last = life.final_observation[only_a_life]
            np.testing.assert_array_equal(last, life.observation[only_a_life])
        if game.terminated.any():
            rows = game.terminated
            both = life.final_observation[rows], game.final_observation[rows]
            np.testing.assert_array_equal(*both)
    # a game of Breakout has five lives; the fifth is lost together with the game
    assert over.sum() >= 4
    assert ((lost - 4 * over >= 0) & (lost - 4 * over <= 4)).all()


def test_evaluation_plays_whole_games():
    config = AtariConfig(game="breakout", life_loss_terminates=True)
    whole = make_envs(config.model_copy(update={"life_loss_terminates": False}), 2)
    _, expected = play(whole, 300)
    _, steps = play(make_envs(config, 2, evaluation=True), 300)
    assert any(step.terminated.any() for step in expected)
    for step, other in zip(steps, expected, strict=True):
        np.testing.assert_array_equal(step.terminated, other.terminated)


def test_other_vector_environments_keep_their_modes():
    before = dict(gymnasium.vector.VectorEnv.metadata)
    theirs = AtariVectorEnv("pong", 1, autoreset_mode=AutoresetMode.NEXT_STEP)
    ours = make_envs(AtariConfig(game="pong", max_episode_frames=40), 1)
    evaluation = make_envs(AtariConfig(game="pong"), 1, evaluation=True)
    assert theirs.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    gymnasium.vector.VectorEnv.metadata.clear()
    gymnasium.vector.VectorEnv.metadata.update(before)
    _, steps = play(ours, 30)
    assert sum(step.truncated.any() for step in steps) >= 2
    assert evaluation.reset(0).shape == (1, 1, 84, 84)


def test_the_picture_is_that_of_slot_zero():
    config = AtariConfig(game="breakout", max_episode_frames=SHORT, life_loss_terminates=True)
    shown, hidden = make_envs(config, 2, render=True), make_envs(config, 2)
    # whoever asks for pictures gets the same games
    np.testing.assert_array_equal(shown.reset(1), hidden.reset(1))
    rng = np.random.default_rng(0)
    num_ended = 0
    for _ in range(150):
        action = rng.integers(0, 4, 2)
        step = shown.step(action)
        np.testing.assert_array_equal(step.observation, hidden.step(action).observation)
        picture = shown.render()
        assert picture.shape == (210, 160, 3)
        assert picture.dtype == np.uint8
        # in grey and shrunk it is what slot 0 sees
        grey = picture @ np.array([0.299, 0.587, 0.114])
        small = grey[:, :].reshape(42, 5, 32, 5).mean((1, 3))
        seen = step.observation[0, 0].reshape(42, 2, 84).mean(1)
        seen = np.stack([part.mean(1) for part in np.array_split(seen, 32, axis=1)], axis=1)
        assert np.corrcoef(small.ravel(), seen.ravel())[0, 1] > 0.9
        num_ended += ended(step)[0]
    assert num_ended >= 2
    without_seed = make_envs(AtariConfig(game="pong"), 1, render=True)
    without_seed.reset()
    without_seed.step(np.zeros(1, int))


@pytest.mark.parametrize(
    ("game", "message"),
    [
        ("brakout", "did you mean 'breakout'"),
        ("MsPacman", "did you mean 'ms_pacman'"),
        ("combat", "no Atari game 'combat'"),
    ],
)
def test_unknown_games_are_one_line(game, message):
    with pytest.raises(EnvConfigError, match=message) as error:
        make_envs(AtariConfig(game=game))
    assert "\n" not in str(error.value)
    assert game not in atari_games()
    assert "pong" in atari_games()
    assert len(MULTIPLAYER) == 4


def test_configuration_is_strict():
    for wrong in ({"frame_stak": 4}, {"sticky_actions": 1.5}, {"frame_stack": 0}):
        with pytest.raises(ValidationError):
            AtariConfig(game="pong", **wrong)
    everything = AtariConfig(game="pong", full_action_space=True, grayscale=False, screen_size=42)
    games = make_envs(everything, 1)
    assert games.action_space == spaces.Discrete(18)
    assert games.reset(0).shape == (1, 1, 42, 42, 3)
