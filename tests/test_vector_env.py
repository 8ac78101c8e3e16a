import os
from typing import ClassVar

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

import envs
from envs import EnvConfigError, EnvStep, GymnasiumConfig, VectorEnv, from_gymnasium, make_envs
from envs.gymnasium_env import RESERVED
from envs.workers import in_workers

LENGTH = 5

SPACES = {
    "box": spaces.Box(0, 1e6, (3,), np.float32),
    "image": spaces.Box(0, 255, (2, 4, 4), np.uint8),
    "discrete": spaces.Discrete(1000),
    "multi_discrete": spaces.MultiDiscrete([1000, 7]),
    "multi_binary": spaces.MultiBinary(6),
    "tuple": spaces.Tuple((spaces.Discrete(1000), spaces.Box(0, 1e6, (2,), np.float64))),
    "dict": spaces.Dict(
        {"b": spaces.MultiDiscrete([1000, 3]), "a": spaces.Dict({"c": spaces.Discrete(1000)})}
    ),
}
ACTIONS = {
    "discrete": spaces.Discrete(3),
    "multi_discrete": spaces.MultiDiscrete([3, 4]),
    "multi_binary": spaces.MultiBinary(3),
    "box": spaces.Box(-1, 1, (2,), np.float32),
}


def filled(space, number):
    """A member of the space from which ``number`` can be read."""
    if isinstance(space, spaces.Dict):
        return {key: filled(part, number) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(filled(part, number) for part in space.spaces)
    if isinstance(space, spaces.Discrete):
        return np.int64(number)
    if isinstance(space, spaces.MultiDiscrete):
        return number % space.nvec
    if isinstance(space, spaces.MultiBinary):
        return (number >> np.arange(space.n)).astype(np.int8) & 1
    return np.full(space.shape, number, space.dtype)


class Counting(gymnasium.Env):
    """Counts: episode e at time t shows 10 * e + t, all in the same array.

    Odd episodes are truncated, even ones terminate (successfully), after LENGTH steps and one more
    per seed. The mask forbids action t mod 3.
    """

    metadata: ClassVar = {"render_modes": ["rgb_array"]}

    def __init__(self, observation="box", action="discrete", height=2, render_mode=None):
        self.observation_space = SPACES[observation]
        self.action_space = ACTIONS[action]
        self.render_mode = render_mode
        self.height = height
        self.episode = -1
        self.shown = np.zeros(self.observation_space.shape or (), self.observation_space.dtype)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.seed = seed
        self.episode += 1
        self.time = 0
        return self.show(), self.info()

    def step(self, action):
        assert self.action_space.contains(action), action
        self.time += 1
        last = self.time == LENGTH + self.seed
        even = self.episode % 2 == 0
        info = self.info() | ({"is_success": even} if last else {})
        return self.show(), self.seed + self.time / 10, last and even, last and not even, info

    def show(self):
        number = 10 * self.episode + self.time
        if self.observation_space is SPACES["box"]:
            # a naive environment: one array for ever
            self.shown[:] = number
            return self.shown
        return filled(self.observation_space, number)

    def info(self):
        return {"action_mask": (np.arange(3) != self.time % 3).astype(np.int8)}

    def render(self):
        return np.full((self.height, 3, 3), self.seed, np.uint8)


class Breaking(Counting):
    def step(self, action):
        raise ZeroDivisionError("it broke")


@pytest.fixture(autouse=True, scope="module")
def registered():
    gymnasium.register("Counting-v0", Counting)
    gymnasium.register("Breaking-v0", Breaking)
    yield
    del gymnasium.registry["Counting-v0"], gymnasium.registry["Breaking-v0"]


def counting(num_envs, workers=0, render=False, action_mask=False, **options):
    config = GymnasiumConfig(
        id="Counting-v0", options=options, workers=workers, action_mask=action_mask
    )
    return make_envs(config, num_envs, render=render)


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
    with_three = counting(3, workers)
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
        make([lambda: Counting(name)] * 2, copy=False, autoreset_mode=AutoresetMode.SAME_STEP)
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
    three = counting(3, workers, action=name)
    assert three.action_space == ACTIONS[name]
    three.reset(0)
    # Counting asserts that it contains each action, in its own type
    three.step(np.stack([np.asarray(three.action_space.sample(), float) for _ in range(3)]))
    three.close()


def test_final_observation_survives_an_environment_that_reuses_its_array():
    step = play(counting(2), LENGTH)[-1]
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
    assert type(single.envs).__name__ == "SyncVectorEnv"
    for one, other in zip(play(batched, 130), play(single, 130), strict=True):
        np.testing.assert_array_equal(one.observation, other.observation)
        np.testing.assert_array_equal(one.reward, other.reward)
        np.testing.assert_array_equal(one.terminated, other.terminated)
        if one.terminated.any():
            np.testing.assert_array_equal(one.final_observation, other.final_observation)
            np.testing.assert_array_equal(one.success, other.success)


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
    two = counting(2, observation="discrete", action_mask=True)
    assert two.observation_space == spaces.Dict(
        {"observation": SPACES["discrete"], "action_mask": spaces.MultiBinary(3)}
    )
    np.testing.assert_array_equal(two.reset(0)["action_mask"], [[0, 1, 1]] * 2)
    step = two.step(np.zeros(2, int))
    np.testing.assert_array_equal(step.observation["action_mask"], [[1, 0, 1]] * 2)
    np.testing.assert_array_equal(step.observation["observation"], [1, 1])
    with_key = counting(1, observation="dict", action_mask=True)
    assert set(with_key.reset(0)) == {"a", "b", "action_mask"}


@pytest.mark.parametrize("workers", [0, 2])
def test_render_shows_slot_zero(workers):
    two = counting(2, workers, render=True)
    two.reset(7)
    np.testing.assert_array_equal(two.render(), np.full((2, 3, 3), 7))
    assert two.render().dtype == np.uint8
    two.close()
    without = counting(2)
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
    next_step = SyncVectorEnv([Counting])
    next_step.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
    with pytest.raises(EnvConfigError, match=r"NEXT_STEP.*SAME_STEP"):
        from_gymnasium(next_step)


@pytest.mark.parametrize(
    ("space", "at"),
    [
        (spaces.Text(5), "observation"),
        (spaces.Dict({"a": spaces.Tuple([spaces.Text(5)])}), "observation"),
        (spaces.Tuple([spaces.Discrete(2)]), "action"),
    ],
)
def test_spaces_that_are_no_arrays_are_refused(space, at):
    def make():
        env = Counting()
        setattr(env, f"{at}_space", space)
        return env

    with pytest.raises(EnvConfigError, match=rf"{at}s in .* are not supported") as error:
        from_gymnasium(SyncVectorEnv([make], autoreset_mode=AutoresetMode.SAME_STEP))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"id": "CartPole-v9"}, "no environment 'CartPole-v9'; did you mean 'CartPole-v1'"),
        ({"id": "fwrl/RepeatFrist-v0"}, "did you mean 'fwrl/RepeatFirst-v0'"),
        ({"id": "popgym-RepeatFirst-v0"}, "did you mean 'popgym-RepeatFirst"),
        ({"id": "CartPole-v1", "options": {"gravity": 1}}, "no option 'gravity'.*sutton_barto"),
        ({"id": "Counting-v0", "options": {"hight": 1}}, "no option 'hight'.*height"),
        ({"id": "fwrl/RepeatFirst-v0", "options": {"lvl": 1}}, "no option 'lvl'.*level"),
        ({"id": "fwrl/RepeatFirst-v0", "options": {"level": "x"}}, "level is 'x'"),
        ({"id": "MiniGrid-MemoryS11-v0", "options": {"sise": 1}}, "no option 'sise'.*size"),
        ({"id": "MiniGrid-MemoryS11-v0", "options": {"size": "big"}}, "MiniGrid-MemoryS11-v0 with"),
        ({"id": "Pendulum-v1", "action_mask": True}, "cannot be masked"),
        ({"id": "Breaking-v0", "workers": 2, "options": {"observation": "x"}}, "'x'"),
    ],
)
def test_mistakes_are_one_line_that_says_what_is_right(config, message):
    with pytest.raises(EnvConfigError, match=message) as error:
        make_envs(GymnasiumConfig(**config), 2)
    assert "\n" not in str(error.value)


