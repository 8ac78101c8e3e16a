"""Our own tasks keep one contract, as batches and as single environments."""

from functools import partial

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from envs.tasks import TASKS, make_env, make_vector_env, register

# every task, at settings where three episodes take few steps
CASES = [
    ("Autoencode", {}),
    ("ColorCubes", {}),
    ("ColorCubes", {"level": "medium", "num_targets": 2}),
    ("ColorCubes", {"level": "hard", "grid_size": 2}),
    ("Concentration", {}),
    ("Concentration", {"kind": "ranks"}),
    ("CountRecall", {"level": "medium"}),
    ("CountRecall", {"num_decks": 1, "kind": "ranks"}),
    ("EndlessTMaze", {"corridor_length": 2}),
    ("EndlessTMaze", {"corridor_length": 4, "lengths": "uniform", "time_limit": 25}),
    ("GraphMetaRL", {}),
    ("GraphMetaRL", {"split": "fresh", "published_observation": True}),
    ("HigherLower", {}),
    ("KeyValueRecall", {}),
    ("KeyValueRecall", {"num_keys": 3, "num_values": 2, "num_rewrites": 0, "num_queries": 1}),
    ("NoisyStatelessCartPole", {"level": "hard"}),
    ("RepeatFirst", {}),
    ("RepeatPrevious", {"k": 3}),
    ("StatelessCartPole", {"max_steps": 12}),
    ("TMaze", {"corridor_length": 4, "time_limit": 25}),
    ("TMaze", {"variant": "bakker", "corridor_length": 4, "time_limit": 25}),
]
NUM_ENVS = 4
NUM_STEPS = 330

every_case = pytest.mark.parametrize(("name", "parameters"), CASES)


def leaves(tree):
    return list(tree) if isinstance(tree, tuple) else [tree]


def assert_equal(one, other):
    for left, right in zip(leaves(one), leaves(other), strict=True):
        np.testing.assert_array_equal(left, right, strict=True)


def play(envs, actions, seed=0):
    """All that a vector environment returns, from reset on."""
    observation, info = envs.reset(seed=seed)
    yield observation, None, None, None, info
    for action in actions:
        yield envs.step(action)


def random_actions(envs, seed=0, num_steps=NUM_STEPS):
    generator = np.random.default_rng(seed)
    return generator.integers(envs.single_action_space.n, size=(num_steps, envs.num_envs))


def test_every_task_has_a_case():
    assert {name for name, _ in CASES} == set(TASKS)


@every_case
def test_a_batch_equals_single_environments(name, parameters):
    batch = make_vector_env(name, NUM_ENVS, **parameters)
    make = partial(make_env, name, **parameters)
    singles = SyncVectorEnv([make] * NUM_ENVS, autoreset_mode=AutoresetMode.SAME_STEP)
    assert batch.observation_space == singles.observation_space
    assert batch.action_space == singles.action_space
    actions = random_actions(batch)
    num_episodes = np.zeros(NUM_ENVS)
    for ours, theirs in zip(play(batch, actions), play(singles, actions), strict=True):
        assert_equal(ours[0], theirs[0])
        assert ours[4].keys() - {"is_success", "_is_success"} == theirs[4].keys()
        if ours[1] is None:
            continue
        np.testing.assert_array_equal(ours[1], theirs[1])
        np.testing.assert_array_equal(ours[2], theirs[2])
        np.testing.assert_array_equal(ours[3], theirs[3])
        last = ours[2] | ours[3]
        num_episodes += last
        if last.any():
            assert_final(ours[4], theirs[4], last)
    assert num_episodes.min() >= 3


def assert_final(ours, theirs, last):
    for mask in ("_final_obs", "_final_info"):
        np.testing.assert_array_equal(ours[mask], last)
        np.testing.assert_array_equal(theirs[mask], last)
    for row in np.flatnonzero(last):
        for our_leaf, their_leaf in zip(
            leaves(ours["final_obs"]), leaves(theirs["final_obs"][row]), strict=True
        ):
            np.testing.assert_array_equal(our_leaf[row], their_leaf)
    assert ours["final_info"].keys() == theirs["final_info"].keys()
    for key, values in theirs["final_info"].items():
        np.testing.assert_array_equal(ours["final_info"][key], values)
        np.testing.assert_array_equal(ours[key], values)


@every_case
def test_observations_are_in_their_space_and_nothing_returned_changes_later(name, parameters):
    envs = make_vector_env(name, NUM_ENVS, **parameters)
    kept = []
    for observation, *outcome, info in play(envs, random_actions(envs)):
        assert observation in envs.observation_space
        arrays = leaves(observation) + leaves(info.get("final_obs", ()))
        arrays += [part for part in [*outcome, info.get("is_success")] if part is not None]
        kept += [(array, array.copy()) for array in arrays]
    for array, copy in kept:
        np.testing.assert_array_equal(array, copy)


@every_case
def test_rewards_are_float32_and_flags_are_boolean(name, parameters):
    envs = make_vector_env(name, NUM_ENVS, **parameters)
    envs.reset(seed=0)
    _, reward, terminated, truncated, _ = envs.step(np.zeros(NUM_ENVS, dtype=np.int64))
    assert reward.dtype == np.float32
    assert terminated.dtype == truncated.dtype == np.bool_
    assert reward.shape == terminated.shape == truncated.shape == (NUM_ENVS,)


