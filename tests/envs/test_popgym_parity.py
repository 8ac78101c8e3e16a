"""Our versions of POPGym's tasks equal the package's, transition by transition, from one seed."""

import numpy as np
import popgym.envs as popgym
import pytest

from envs.tasks import make_env

LEVELS = ("easy", "medium", "hard")
CARD_TASKS = (
    *("Autoencode", "Concentration", "CountRecall", "HigherLower", "RepeatFirst", "RepeatPrevious"),
)
CART_POLES = {
    "StatelessCartPole": "PositionOnlyCartPole",
    "NoisyStatelessCartPole": "NoisyPositionOnlyCartPole",
}


def pair(name, level):
    """Our environment and theirs."""
    theirs = getattr(popgym, CART_POLES.get(name, name) + level.capitalize())()
    return make_env(name, level=level), theirs


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", [*CARD_TASKS, *CART_POLES])
def test_the_spaces_are_the_same(name, level):
    ours, theirs = pair(name, level)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", CARD_TASKS)
def test_card_tasks_are_the_same_over_episodes(name, level):
    ours, theirs = pair(name, level)
    generator = np.random.default_rng(0)
    for episode in range(3):
        seed = 7 if episode == 0 else None
        our_first, _ = ours.reset(seed=seed)
        their_first, _ = theirs.reset(seed=seed)
        np.testing.assert_array_equal(our_first, their_first)
        last = False
        while not last:
            action = int(generator.integers(ours.action_space.n))
            our_step, their_step = ours.step(action), theirs.step(action)
            np.testing.assert_array_equal(our_step[0], their_step[0])
            assert our_step[1] == pytest.approx(their_step[1], rel=1e-6)
            assert our_step[2:4] == their_step[2:4]
            last = our_step[2] or our_step[3]


def test_a_won_game_of_pairs_ends_as_theirs_does():
    ours, theirs = pair("Concentration", "easy")
    ours.reset(seed=3)
    kinds = theirs.reset(seed=3)[0] * 0 + theirs.state
    black, red = np.flatnonzero(kinds == 0), np.flatnonzero(kinds == 1)
    # a card that is up already, then a card twice, then all pairs
    places = [black[0], black[1], black[0], red[0], black[1], red[2], red[2], *red, *black[2:]]
    steps = [(ours.step(place), theirs.step(place)) for place in places]
    for our_step, their_step in steps:
        np.testing.assert_array_equal(our_step[0], their_step[0])
        assert our_step[1] == pytest.approx(their_step[1], rel=1e-6)
        assert our_step[2:4] == their_step[2:4]
    assert [step[2] for step, _ in steps] == [False] * (len(steps) - 1) + [True]
    assert steps[-1][0][4] == {"is_success": True}


def at_random(physics, generator):
    return int(generator.integers(2))


def balance(physics, generator):
    """A controller that keeps the pole up for as long as any episode lasts."""
    position, velocity, angle, angular_velocity = physics
    return int(angle + 0.5 * angular_velocity + 0.05 * position + 0.1 * velocity > 0)


@pytest.mark.parametrize("policy", [at_random, balance])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", CART_POLES)
def test_cart_poles_are_the_same_up_to_rounding(name, level, policy):
    ours, theirs = pair(name, level)
    generator = np.random.default_rng(0)
    for seed in range(2):
        our_first, _ = ours.reset(seed=seed)
        their_first, _ = theirs.reset(seed=seed)
        np.testing.assert_allclose(our_first, their_first, rtol=0, atol=1e-6)
        last = False
        while not last:
            action = policy(theirs.state, generator)
            our_step, their_step = ours.step(action), theirs.step(action)
            np.testing.assert_allclose(our_step[0], their_step[0], rtol=0, atol=1e-5)
            assert our_step[1] == pytest.approx(their_step[1], rel=1e-6)
            assert our_step[2:4] == their_step[2:4]
            last = our_step[2] or our_step[3]
        assert our_step[3] == (policy is balance)
        assert our_step[4]["is_success"] == (policy is balance)


def test_a_fall_at_the_last_moment_both_terminates_and_truncates():
    falls_after = 0
    ours = make_env("StatelessCartPole")
    ours.reset(seed=0)
    terminated = False
    while not terminated:
        terminated = ours.step(0)[2]
        falls_after += 1
    ours = make_env("StatelessCartPole", max_steps=falls_after)
    theirs = popgym.PositionOnlyCartPole(max_episode_length=falls_after)
    for env in (theirs, ours):
        env.reset(seed=0)
        steps = [env.step(0) for _ in range(falls_after)]
        assert steps[-1][2:4] == (True, True)
        assert steps[-2][2:4] == (False, False)
    assert steps[-1][4] == {"is_success": False}
