"""The tasks in which what was remembered goes out of date: endless T-maze and colour cubes."""

import numpy as np
import pytest

from envs.tasks import make_env, make_vector_env
from envs.tasks.color_cubes import RIGHT as EAST
from envs.tasks.color_cubes import TAKE, UP
from envs.tasks.endless_t_maze import FORWARD, LEFT, RIGHT


def turn_as_last_told(task, seen):
    """The oracle of the maze."""
    *cue, _, at_junction = seen[-1]
    cues = [told for *told, _, _ in seen if any(told)]
    assert len(seen) == 1 or not (any(cue) and at_junction)
    return int(cues[-1][RIGHT]) if at_junction else FORWARD


def turn_as_first_told(task, seen):
    return int(seen[0][RIGHT]) if seen[-1][3] else FORWARD


def cells_of(task, seen):
    """Where each cube lies, inferred from all that was shown."""
    known = seen[0][2:]
    for observation in seen[1:]:
        shown = observation[2:]
        if shown[0] == task.grid_size**2:
            continue
        if task._colors_after_teleports:
            known = shown
        else:
            (came,) = set(shown.tolist()) - set(known.tolist())
            known = np.where(np.isin(known, shown), known, came)
    return known


def fetch(task, seen):
    """The oracle of the cubes; it waits for a step where the wanted colour is not shown."""
    targets = [target for _, target, *_ in seen if target != task.num_cubes]
    if seen[-1][1] == task.num_cubes:
        return UP
    return way_to(task, int(seen[-1][0]), int(cells_of(task, seen)[targets[-1]]))


def way_to(task, here, there):
    (row, column), (to_row, to_column) = divmod(here, task.grid_size), divmod(there, task.grid_size)
    if row != to_row:
        return 0 if to_row < row else 1
    return TAKE if column == to_column else 2 if to_column < column else 3


def play(name, policy, seed, **parameters):
    """The return of an episode, its length, and whether it succeeded."""
    env = make_env(name, **parameters)
    seen, rewards, last = [env.reset(seed=seed)[0]], [], False
    while not last:
        observation, reward, terminated, truncated, info = env.step(policy(env.task, seen))
        seen.append(observation)
        rewards.append(reward)
        last = terminated or truncated
    return sum(rewards), len(rewards), info["is_success"]


@pytest.mark.parametrize("lengths", ["fixed", "uniform"])
@pytest.mark.parametrize("num_corridors", [1, 5, 40])
def test_who_replaces_the_cue_walks_all_corridors(lengths, num_corridors):
    for seed in range(3):
        options = {"lengths": lengths, "num_corridors": num_corridors}
        total, length, success = play("EndlessTMaze", turn_as_last_told, seed, **options)
        assert (total, success) == (num_corridors, True)
        assert length == 11 * num_corridors or (lengths == "uniform" and length > num_corridors)


def test_who_keeps_the_first_cue_fails_where_the_second_differs():
    results = [play("EndlessTMaze", turn_as_first_told, seed) for seed in range(40)]
    assert {total for total, *_ in results} >= {0, 1, 2}
    assert np.mean([success for *_, success in results]) < 0.2


def test_a_junction_tells_nothing_and_turning_blindly_returns_zero():
    envs = make_vector_env("EndlessTMaze", 4000, num_corridors=3, corridor_length=2)
    envs.reset(seed=0)
    walking, total = np.ones(4000, dtype=bool), np.zeros(4000)
    looks, success = [], np.zeros(4000, dtype=bool)
    for time in range(9):
        observation, reward, terminated, _, info = envs.step(
            np.full(4000, LEFT if time % 3 == 2 else FORWARD)
        )
        total += reward * walking
        if terminated.any():
            success |= info["is_success"] & walking
        walking &= ~terminated
        if time % 3 == 1:
            looks.append(observation[walking])
    assert not walking.any()
    assert len(np.unique(np.concatenate(looks), axis=0)) == 1
    assert abs(total.mean()) < 4 * total.std() / np.sqrt(4000)
    assert 0.1 < success.mean() < 0.15


def test_the_maze_looks_and_pays_as_described():
    env = make_env("EndlessTMaze", corridor_length=2, num_corridors=2)
    seeds = {tuple(env.reset(seed=seed)[0][:2]): seed for seed in range(20)}
    assert seeds.keys() == {(1, 0), (0, 1)}
    env.reset(seed=seeds[1, 0])
    steps = [env.step(a)[:4] for a in (LEFT, FORWARD, RIGHT, FORWARD, FORWARD, LEFT)]
    looks = [tuple(step[0].tolist()) for step in steps]
    square, junction = (0, 0, 0.5, 0), (0, 0, 1, 1)
    assert looks[:-1] == [(1, 0, 0, 0), square, square, junction, junction]
    assert looks[-1] in ((1, 0, 0, 0), (0, 1, 0, 0))
    np.testing.assert_allclose([step[1] for step in steps], [-0.01, 0, -0.01, 0, -0.01, 1])
    assert not any(step[2] or step[3] for step in steps)
    wrong = RIGHT if looks[-1][0] else LEFT
    *_, last = [env.step(action)[:4] for action in (FORWARD, FORWARD, wrong)]
    assert last[1:] == (-1, True, False)
    env = make_env("EndlessTMaze", corridor_length=2, num_corridors=2, time_limit=2)
    env.reset(seed=0)
    assert [env.step(FORWARD)[2:4] for _ in range(2)] == [(False, False), (False, True)]


