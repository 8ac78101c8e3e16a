"""Environments that go on from a state do what they would have anyway."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from restored_envs import assert_restorable, assert_same_trees, sample_actions

from envs import GymnasiumConfig, from_gymnasium, make_envs
from envs.tasks import TASKS, make_vector_env
from envs.workers.replay import EpisodeLog, episode_seed, fingerprints, join_states, split_state

TASK_OPTIONS = {
    "ColorCubes": {"level": "hard"},
    "EndlessTMaze": {"lengths": "uniform"},
    "TMaze": {"corridor_length": 5, "time_limit": 30},
}


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("cut", [0, 77])
def test_our_own_tasks_continue(name, cut):
    config = GymnasiumConfig(id=f"fwrl/{name}-v0", options=TASK_OPTIONS.get(name, {}), num_envs=3)
    ended = assert_restorable(make_envs(config), [make_envs(config), make_envs(config)], cut)
    assert ended >= 3


@pytest.mark.parametrize("name", TASKS)
def test_all_that_changes_in_a_task_is_in_its_state(name):
    used, fresh = (make_vector_env(name, 2, **TASK_OPTIONS.get(name, {})) for _ in range(2))
    used.reset(seed=5)
    used.action_space.seed(0)
    for _ in range(70):
        used.step(used.action_space.sample())
    fresh.restore(used.state())
    assert vars(used.task).keys() == vars(fresh.task).keys()
    for attribute, value in vars(used.task).items():
        other = vars(fresh.task)[attribute]
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(value, other, err_msg=attribute)
            assert value.dtype == other.dtype
            # a constant, or a row for each environment
            assert not value.flags.writeable or len(value) == 2
            assert not value.flags.writeable or not np.shares_memory(value, other)
        else:
            assert value == other, attribute
    states = [g.bit_generator.state for g in used._generators]
    assert states == [g.bit_generator.state for g in fresh._generators]


SINGLES = {
    "CartPole-v1": {},
    "Pendulum-v1": {"max_episode_steps": 60},
    "Acrobot-v1": {"max_episode_steps": 45},
    "MountainCarContinuous-v0": {"max_episode_steps": 70},
    "FrozenLake-v1": {},
    "Blackjack-v1": {},
    "MiniGrid-MemoryS7-v0": {"max_episode_steps": 40},
    "MiniGrid-GoToDoor-5x5-v0": {"max_episode_steps": 40},
    "MiniGrid-Dynamic-Obstacles-5x5-v0": {},
    "popgym-RepeatPreviousEasy-v0": {},
    "popgym-ConcentrationEasy-v0": {"max_episode_steps": 30},
    "popgym-BattleshipEasy-v0": {"max_episode_steps": 30},
    "popgym-MineSweeperEasy-v0": {},
    "popgym-MultiarmedBanditEasy-v0": {},
    "popgym-NoisyPositionOnlyPendulumEasy-v0": {"max_episode_steps": 50},
    "popgym-HigherLowerEasy-v0": {},
    "fwrl/RepeatFirst-v0": {"max_episode_steps": 40},
}


@pytest.mark.parametrize("env_id", SINGLES)
def test_any_environment_continues_by_playing_again(env_id):
    config = GymnasiumConfig(id=env_id, num_envs=3, **SINGLES[env_id])
    ended = assert_restorable(make_envs(config), [make_envs(config), make_envs(config)], cut=131)
    assert ended >= 3


@pytest.mark.parametrize(
    ("env_id", "limit"), [("MountainCarContinuous-v0", 25), ("fwrl/RepeatFirst-v0", None)]
)
def test_the_state_is_the_same_whatever_the_number_of_workers(env_id, limit):
    config = GymnasiumConfig(id=env_id, num_envs=4, max_episode_steps=limit)
    two, none, three = (
        make_envs(config.model_copy(update={"workers": workers})) for workers in (2, 0, 3)
    )
    assert assert_restorable(two, [none, three], cut=40, num_steps=60) >= 4


def test_an_episode_opens_with_a_seed_of_its_own():
    envs = make_envs(GymnasiumConfig(id="CartPole-v1", max_episode_steps=5), 2)
    envs.reset(8)
    steps = [envs.step(np.zeros(2, int)) for _ in range(15)]
    for slot in range(2):
        for number, step in enumerate(steps[4::5], 1):
            alone = make_envs(GymnasiumConfig(id="CartPole-v1"), 1)
            first = alone.reset(episode_seed(8 + slot, number))
            np.testing.assert_array_equal(step.observation[slot], first[0])
    seeds = {episode_seed(seed, number) for seed in range(50) for number in range(50)}
    assert len(seeds) == 2500
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_too_long_an_episode_begins_anew_and_the_others_go_on():
    config = GymnasiumConfig(id="Acrobot-v1", longest_replay=20, num_envs=2)
    envs, again = make_envs(config), make_envs(config)
    envs.reset(0)
    # slot 1 alone is at the end of an episode after 30 steps, and so opens another
    envs.envs[1]._max_episode_steps = 30
    for action in sample_actions(envs, 35, 0):
        before = envs.step(action).observation
    state = envs.state()
    assert state["exact"].tolist() == [False, True]
    assert state["length"].tolist() == [0, 5]
    anew, shown = again.restore(state)
    assert anew.tolist() == [True, False]
    np.testing.assert_array_equal(shown[1], before[1])
    alone = make_envs(config, 1)
    np.testing.assert_array_equal(shown[0], alone.reset(episode_seed(0, 1))[0])
    assert again.state()["episode"].tolist() == [1, 1]
    # the very first step is not worth remembering either
    never = make_envs(config.model_copy(update={"longest_replay": 0}))
    never.reset(0)
    assert never.state()["exact"].all()
    never.step(np.zeros(2, int))
    assert not never.state()["exact"].any()


def test_an_environment_that_does_not_do_the_same_again_is_noticed():
    config = GymnasiumConfig(id="CartPole-v1", num_envs=2)
    envs, again = make_envs(config), make_envs(config)
    envs.reset(0)
    for _ in range(4):
        envs.step(np.zeros(2, int))
    # one falls slower, so that it looks otherwise; one fell already
    again.envs[0].unwrapped.gravity = 5.0
    again.envs[1]._max_episode_steps = 4
    anew, shown = again.restore(envs.state())
    assert anew.all()
    for slot in range(2):
        first = make_envs(config, 1).reset(episode_seed(slot, 1))
        np.testing.assert_array_equal(shown[slot], first[0])


@pytest.mark.parametrize("env_id", ["CartPole-v1", "fwrl/RepeatFirst-v0"])
def test_a_state_that_does_not_fit_is_one_line(env_id):
    envs = make_envs(GymnasiumConfig(id=env_id), 2)
    envs.reset(0)
    envs.step(np.zeros(2, int))
    state = envs.state()
    for name, array in state.items():
        without = {key: value for key, value in state.items() if key != name}
        longer = {**state, name: np.concatenate([array, array])}
        other = {**state, name: array.astype(np.complex128)}
        for wrong in (without, longer, other):
            if name == "exact" and "generator" in state:
                continue
            with pytest.raises(ValueError, match="state of environments") as error:
                envs.restore(wrong)
            assert "\n" not in str(error.value)
            assert name in str(error.value)
    if env_id == "CartPole-v1":
        never_reset = make_envs(GymnasiumConfig(id=env_id), 2).state()
        with pytest.raises(ValueError, match="were never reset"):
            envs.restore(never_reset)
    three = make_envs(GymnasiumConfig(id=env_id), 3)
    with pytest.raises(ValueError, match="it should be"):
        three.restore(state)


def test_environments_of_others_cannot_say():
    make = [lambda: gymnasium.make("CartPole-v1")]
    foreign = from_gymnasium(SyncVectorEnv(make, autoreset_mode=AutoresetMode.SAME_STEP))
    foreign.reset(0)
    assert foreign.state() is None
    with pytest.raises(ValueError, match="SyncVectorEnv cannot be restored"):
        foreign.restore({})


def test_states_are_split_and_joined():
    box = spaces.Box(-1, 1, (1,), np.float32)
    log = EpisodeLog(5, box, 200)
    log.restart(9)
    rng = np.random.default_rng(0)
    for _ in range(150):
        log.record(rng.normal(size=(5, 1)).astype(np.float32))
        log.next(np.flatnonzero(rng.random(5) < 0.03))
    state = log.state()
    parts = split_state(state, [2, 1, 2])
    assert_same_trees(tuple(join_states(parts).values()), tuple(state.values()))
    for part, slots in zip(parts, ([0, 1], [2], [3, 4]), strict=True):
        alone = EpisodeLog(len(slots), box, 200)
        assert alone.load(part).all()
        for row, slot in enumerate(slots):
            np.testing.assert_array_equal(alone.actions(row), log.actions(slot))
            assert alone.describe(row) == log.describe(slot)
    with pytest.raises(ValueError, match="state of environments"):
        split_state(state, [2, 2])


def test_fingerprints_tell_rows_apart():
    image = np.zeros((4, 3, 3), np.uint8)
    image[1, 2, 2] = 1
    same, other, third, fourth = fingerprints({"image": image, "number": np.array([0, 0, 1, 0])})
    assert same == fourth
    assert len({same, other, third}) == 3
