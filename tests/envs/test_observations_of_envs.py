"""Observations outside their space, over generated spaces and on every path to the policy."""

import copy

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector.utils import concatenate, create_empty_array
from hypothesis import given, settings
from hypothesis import strategies as st
from restored_envs import assert_same_trees
from stable_baselines3.common.vec_env import DummyVecEnv

from envs import EnvFailure, GymnasiumConfig, from_gymnasium, make_envs
from envs.answers import AnswerError
from envs.observations import Observations
from envs.sb3 import from_sb3
from envs.vector import replace_row, take_row
from envs.workers.replay import episode_seed

INTEGERS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64"]
SHAPES = st.sampled_from([(), (1,), (3,), (2, 2)])


@st.composite
def boxes(draw):
    dtype, shape = draw(st.sampled_from([*INTEGERS, "float32", "float64"])), draw(SHAPES)
    low, high = (-1, 1) if dtype[0] == "f" else (0, 100)
    return spaces.Box(low, high, shape, dtype)


@st.composite
def discretes(draw):
    return spaces.Discrete(draw(st.integers(1, 300)), start=draw(st.integers(-5, 5)))


@st.composite
def multi_discretes(draw):
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    start = draw(st.lists(st.integers(-3, 3), min_size=len(sizes), max_size=len(sizes)))
    return spaces.MultiDiscrete(sizes, start=start, dtype=draw(st.sampled_from(INTEGERS[::2])))


LEAVES = st.one_of(
    boxes(), discretes(), multi_discretes(), st.integers(1, 5).map(spaces.MultiBinary)
)
SPACES = st.recursive(
    LEAVES,
    lambda parts: st.one_of(
        st.dictionaries(st.sampled_from("abcd"), parts, min_size=1, max_size=3).map(spaces.Dict),
        st.lists(parts, min_size=1, max_size=3).map(spaces.Tuple),
    ),
    max_leaves=4,
)


def replaced(tree, path, value):
    """A copy of an observation with another part."""
    if not path:
        return value
    items = dict(tree) if isinstance(tree, dict) else list(tree)
    items[path[0]] = replaced(tree[path[0]], path[1:], value)
    return items if isinstance(tree, dict) else tuple(items)


def wrong_numbers(part, right):
    """Arrays as ``right`` with one number that is not in the part's space."""
    space, kind = part.space, part.dtype.kind
    if kind == "f":
        wrong = [np.nan, np.inf, -np.inf]
    elif isinstance(space, spaces.Box):
        limits = np.iinfo(part.dtype)
        wrong = [limits.max + 1, limits.min - 1] if part.dtype.itemsize < 8 else []
    elif isinstance(space, spaces.MultiBinary):
        wrong = [-1, 2, 256, 257, 2**32]
    else:
        low = int(np.asarray(space.start).flat[-1])
        size = int(space.nvec.flat[-1] if isinstance(space, spaces.MultiDiscrete) else space.n)
        # 2**8 and 2**32 further on, 8 and 32 bits are those of a symbol
        wrong = [low - 1, low + size, low + 2**8 * max(size, 8), low + 2**32]
    for number in wrong:
        array = np.array(right, "float64" if kind == "f" else "int64")
        array[(-1,) * array.ndim] = number
        yield array


def fault_of_stacking(observations, batch):
    """The rows that are found when observations are put into a batch."""
    sound = observations.space.sample()
    room = create_empty_array(observations.space, len(batch), fn=np.zeros)
    try:
        observations.stack(batch, room)
    except Exception:
        for row, one in enumerate(batch):
            try:
                observations.check(one)
            except AnswerError:
                replace_row(room, row, sound)
                yield row
            else:
                replace_row(room, row, one)
    yield from observations.misfits(room)