def test_an_extra_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "popgym", None)
    with pytest.raises(EnvConfigError, match=r"pip install fwrl\[pomdp\]"):
        make_envs(GymnasiumConfig(id="popgym-RepeatFirstEasy-v0"))


def test_ids_that_import_code_are_refused():
    with pytest.raises(ValidationError, match="asks to import code"):
        GymnasiumConfig(id="os:CartPole-v1")


@pytest.mark.parametrize("name", RESERVED)
def test_options_that_gymnasium_keeps_for_itself_are_refused(name):
    with pytest.raises(ValidationError, match="is not an option"):
        GymnasiumConfig(id="CartPole-v1", options={name: 1})


def test_kind_is_gymnasium_unless_said():
    adapter = TypeAdapter(envs.EnvConfig)
    assert adapter.validate_python({"id": "CartPole-v1"}) == GymnasiumConfig(id="CartPole-v1")
    assert adapter.validate_python({"kind": "atari", "game": "pong"}).kind == "atari"
    assert set(envs.ENVS) == {"gymnasium", "atari"}


def test_a_worker_that_fails_says_why():
    two = make_envs(GymnasiumConfig(id="Breaking-v0", workers=2), 2)
    two.reset(0)
    with pytest.raises(RuntimeError, match=r"(?s)worker 0 failed.*it broke"):
        two.step(np.zeros(2, int))


def tell_threads():
    raise EnvConfigError(os.environ["OMP_NUM_THREADS"])


def test_a_worker_has_one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with pytest.raises(EnvConfigError, match=r"^1$"):
        in_workers([tell_threads])
    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_a_worker_that_dies_is_noticed():
    two = counting(2, workers=2)
    two.reset(0)
    two._processes[1].kill()
    two._processes[1].join()
    with pytest.raises(RuntimeError, match="worker 1 failed: its process ended"):
        two.step(np.zeros(2, int))


def test_environment_names_by_family():
    names = envs.env_names()
    assert "fwrl/RepeatFirst-v0" in names["fwrl"]
    assert "pong" in names["atari"]
    assert "CartPole-v1" in names["gymnasium"]
    assert "popgym-RepeatFirstEasy-v0" in names["popgym"]
    assert "MiniGrid-MemoryS11-v0" in names["minigrid"]


def test_success_is_none_where_nobody_says():
    steps = play(make_envs(GymnasiumConfig(id="CartPole-v1"), 2), 60)
    assert any(step.terminated.any() for step in steps)
    assert all(step.success is None for step in steps)
    assert EnvStep._field_defaults == {"success": None}
