"""Pictures of our own tasks: they show what happens, and drawing them changes nothing."""

import copy
from functools import partial
from itertools import pairwise

import gymnasium
import numpy as np
import pytest

from envs import GymnasiumConfig, make_envs
from envs.tasks import TASKS, make_env, make_vector_env, register
from envs.tasks.drawing.canvas import CLOCK_Y, GREEN, PAPER, RED

# Short enough that the bar of time moves with every step.
PARAMETERS = {
    "CountRecall": {"level": "medium"},
    "NoisyStatelessCartPole": {"max_steps": 25},
    "StatelessCartPole": {"max_steps": 25},
    "TMaze": {"corridor_length": 12, "time_limit": 25},
}
WITHOUT_LEVELS = ("EndlessTMaze", "GraphMetaRL", "TMaze")
EVERY_LEVEL = [
    *((name, {"level": level}) for name in TASKS if name not in WITHOUT_LEVELS
      for level in ("easy", "medium", "hard")),
    ("CountRecall", {"kind": "colors"}),
    ("ColorCubes", {"grid_size": 8, "num_cubes": 8}),
    ("EndlessTMaze", {"lengths": "uniform"}),
    ("EndlessTMaze", {"corridor_length": 1, "num_corridors": 100}),
    ("GraphMetaRL", {"split": "fresh"}),
    ("TMaze", {"variant": "bakker", "corridor_length": 2}),
    ("TMaze", {"corridor_length": 1000}),
]  # fmt: skip

# the other one ends most episodes
NUM_ACTIONS = {"ColorCubes": 4}

every_task = pytest.mark.parametrize("name", TASKS)


def drawing_env(name, **parameters):
    return make_env(name, render_mode="rgb_array", **PARAMETERS.get(name, {}) | parameters)


def pictures(env, actions, seed=0):
    """Those of one episode at most, from reset on."""
    env.reset(seed=seed)
    yield env.render()
    for action in actions:
        _, _, terminated, truncated, _ = env.step(action)
        yield env.render()
        if terminated or truncated:
            return


def has(picture, color):
    return bool((picture == color).all(axis=-1).any())


@every_task
def test_every_step_makes_another_picture_of_the_same_size(name):
    env = drawing_env(name)
    generator = np.random.default_rng(0)
    num_actions = NUM_ACTIONS.get(name, env.action_space.n)
    drawn = list(pictures(env, generator.integers(num_actions, size=300)))
    assert len(drawn) > 10
    for picture in drawn:
        assert picture.dtype == np.uint8
        assert picture.shape == (240, 320, 3)
    for before, after in pairwise(drawn):
        assert (before != after).any()
        # pictures are handed out for good
        assert not np.shares_memory(before, after)


@every_task
def test_a_picture_shows_what_was_seen_and_what_the_agent_did(name):
    env = drawing_env(name)
    # some begin with nothing to see
    openings = {list(pictures(env, [0], seed))[-1].tobytes() for seed in range(8)}
    assert len(openings) > 1
    # not all actions do something everywhere, and a push is seen a step later
    held = [list(pictures(env, [action] * 3)) for action in range(env.action_space.n)]
    assert len({drawn[-1].tobytes() for drawn in held}) > 1
    again = drawing_env(name)
    np.testing.assert_array_equal(list(pictures(env, [1, 0])), list(pictures(again, [1, 0])))


@pytest.mark.parametrize(("name", "parameters"), EVERY_LEVEL)
def test_nothing_is_cut_off_at_the_sides(name, parameters):
    env = drawing_env(name, **parameters)
    for picture in pictures(env, [3 % env.action_space.n] * 8):
        assert (picture[:, :6] == PAPER).all()
        assert (picture[:, -6:] == PAPER).all()


@every_task
def test_drawing_changes_nothing(name):
    parameters = PARAMETERS.get(name, {})
    drawing = make_vector_env(name, 2, render_mode="rgb_array", **parameters)
    silent = make_vector_env(name, 2, **parameters)
    generator = np.random.default_rng(0)
    np.testing.assert_array_equal(drawing.reset(seed=0)[0], silent.reset(seed=0)[0])
    for _ in range(60):
        action = generator.integers(silent.single_action_space.n, size=2)
        before = copy.deepcopy(vars(drawing.task))
        drawing.render()
        np.testing.assert_equal(vars(drawing.task), before)
        ours, theirs = drawing.step(action), silent.step(action)
        for one, other in zip(ours[:4], theirs[:4], strict=True):
            np.testing.assert_array_equal(one, other)
    assert silent.render() is None