@settings(max_examples=60, deadline=None)
@given(SPACES, st.data())
def test_a_number_outside_its_space_is_found_wherever_it_is(space, data):
    observations = Observations(space)
    observations.space = space
    sound = [space.sample() for _ in range(3)]
    for one in sound:
        observations.check(one)
    room, expected = (create_empty_array(space, 3, fn=np.zeros) for _ in range(2))
    observations.stack(sound, room)
    assert_same_trees(room, concatenate(space, sound, expected))
    assert not observations.misfits(room)
    part = data.draw(st.sampled_from(observations.parts))
    for wrong in wrong_numbers(part, part_of(sound[1], part.path)):
        bad = replaced(sound[1], part.path, wrong)
        with pytest.raises(AnswerError) as error:
            observations.check(bad)
        assert str(error.value).startswith(f"{part.name}: ")
        assert "\n" not in str(error.value)
        assert list(fault_of_stacking(observations, [sound[0], bad, sound[2]])) == [1]


def part_of(tree, path):
    for key in path:
        tree = tree[key]
    return tree


@settings(max_examples=60, deadline=None)
@given(SPACES, st.data())
def test_numbers_of_another_type_keep_their_values(space, data):
    observations = Observations(space)
    part = data.draw(st.sampled_from(observations.parts))
    sound = space.sample()
    value = part_of(sound, part.path)
    types = ["float64", "float16"] if part.dtype.kind == "f" else ["int64"]
    if part.dtype.kind == "u":
        # as NumPy would have it: no number with a sign becomes one without
        types = ["uint64"]
    for dtype in types:
        other = replaced(sound, part.path, np.asarray(value, dtype))
        observations.check(other)
        room = create_empty_array(space, 2, fn=np.zeros)
        observations.stack([sound, other], room)
        assert not observations.misfits(room)
        one, two = (np.asarray(part_of(take_row(room, row), part.path)) for row in (0, 1))
        assert np.array_equal(one, two) or (dtype == "float16" and np.allclose(one, two, atol=1e-3))


class Leaving(gymnasium.Env):
    """Counts up; ``bad`` is observed after ``every`` observations, of all episodes together."""

    action_space = spaces.Discrete(2)

    def __init__(self, kind="symbol", bad=6, every=37):
        self.observation_space = {
            "symbol": spaces.Discrete(6),
            "symbols": spaces.MultiDiscrete([6, 4]),
            "bits": spaces.MultiBinary(2),
            "bytes": spaces.Box(0, 255, (2,), np.uint8),
        }[kind]
        self.kind, self.bad, self.every, self.count = kind, bad, every, 0

    def show(self):
        self.count += 1
        number = self.bad if self.count % self.every == 0 else self.count % 2
        return number if self.kind == "symbol" else np.array([number, 1])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        shown = self.show()
        return shown.astype(np.uint8) if self.kind == "bytes" else shown, {}

    def step(self, action):
        self.time += 1
        shown = self.show()
        if self.kind == "bytes":
            shown = shown.astype(np.uint16 if shown[0] > 255 else np.uint8)
        return shown, 1.0, self.time >= 10, False, {}


@pytest.fixture(autouse=True, scope="module")
def registered():
    gymnasium.register("Leaving-v0", Leaving)
    yield
    del gymnasium.registry["Leaving-v0"]


LEAVING = [
    ("symbol", 6, "observation: 6, which is not in Discrete(6)"),
    ("symbol", -1, "observation: -1, which is not in Discrete(6)"),
    ("symbols", 6, "observation: 6 at [0], which is not in MultiDiscrete([6 4])"),
    ("symbols", -1, "observation: -1 at [0], which is not in MultiDiscrete([6 4])"),
    ("bits", 256, "observation: 256 is not in MultiBinary(2), whose type is int8"),
    ("bits", 2, "observation: 2 at [0], which is not in MultiBinary(2)"),
    ("bytes", 300, "observation: 300 is not in Box"),
]


# one kind is enough in worker processes, where the same code runs
PLACES = [(0, *each) for each in LEAVING] + [(2, *each) for each in LEAVING if each[0] == "symbol"]