def test_uniform_lengths_are_all_drawn_and_seen_at_the_junction_only():
    envs = make_vector_env("EndlessTMaze", 300, lengths="uniform", corridor_length=4)
    envs.reset(seed=0)
    lengths = envs.task._lengths
    assert np.unique(lengths).tolist() == [1, 2, 3, 4]
    assert (lengths[:, 0] != lengths[:, 1]).any()
    observation, *_ = envs.step(np.full(300, FORWARD))
    np.testing.assert_array_equal(observation[:, 3], lengths[:, 0] == 1)
    assert (observation[:, 2] == 0.25).all()


CUBES = [
    {"level": "easy"},
    {"level": "medium"},
    {"level": "hard"},
    {"level": "hard", "grid_size": 5, "num_cubes": 8},
]


@pytest.mark.parametrize("options", CUBES, ids=str)
def test_who_keeps_the_map_up_to_date_takes_all_cubes(options):
    for seed in range(6):
        total, _, success = play("ColorCubes", fetch, seed, **options)
        assert total == pytest.approx(1)
        assert success


def test_who_never_updates_the_map_fails_at_moved_cubes():
    def fetch_as_first_shown(task, seen):
        return fetch(task, [seen[0], *(np.append(seen[-1][:2], seen[0][2:]) for _ in seen[1:])])

    returns = [play("ColorCubes", fetch_as_first_shown, s, level="medium")[0] for s in range(40)]
    assert 0.2 < np.mean(returns) < 0.8


@pytest.mark.parametrize("options", CUBES, ids=str)
def test_colour_and_cell_never_tell_where_the_cube_is(options):
    envs = make_vector_env("ColorCubes", 400, **options)
    task, generator = envs.task, np.random.default_rng(0)
    num_cells = task.grid_size**2
    counts = np.zeros((num_cells, task.num_cubes, 2))
    envs.reset(seed=0)
    for _ in range(200):
        observation, *_ = envs.step(generator.integers(TAKE, size=400))
        here, target, *cells = observation.T
        is_shown = cells[0] != num_cells
        # what is asked for is never shown together with where it lies
        np.testing.assert_array_equal(target == task.num_cubes, is_shown)
        quiet = ~is_shown
        hit = task._cells[task._rows, task._target()] == here
        np.add.at(counts, (here[quiet], target[quiet], hit[quiet].astype(int)), 1)
    best = counts[..., 1] / counts.sum(axis=-1)
    assert best.mean() < 1.1 / num_cells
    assert best.max() < 3 / num_cells


@pytest.mark.parametrize("level", ["medium", "hard"])
def test_one_cube_teleports_at_a_time_and_never_the_wanted_one(level):
    envs = make_vector_env("ColorCubes", 50, level=level, grid_size=4)
    task, generator = envs.task, np.random.default_rng(0)
    first, _ = envs.reset(seed=0)
    np.testing.assert_array_equal(first[:, 2:], task._cells)
    num_teleports = 0
    for _ in range(40):
        before, target = task._cells.copy(), task._target()
        observation, *_ = envs.step(generator.integers(TAKE, size=50))
        is_shown = observation[:, 2] != 16
        moved = before != task._cells
        np.testing.assert_array_equal(moved.sum(axis=1), is_shown)
        assert not moved[np.arange(50), target].any()
        assert all(len(set(cells)) == 3 for cells in task._cells.tolist())
        cells = task._cells if level == "medium" else np.sort(task._cells, axis=1)
        np.testing.assert_array_equal(observation[is_shown, 2:], cells[is_shown])
        num_teleports += is_shown.sum()
    assert 0.07 < num_teleports / 2000 < 0.13


def test_cubes_pay_and_end_as_described():
    env = make_env("ColorCubes", grid_size=2, num_targets=2, num_cubes=2)
    here, none, *cells = env.reset(seed=0)[0]
    assert none == 2
    (_, target, *hidden), *outcome = env.step(UP)
    assert hidden == [4, 4]
    assert outcome == [0, False, False, {}]
    seen = [np.array([here, none, *cells]), np.array([here % 2, target, 4, 4])]
    rewards = []
    for _ in range(6):
        action = fetch(env.task, seen)
        observation, reward, terminated, *_ = env.step(action)
        assert reward == (0.5 if action == TAKE else 0)
        seen.append(observation)
        rewards.append(reward)
        if terminated:
            break
    assert sum(rewards) == 1
    # at walls nothing moves, and taking what is not there ends the episode
    env.reset(seed=0)
    places = [int(env.step(EAST)[0][0]) for _ in range(3)]
    assert places[1:] == [places[0]] * 2
    wrong = places[0] != cells[int(env.step(EAST)[0][1])]
    assert wrong
    assert env.step(TAKE)[1:] == (0, True, False, {"is_success": False})


def test_the_clock_truncates_but_not_the_last_cube():
    env = make_env("ColorCubes", grid_size=2, num_targets=1)
    env.reset(seed=0)
    ends = [env.step(UP)[2:4] for _ in range(8)]
    assert ends == [(False, False)] * 7 + [(False, True)]
    seen = [env.reset(seed=0)[0]]
    seen += [env.step(UP)[0] for _ in range(4)]
    while way_to(env.task, int(seen[-1][0]), int(cells_of(env.task, seen)[seen[-1][1]])) != TAKE:
        seen.append(env.step(fetch(env.task, seen))[0])
    while len(seen) < 8:
        # bump into a wall, where the cube lies at an edge of a grid of four cells
        seen.append(env.step(UP if seen[-1][0] < 2 else 1)[0])
    assert env.step(TAKE)[1:] == (1, True, False, {"is_success": True})
