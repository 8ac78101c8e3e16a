"""Compares environments restored from a state with an undisturbed one, step by step."""

import numpy as np

from envs.vector import leaves, take_row

# the types that a safetensors file holds
PLAIN = {"bool", "uint8", "int8", "int16", "int32", "int64", "float32", "float64"}


def sample_actions(envs, num_steps, seed):
    envs.action_space.seed(seed)
    shape = (num_steps, envs.num_envs, *envs.action_space.shape)
    drawn = [envs.action_space.sample() for _ in range(num_steps * envs.num_envs)]
    return np.array(drawn, envs.action_space.dtype).reshape(shape)


def assert_same_trees(one, other):
    for mine, theirs in zip(leaves(one), leaves(other), strict=True):
        assert np.asarray(mine).dtype == np.asarray(theirs).dtype
        np.testing.assert_array_equal(mine, theirs)


def assert_same_steps(one, other):
    for name in ("observation", "reward", "terminated", "truncated"):
        assert_same_trees(getattr(one, name), getattr(other, name))
    assert one.faults == other.faults
    assert (one.success is None) == (other.success is None)
    for row in np.flatnonzero(one.terminated | one.truncated).tolist():
        mine, theirs = (take_row(step.final_observation, row) for step in (one, other))
        assert_same_trees(mine, theirs)
        assert one.success is None or one.success[row] == other.success[row]


def assert_restorable(undisturbed, others, cut, num_steps=200, seed=3):
    """Restore ``others`` from the state after ``cut`` steps and compare all further steps.

    The last of ``others`` is used before it is restored. Returns the number of episodes ended.
    """
    play = sample_actions(undisturbed, cut + num_steps, seed)
    observation = undisturbed.reset(seed)
    for action in play[:cut]:
        observation = undisturbed.step(action).observation
    state = undisturbed.state()
    assert state["exact"].all()
    assert {str(array.dtype) for array in state.values()} <= PLAIN
    kept = {name: array.copy() for name, array in state.items()}
    others[-1].reset(seed + 100)
    for action in play[: cut // 2]:
        others[-1].step(action)
    for other in others:
        anew, shown = other.restore(kept)
        assert not anew.any()
        assert_same_trees(shown, observation)
        assert_same_trees(tuple(other.state().values()), tuple(state.values()))
    num_ended = 0
    for action in play[cut:]:
        step = undisturbed.step(action)
        num_ended += (step.terminated | step.truncated).sum()
        for other in others:
            assert_same_steps(step, other.step(action))
    for name, array in state.items():
        np.testing.assert_array_equal(array, kept[name], err_msg="a state is a copy")
    for envs in (undisturbed, *others):
        envs.close()
    return num_ended