@pytest.mark.parametrize(("workers", "kind", "bad", "what"), PLACES)
def test_the_slot_loses_its_episode(workers, kind, bad, what):
    options = {"kind": kind, "bad": bad}
    envs = make_envs(GymnasiumConfig(id="Leaving-v0", options=options, workers=workers), 2)
    shown, lines = envs.reset(0), []
    for _ in range(100):
        before, step = shown, envs.step(np.zeros(2, int))
        shown = step.observation
        for row, line in step.faults.items():
            assert what in line
            assert step.truncated[row] or "reset: " in line
            if step.truncated[row]:
                assert_same_trees(take_row(step.final_observation, row), take_row(before, row))
            lines.append(line)
    assert len(lines) >= 2
    envs.close()


def test_a_reset_outside_the_space_opens_the_next_episode():
    # ten steps and a reset: each twelfth observation is the first of the second episode
    envs = make_envs(GymnasiumConfig(id="Leaving-v0", options={"every": 12}), 1)
    envs.reset(0)
    steps = [envs.step(np.zeros(1, int)) for _ in range(10)]
    assert "reset: observation: 6, which is not in Discrete(6)" in steps[-1].faults[0]
    assert not steps[-1].truncated[0]
    assert envs.state()["episode"][0] == 2
    assert f"episode seed {episode_seed(0, 1)}, after 0 actions" in steps[-1].faults[0]


# their own buffers would make 0 of 256, before we can see it
@pytest.mark.parametrize(("kind", "bad", "what"), [case for case in LEAVING if case[1] < 256])
# in a step; where the episode ends, as its final observation; in a reset
@pytest.mark.parametrize("every", [5, 11, 12])
@pytest.mark.parametrize("adapter", ["gymnasium", "sb3"])
def test_vector_environments_of_somebody_else_end_in_one_line(adapter, every, kind, bad, what):
    def make():
        return Leaving(kind, bad, every)

    if adapter == "sb3":
        envs = from_sb3(DummyVecEnv([make]))
    else:
        mode = gymnasium.vector.AutoresetMode.SAME_STEP
        envs = from_gymnasium(gymnasium.vector.SyncVectorEnv([make], autoreset_mode=mode))
    with pytest.raises(EnvFailure) as failure:  # noqa: PT012
        envs.reset(0)
        for _ in range(11):
            envs.step(np.zeros(1, int))
    assert "\n" not in str(failure.value)
    assert what in str(failure.value)


class Masked(Leaving):
    observation_space = spaces.Discrete(6)

    def __init__(self, mask=(1, 0), every=4):
        super().__init__()
        self.mask = {
            "fine": np.array([1, 0]),
            "floats": np.array([1.0, 0.0]),
            "booleans": np.array([True, False]),
            "two": np.array([2, 1]),
            "wraps": np.array([256, 1]),
            "fraction": np.array([0.5, 1.0]),
            "long": np.ones(3, np.int8),
            "nothing": None,
        }[mask]

    def step(self, action):
        *answer, _ = super().step(action)
        mask = self.mask if self.time == 4 else np.ones(2, np.int8)
        return *answer, {"action_mask": copy.copy(mask)}

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0], {"action_mask": np.ones(2, np.int8)}


@pytest.mark.parametrize(
    ("mask", "sound"),
    [
        ("fine", True),
        ("floats", True),
        ("booleans", True),
        ("two", False),
        ("wraps", False),
        ("fraction", False),
        ("long", False),
        ("nothing", False),
    ],
)
def test_masks_are_ones_and_zeros(mask, sound):
    gymnasium.register("Masked-v0", Masked)
    config = GymnasiumConfig(id="Masked-v0", options={"mask": mask}, action_mask=True)
    envs = make_envs(config, 1)
    del gymnasium.registry["Masked-v0"]
    envs.reset(0)
    steps = [envs.step(np.zeros(1, int)) for _ in range(6)]
    assert [bool(step.faults) for step in steps] == [False] * 3 + [not sound] + [False] * 2
    if not sound:
        assert "action_mask" in steps[3].faults[0]
