import gymnasium
import numpy as np
import pytest
from counting_gymnasium_env import (
    ACTIONS,
    LENGTH,
    SPACES,
    CountingEnv,
    filled,
    make_counting_envs,
    registered_envs,
)
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from hypothesis import given
from hypothesis import strategies as st

import envs
from envs import EnvConfigError, EnvStep, GymnasiumConfig, VectorEnv, from_gymnasium, make_envs


@pytest.fixture(autouse=True, scope="module")
def registered():
    with registered_envs():
        yield


def sample(envs, rng_space):
    return np.array([rng_space.sample() for _ in range(envs.num_envs)])


def assert_equal_trees(left, right):
    if isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_equal_trees(left[key], right[key])
    elif isinstance(left, tuple):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_equal_trees(one, other)
    else:
        assert np.asarray(left).dtype == np.asarray(right).dtype
        np.testing.assert_array_equal(left, right)


def rows(space, numbers):
    """The batch of what the space shows for these numbers."""
    return envs.map_arrays(
        lambda *leaves: np.stack(leaves), *(filled(space, number) for number in numbers)
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_same_step_reset_and_seeds_slot_by_slot(workers):
    # slot i has seed i and so episodes of LENGTH + i steps
    with_three = make_counting_envs(3, workers)
    assert isinstance(with_three, VectorEnv)
    assert with_three.num_envs == 3
    np.testing.assert_array_equal(with_three.reset(0), np.zeros((3, 3)))
    episode, time = np.zeros(3, int), np.zeros(3, int)
    seeds = np.arange(3)
    for _ in range(4 * LENGTH):
        step = with_three.step(np.zeros(3, int))
        time += 1
        ended = time == LENGTH + seeds
        assert step.reward.dtype == np.float32
        np.testing.assert_allclose(step.reward, seeds + time / 10, rtol=1e-6)
        np.testing.assert_array_equal(step.terminated, ended & (episode % 2 == 0))
        np.testing.assert_array_equal(step.truncated, ended & (episode % 2 == 1))
        if ended.any():
            last = 10 * episode + time
            np.testing.assert_array_equal(step.final_observation[ended, 0], last[ended])
            np.testing.assert_array_equal(step.success[ended], (episode % 2 == 0)[ended])
        else:
            assert step.final_observation is None
            assert step.success is None
        episode += ended
        time *= ~ended
        np.testing.assert_array_equal(step.observation[:, 0], 10 * episode + time)
    with_three.close()
    with_three.close()


@pytest.mark.parametrize(
    ("name", "asynchronous"), [*((name, False) for name in SPACES), ("dict", True), ("tuple", True)]
)
def test_every_observation_space_passes_through(name, asynchronous):
    space = SPACES[name]
    make = AsyncVectorEnv if asynchronous else SyncVectorEnv
    two = from_gymnasium(
        make([lambda: CountingEnv(name)] * 2, copy=False, autoreset_mode=AutoresetMode.SAME_STEP)
    )
    assert two.observation_space == space
    kept = [(two.reset(0), rows(space, [0, 0]))]
    for time in range(1, LENGTH):
        kept += [(two.step(np.zeros(2, int)).observation, rows(space, [time, time]))]
    step = two.step(np.zeros(2, int))
    kept += [(step.observation, rows(space, [10, LENGTH]))]
    if name != "box":
        # this one shows the same array for ever: see the test below
        kept += [(step.final_observation, rows(space, [LENGTH, LENGTH]))]
    step = two.step(np.zeros(2, int))
    kept += [(step.observation, rows(space, [11, 20 - 10]))]
    # nothing that was returned has changed since
    for shown, expected in kept:
        assert_equal_trees(shown, expected)
    two.close()


@pytest.mark.parametrize(
    ("name", "workers"), [*((name, 0) for name in ACTIONS), ("multi_discrete", 2), ("box", 2)]
)
def test_every_action_space_passes_through(name, workers):
    three = make_counting_envs(3, workers, action=name)
    assert three.action_space == ACTIONS[name]
    three.reset(0)
    # Counting asserts that it contains each action, in its own type
    three.step(np.stack([np.asarray(three.action_space.sample(), float) for _ in range(3)]))
    three.close()


def test_final_observation_survives_an_environment_that_reuses_its_array():
    step = play(make_counting_envs(2), LENGTH)[-1]
    np.testing.assert_array_equal(step.final_observation[0], [LENGTH] * 3)
    np.testing.assert_array_equal(step.observation[0], [10] * 3)


def play(vector, num_steps, seed=0):
    space = vector.action_space
    space.seed(0)
    vector.reset(seed)
    return [
        vector.step(np.array([space.sample() for _ in range(vector.num_envs)]))
        for _ in range(num_steps)
    ]


@pytest.mark.parametrize(
    ("env_id", "options"),
    [
        ("CartPole-v1", {}),
        ("fwrl/RepeatFirst-v0", {"level": "easy"}),
        ("MiniGrid-MemoryS11-v0", {"max_steps": 30}),
        ("popgym-RepeatPreviousEasy-v0", {}),
        ("popgym-ConcentrationEasy-v0", {}),
    ],
)
def test_worker_processes_agree_with_this_process(env_id, options):
    config = GymnasiumConfig(id=env_id, options=options, num_envs=5)
    here = make_envs(config)
    there = make_envs(config.model_copy(update={"workers": 2}))
    assert there.num_envs == here.num_envs == 5
    assert there.observation_space == here.observation_space
    assert there.action_space == here.action_space
    assert_equal_trees(here.reset(3), there.reset(3))
    num_ended = 0
    for one, other in zip(play(here, 120, 7), play(there, 120, 7), strict=True):
        ended = one.terminated | one.truncated
        num_ended += ended.sum()
        for name in ("observation", "reward", "terminated", "truncated"):
            assert_equal_trees(getattr(one, name), getattr(other, name))
        assert (one.final_observation is None) == (other.final_observation is None)
        assert (one.success is None) == (other.success is None)
        for row in np.flatnonzero(ended).tolist():
            assert_equal_trees(
                envs.vector.take_row(one.final_observation, row),
                envs.vector.take_row(other.final_observation, row),
            )
            assert one.success is None or one.success[row] == other.success[row]
    assert num_ended >= 5
    here.close()
    there.close()


@given(seed=st.integers(0, 2**32), num_envs=st.integers(1, 4))
def test_slot_i_is_an_environment_alone_with_seed_plus_i(seed, num_envs):
    together = make_envs(GymnasiumConfig(id="CartPole-v1"), num_envs)
    first = together.reset(seed)
    for slot in range(num_envs):
        alone, _ = gymnasium.make("CartPole-v1").reset(seed=seed + slot)
        np.testing.assert_array_equal(first[slot], alone)


@pytest.mark.parametrize("workers", [0, 2])
def test_same_seed_same_episodes_and_none_goes_on(workers):
    config = GymnasiumConfig(id="CartPole-v1", workers=workers)
    three = make_envs(config, 3)
    for one, other in zip(play(three, 60, 5), play(three, 60, 5), strict=True):
        np.testing.assert_array_equal(one.observation, other.observation)
    assert not np.array_equal(three.reset(None), three.reset(None))
    three.close()


def test_our_own_tasks_in_batches_equal_one_by_one():
    config = GymnasiumConfig(id="fwrl/RepeatPrevious-v0", num_envs=3)
    batched = make_envs(config)
    # a limit that never binds brings the single environments
    single = make_envs(config.model_copy(update={"max_episode_steps": 10_000}))
    assert type(batched.envs).__name__ == "TaskVectorEnv"
    assert type(single).__name__ == "OneByOne"
    for one, other in zip(play(batched, 51), play(single, 51), strict=True):
        if not one.terminated.any():
            # the later episodes of single environments have seeds of their own
            np.testing.assert_array_equal(one.observation, other.observation)
        np.testing.assert_array_equal(one.reward, other.reward)
        np.testing.assert_array_equal(one.terminated, other.terminated)
        if one.terminated.any():
            np.testing.assert_array_equal(one.final_observation, other.final_observation)
            np.testing.assert_array_equal(one.success, other.success)
    assert one.terminated.all()


def test_a_short_limit_truncates_on_the_true_last_observation():
    limited = make_envs(GymnasiumConfig(id="CartPole-v1", max_episode_steps=4), 2)
    free = make_envs(GymnasiumConfig(id="CartPole-v1"), 2)
    *before, last = play(limited, 4)
    assert not any(step.truncated.any() for step in before)
    assert last.truncated.all()
    assert not last.terminated.any()
    np.testing.assert_array_equal(last.final_observation, play(free, 4)[-1].observation)
    assert not np.array_equal(last.final_observation, last.observation)


def test_action_masks_become_part_of_the_observation():
    two = make_counting_envs(2, observation="discrete", action_mask=True)
    assert two.observation_space == spaces.Dict(
        {"observation": SPACES["discrete"], "action_mask": spaces.MultiBinary(3)}
    )
    np.testing.assert_array_equal(two.reset(0)["action_mask"], [[0, 1, 1]] * 2)
    step = two.step(np.zeros(2, int))
    np.testing.assert_array_equal(step.observation["action_mask"], [[1, 0, 1]] * 2)
    np.testing.assert_array_equal(step.observation["observation"], [1, 1])
    with_key = make_counting_envs(1, observation="dict", action_mask=True)
    assert set(with_key.reset(0)) == {"a", "b", "action_mask"}


@pytest.mark.parametrize("workers", [0, 2])
def test_some_entries_of_a_vector_are_seen(workers):
    seen = GymnasiumConfig(id="CartPole-v1", workers=workers, observation_indices=[2, 0])
    few, all_of_them = make_envs(seen, 2), make_envs(GymnasiumConfig(id="CartPole-v1"), 2)
    whole = all_of_them.observation_space
    assert few.observation_space == spaces.Box(whole.low[[2, 0]], whole.high[[2, 0]])
    np.testing.assert_array_equal(few.reset(7), all_of_them.reset(7)[:, [2, 0]])
    ended = False
    for _ in range(20):
        ours, theirs = (envs.step(np.ones(2, int)) for envs in (few, all_of_them))
        np.testing.assert_array_equal(ours.observation, theirs.observation[:, [2, 0]])
        if theirs.final_observation is not None:
            ended = True
            last = theirs.final_observation[:, [2, 0]]
            np.testing.assert_array_equal(ours.final_observation, last)
    assert ended


def test_some_entries_of_a_task_in_batches_are_seen():
    task = {"id": "fwrl/NoisyStatelessCartPole-v0"}
    seen = make_envs(GymnasiumConfig(**task, observation_indices=[1]), 2)
    assert seen.observation_space.shape == (1,)
    assert seen.reset(7).shape == (2, 1)


@pytest.mark.parametrize("workers", [0, 2])
def test_render_shows_slot_zero(workers):
    two = make_counting_envs(2, workers, render=True)
    two.reset(7)
    np.testing.assert_array_equal(two.render(), np.full((2, 3, 3), 7))
    assert two.render().dtype == np.uint8
    two.close()
    without = make_counting_envs(2)
    without.reset(7)
    assert without.render() is None


def test_minigrid_missions():
    memory = make_envs(GymnasiumConfig(id="MiniGrid-MemoryS11-v0"), 2)
    image = spaces.Box(0, 255, (7, 7, 3), np.uint8)
    expected = spaces.Dict({"image": image, "direction": spaces.Discrete(4)})
    assert memory.observation_space == expected
    go_to_door = make_envs(GymnasiumConfig(id="MiniGrid-GoToDoor-5x5-v0"), 2)
    missions = [go_to_door.reset(seed)["mission"] for seed in range(6)]
    assert all(go_to_door.observation_space["mission"].contains(m) for m in missions[0])
    assert len({mission.tobytes() for mission in missions}) > 1


def test_autoreset_mode_of_the_instance_decides():
    next_step = SyncVectorEnv([CountingEnv])
    next_step.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
    with pytest.raises(EnvConfigError, match=r"NEXT_STEP.*SAME_STEP"):
        from_gymnasium(next_step)


def test_success_is_none_where_nobody_says():
    steps = play(make_envs(GymnasiumConfig(id="CartPole-v1"), 2), 60)
    assert any(step.terminated.any() for step in steps)
    assert all(step.success is None for step in steps)
    assert EnvStep._field_defaults == {"success": None, "faults": {}, "vacant": None}