@every_task
def test_a_batch_draws_each_of_its_environments(name):
    envs = make_vector_env(name, 2, render_mode="rgb_array", **PARAMETERS.get(name, {}))
    envs.reset(seed=4)
    singles = [pictures(drawing_env(name), [0, 1], seed) for seed in (4, 5)]
    for action in (None, 0, 1):
        if action is not None:
            envs.step(np.array([action, action]))
        drawn = envs.render()
        assert isinstance(drawn, tuple)
        np.testing.assert_array_equal(drawn, [next(single) for single in singles])


@pytest.mark.parametrize("keys", [{}, {"max_episode_steps": 9}, {"workers": 1}], ids=str)
def test_environments_built_to_render_show_slot_zero(keys):
    config = GymnasiumConfig(id="fwrl/RepeatFirst-v0", **keys)
    envs = make_envs(config, 2, render=True)
    envs.reset(seed=3)
    envs.step(np.array([1, 2]))
    expected = list(pictures(make_env("RepeatFirst", render_mode="rgb_array"), [1], seed=3))[-1]
    np.testing.assert_array_equal(envs.render(), expected)
    envs.close()
    without = make_envs(config, 2)
    without.reset(seed=3)
    assert without.render() is None
    without.close()


def test_right_is_green_and_wrong_is_red():
    env = drawing_env("KeyValueRecall", num_keys=1, num_rewrites=0, num_queries=1)
    (_, value), _ = env.reset(seed=0)
    env.step(0)
    assert not has(env.render(), GREEN)
    assert not has(env.render(), RED)
    for answer, seen, unseen in ((value, GREEN, RED), ((value + 1) % 4, RED, GREEN)):
        *_, last = pictures(env, [0, answer])
        assert has(last, seen)
        assert not has(last, unseen)


def test_the_arm_that_the_agent_turned_into_is_right_or_wrong():
    env = drawing_env("TMaze")
    for seed in range(4):
        cue = 0 if tuple(env.reset(seed=seed)[0][:2]) == (0, 1) else 1
        walk = [3] * 11
        *_, before, right = pictures(env, [*walk, cue], seed)
        *_, wrong = pictures(env, [*walk, 1 - cue], seed)
        assert not has(before, GREEN)
        assert has(right, GREEN)
        assert not has(right, RED)
        assert has(wrong, RED)
        assert not has(wrong, GREEN)
        halves = [side[:, 200:] for side in (right[:116], right[116:])]
        assert has(halves[cue], GREEN)
        assert not has(next(pictures(env, [], seed)), RED), "the turn of the episode before"


def test_a_step_on_the_graph_moves_the_agent_in_the_picture():
    env = drawing_env("GraphMetaRL")
    num_steps = 0
    for seed in range(4):
        seen, _ = env.reset(seed=seed)
        for action in (0, 1, 2) * 3:
            before, seen_before = env.render(), seen
            seen, reward, *_ = env.step(action)
            # nothing but the place is another one now
            if reward == 0 and (seen[:5] == seen_before[:5]).all() and not has(before, RED):
                num_steps += 1
                assert (before != env.render())[:CLOCK_Y].any()
    assert num_steps > 3


def test_a_fallen_pole_is_red():
    upright, *_, fallen = pictures(make_env("StatelessCartPole", "rgb_array"), [1] * 50)
    assert not has(upright, RED)
    assert has(fallen, RED)


def test_gymnasium_asks_for_pictures_as_usual():
    register()
    env = gymnasium.make("fwrl/TMaze-v0", render_mode="rgb_array")
    env.reset(seed=0)
    assert env.render().shape == (240, 320, 3)
    assert env.metadata["render_fps"] == 8
    envs = gymnasium.make_vec("fwrl/TMaze-v0", 2, render_mode="rgb_array")
    envs.reset(seed=0)
    np.testing.assert_array_equal(envs.render()[0], env.render())
    assert envs.metadata["render_fps"] == 8


@pytest.mark.parametrize("make", [make_env, partial(make_vector_env, num_envs=2)])
def test_other_render_modes_are_refused(make):
    with pytest.raises(ValueError, match="render_mode is 'human'; it should be 'rgb_array' or"):
        make("TMaze", render_mode="human")
