"""Recordings of episodes: what is kept of them, what a snapshot costs, and how long it is valid."""

import tracemalloc

import gymnasium
import numpy as np
import pytest
from failing_gymnasium_env import registered_envs
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from restored_envs import assert_same_trees, sample_actions

from envs import AtariConfig, GymnasiumConfig, make_envs
from envs.workers import replay
from envs.workers.replay import EpisodeLog

BOX = spaces.Box(-1, 1, (2,), np.float32)
# bytes that the snapshot of a few slots may take, however long their episodes are
LITTLE = 20_000


class Plain:
    """A log that keeps lists."""

    def __init__(self, slots, longest):
        self.longest, self.lists = longest, [[] for _ in range(slots)]

    def state(self):
        exact = [len(each) <= self.longest for each in self.lists]
        kept = [each if fine else [] for each, fine in zip(self.lists, exact, strict=True)]
        rows = [row for each in kept for row in each]
        return {
            "exact": np.array(exact),
            "length": np.array([len(each) for each in kept]),
            "actions": np.array(rows, np.float32).reshape(-1, 2),
        }


def assert_holds(state, expected):
    for name, array in expected.items():
        assert state[name].dtype == array.dtype
        np.testing.assert_array_equal(state[name], array)


@settings(max_examples=60, deadline=None)
@given(
    slots=st.integers(1, 4),
    rows=st.integers(1, 5),
    longest=st.sampled_from([0, 1, 3, 7, 1000]),
    moves=st.lists(st.sampled_from(["record"] * 6 + ["next", "keep", "load"]), max_size=60),
    seed=st.integers(0, 1000),
)
def test_recordings_against_lists(slots, rows, longest, moves, seed):
    rng, before = np.random.default_rng(seed), replay.ROWS
    replay.ROWS = rows
    try:
        log, plain = EpisodeLog(slots, BOX, longest), Plain(slots, longest)
        log.restart(0)
        kept = []
        for move in moves:
            if move == "record":
                action = rng.normal(size=(slots, 2)).astype(np.float32)
                log.record(action)
                for slot, each in enumerate(plain.lists):
                    each.append(action[slot].copy())
                # whoever gave it may write into it
                action[:] = 9
            elif move == "next":
                ended = np.flatnonzero(rng.random(slots) < 0.5)
                log.next(ended)
                for slot in ended:
                    plain.lists[slot] = []
            elif move == "keep":
                kept.append((log.recording(), log.state(), plain.state(), log.episode.copy()))
            elif longest == 1000:
                other = EpisodeLog(slots, BOX, longest)
                assert other.load(log.state()).all()
                log = other
            assert_holds(log.state(), plain.state())
        for recording, state, expected, episode in kept:
            # nothing that came later has changed it
            assert_same_trees(tuple(recording.state().values()), tuple(state.values()))
            assert_holds(state, expected)
            assert state["episode"].tolist() == episode.tolist()
        # blocks for the longest episode that can be replayed, and the ends of two
        assert len(log._blocks) <= -(-longest // rows) + 2
    finally:
        replay.ROWS = before


def test_what_cannot_be_replayed_is_not_kept():
    log = EpisodeLog(2, spaces.Discrete(2), 2000)
    log.restart(0)
    for _ in range(20_000):
        log.record(np.zeros(2, int))
    assert len(log._blocks) == 1
    log.next(0)
    for _ in range(1500):
        log.record(np.ones(2, int))
    assert log.state()["length"].tolist() == [1500, 0]
    assert len(log._blocks) <= 3


class Long(gymnasium.Env):
    """Never ends; shows the sum of its actions."""

    observation_space = spaces.Box(-1e9, 1e9, (1,), np.float32)
    action_space = spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        self.sum = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.sum += int(action)
        return np.full(1, self.sum, np.float32), 0.0, False, False, {}


@pytest.fixture(autouse=True, scope="module")
def registered():
    gymnasium.register("Long-v0", Long)
    with registered_envs():
        yield
    del gymnasium.registry["Long-v0"]


def memory_of(function):
    """The result of a function, and the bytes that it took."""
    tracemalloc.start()
    result = function()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return result, peak


@pytest.mark.parametrize("workers", [0, 2])
def test_a_snapshot_costs_the_same_however_long_the_episodes_are(workers):
    envs = make_envs(GymnasiumConfig(id="Long-v0", workers=workers), 4)
    envs.reset(0)
    steps = 300 if workers else 20_000
    for number in range(steps):
        envs.step(np.arange(4) % 3 if number % 2 else np.zeros(4, int))
    if workers:
        # the workers are not asked
        asked, envs._send = [], lambda *words: asked.append(words)
    snapshot, taken = memory_of(envs.snapshot)
    assert taken < LITTLE
    if workers:
        assert not asked
        del envs._send
    state, taken = memory_of(envs.state)
    assert taken > 4 * steps * 8
    before = {name: array.copy() for name, array in state.items()}
    for _ in range(50):
        envs.step(np.full(4, 2))
    assert_same_trees(snapshot(), before)
    envs.reset(5)
    envs.step(np.full(4, 1))
    assert_same_trees(snapshot(), before)
    envs.close()


ALL = {
    "one by one": lambda: make_envs(GymnasiumConfig(id="CartPole-v1"), 3),
    "workers": lambda: make_envs(GymnasiumConfig(id="CartPole-v1", workers=2), 3),
    "our own": lambda: make_envs(GymnasiumConfig(id="fwrl/RepeatFirst-v0"), 3),
    "our own in workers": lambda: make_envs(GymnasiumConfig(id="fwrl/TMaze-v0", workers=2), 3),
    "atari": lambda: make_envs(AtariConfig(game="pong", num_threads=1), 2),
}


@pytest.mark.parametrize("kind", ALL)
def test_a_snapshot_is_the_state_of_then(kind):
    envs = ALL[kind]()
    envs.reset(3)
    actions = sample_actions(envs, 90, 0)
    kept = []
    for number, action in enumerate(actions):
        envs.step(action)
        if number % 30 == 10:
            kept.append((envs.snapshot(), envs.state()))
    for snapshot, state in kept:
        again = snapshot()
        assert again.keys() == state.keys()
        assert_same_trees(again, state)
        # each call gives arrays of its own, or ones that nobody writes to
        assert_same_trees(snapshot(), again)
    envs.close()
