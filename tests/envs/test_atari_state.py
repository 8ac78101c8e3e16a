"""Atari games that go on from a state are the very same games."""

import numpy as np
import pytest
from restored_envs import assert_restorable, sample_actions

from envs import AtariConfig, make_envs
from envs.workers.replay import episode_seed


@pytest.mark.parametrize(
    ("game", "options"),
    [
        ("pong", {}),
        ("breakout", {"life_loss_terminates": True, "noop_max": 10, "frame_stack": 4}),
        pytest.param("qbert", {"frame_stack": 4}, marks=pytest.mark.slow),
        pytest.param(
            "enduro",
            {"fire_on_reset": True, "frame_stack": 4, "grayscale": False},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_games_continue(game, options):
    # games of some 30 steps: they open with different numbers of no-ops
    config = AtariConfig(game=game, max_episode_frames=120, num_envs=2, num_threads=1, **options)
    ended = assert_restorable(
        make_envs(config), [make_envs(config), make_envs(config)], cut=50, num_steps=80
    )
    assert ended >= 4


@pytest.mark.slow
def test_games_of_different_ages_continue():
    config = AtariConfig(game="breakout", life_loss_terminates=True, num_envs=3, num_threads=1)
    # whole games, which random play ends after some hundred steps
    ended = assert_restorable(make_envs(config), [make_envs(config)], cut=330, num_steps=250)
    assert ended >= 6


def test_each_slot_is_restored_to_its_own_age():
    config = AtariConfig(game="breakout", num_envs=3, num_threads=1)
    games, again = make_envs(config), make_envs(config)
    games.reset(0)
    play = sample_actions(games, 330, 3)
    for action in play:
        games.step(action)
    state = games.state()
    assert len(set(state["length"].tolist())) == 3
    assert (state["episode"] > 0).any()
    assert not again.restore(state).anew.any()


def test_a_restored_slot_that_was_too_old_opens_its_next_game():
    config = AtariConfig(game="pong", max_episode_frames=400, num_envs=2, longest_replay=30)
    games, again = make_envs(config), make_envs(config)
    games.reset(4)
    for action in sample_actions(games, 40, 0):
        step = games.step(action)
    state = games.state()
    assert not state["exact"].any()
    assert len(state["actions"]) == 0
    anew, shown = again.restore(state)
    assert anew.all()
    assert not np.array_equal(shown, step.observation)
    for slot in range(2):
        alone = make_envs(config, 1).reset(episode_seed(4 + slot, 1))
        np.testing.assert_array_equal(shown[slot], alone[0])


def test_a_later_game_can_be_played_by_itself():
    config = AtariConfig(game="qbert", max_episode_frames=120, num_envs=2, frame_stack=4)
    games, alone = make_envs(config), make_envs(config, 1)
    games.reset(6)
    play = sample_actions(games, 100, 0)
    number, opened = 0, 0
    for time, action in enumerate(play):
        step = games.step(action)
        if step.truncated[1]:
            number, opened = number + 1, time + 1
        if number == 2:
            break
    assert number == 2
    first = alone.reset(episode_seed(7, 2))
    np.testing.assert_array_equal(first[0], step.observation[1])
    for action in play[opened : opened + 20]:
        np.testing.assert_array_equal(
            alone.step(action[1:]).observation[0], games.step(action).observation[1]
        )


def test_the_picture_is_restored_too():
    config = AtariConfig(game="breakout", max_episode_frames=300, num_envs=2)
    games, again = (make_envs(config, render=True) for _ in range(2))
    games.reset(1)
    play = sample_actions(games, 200, 2)
    for action in play[:90]:
        games.step(action)
    assert games.state()["episode"][0] == 1
    assert not again.restore(games.state()).anew.any()
    np.testing.assert_array_equal(games.render(), again.render())
    for action in play[90:]:
        # it checks that the picture is of the same game
        games.step(action)
        again.step(action)
        np.testing.assert_array_equal(games.render(), again.render())