@every_case
def test_the_seed_decides_everything(name, parameters):
    def run(seed):
        envs = make_vector_env(name, 1, **parameters)
        steps = play(envs, random_actions(envs, num_steps=120), seed)
        return [np.concatenate([leaf.ravel() for leaf in leaves(step[0])]) for step in steps]

    np.testing.assert_array_equal(run(5), run(5))
    assert (np.stack(run(5)) != np.stack(run(6))).any()


@every_case
def test_actions_do_not_change_the_chance_in_later_episodes(name, parameters):
    firsts = []
    for seed in (0, 1):
        envs = make_vector_env(name, 1, **parameters)
        actions = random_actions(envs, seed)
        opening = [step[0] for step in play(envs, actions) if "final_obs" in step[4]]
        assert len(opening) >= 3
        firsts.append(opening[:3])
    for one, other in zip(*firsts, strict=True):
        assert_equal(one, other)


@every_case
def test_a_mask_resets_some_rows(name, parameters):
    envs = make_vector_env(name, 3, **parameters)
    list(play(envs, random_actions(envs, num_steps=2)))
    before = envs.task.observe()
    mask = np.array([False, True, False])
    after, _ = envs.reset(seed=[None, 9, None], options={"reset_mask": mask})
    fresh, _ = make_vector_env(name, 1, **parameters).reset(seed=9)
    for old, new, first in zip(leaves(before), leaves(after), leaves(fresh), strict=True):
        np.testing.assert_array_equal(new[[0, 2]], old[[0, 2]])
        np.testing.assert_array_equal(new[1], first[0])


@every_case
def test_gymnasium_finds_no_fault(name, parameters):
    register()
    env = gymnasium.make(f"fwrl/{name}-v0", **parameters)
    check_env(env.unwrapped)


def test_gymnasium_makes_every_task_with_its_keywords():
    register()
    register()
    env = gymnasium.make("fwrl/RepeatPrevious-v0", level="medium")
    assert env.unwrapped.task.k == 32
    envs = gymnasium.make_vec(
        "fwrl/RepeatPrevious-v0", 6, vectorization_mode="vector_entry_point", level="hard"
    )
    assert envs.num_envs == 6
    assert envs.task.num_decks == 3
    assert envs.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        (
            "RepeatFirst",
            {"level": "eazy"},
            "RepeatFirst: level is 'eazy'; it should be one of easy",
        ),
        ("RepeatFirst", {"num_decks": 0}, "num_decks is 0; it should be at least 1"),
        ("RepeatPrevious", {"k": 52}, "RepeatPrevious: k is 52; it should be between 1 and 51"),
        ("Autoencode", {"num_decks": -1}, "Autoencode: num_decks is -1"),
        ("ColorCubes", {"num_cubes": 9}, "num_cubes is 9; it should be between 2 and 8"),
        ("ColorCubes", {"teleport_probability": 1.5}, "is 1.5; it should be between 0.0 and 1.0"),
        (
            "EndlessTMaze",
            {"lengths": "any"},
            "lengths is 'any'; it should be one of fixed, uniform",
        ),
        ("EndlessTMaze", {"num_corridors": 0}, "num_corridors is 0; it should be at least 1"),
        ("CountRecall", {"kind": "age"}, "CountRecall: kind is 'age'; it should be one of colors"),
        ("Concentration", {"kind": "suits"}, "kind is 'suits'; it should be one of colors, ranks"),
        ("HigherLower", {"num_decks": 0}, "HigherLower: num_decks is 0; it should be at least 1"),
        ("KeyValueRecall", {"num_queries": 5}, "num_queries is 5; it should be between 1 and 4"),
        ("KeyValueRecall", {"num_values": 1}, "num_values is 1; it should be at least 2"),
        ("TMaze", {"variant": "tee"}, "TMaze: variant is 'tee'; it should be one of bakker"),
        ("TMaze", {"corridor_length": 1}, "corridor_length is 1; it should be at least 2"),
        ("GraphMetaRL", {"split": "dev"}, "split is 'dev'; it should be one of train, test, fresh"),
        ("NoisyStatelessCartPole", {"noise": -0.5}, "noise is -0.5; it should be at least 0.0"),
        ("StatelessCartPole", {"max_steps": 0}, "max_steps is 0; it should be at least 1"),
    ],
)
def test_a_wrong_parameter_is_named(name, parameters, message):
    with pytest.raises(ValueError, match=message):
        make_env(name, **parameters)


def test_actions_and_resets_of_the_wrong_size_are_refused():
    envs = make_vector_env("RepeatFirst", 3)
    envs.reset(seed=0)
    with pytest.raises(ValueError, match=r"shape \(3, 1\); it should be \(3,\)"):
        envs.step(np.zeros((3, 1), dtype=np.int64))
    with pytest.raises(ValueError, match="seed has 2 entries; it should have 3"):
        envs.reset(seed=[1, 2])
    with pytest.raises(ValueError, match=r"reset_mask.* has shape \(2,\); it should be \(3,\)"):
        envs.reset(options={"reset_mask": np.ones(2, dtype=bool)})
