"""Play environments with random actions and look at all that they return."""

import warnings
from collections import deque
from collections.abc import Mapping
from copy import deepcopy
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.check.strict_wrapper import (
    Complaints,
    StrictWrapper,
    check_declared_spaces,
    check_member,
    differ,
    is_finite,
)
from envs.check.trajectory import Record, allowed, random_actions
from envs.vector import ArrayTree, EnvStep, VectorEnv, leaves, take_row
from envs.workers.in_process import OneByOne
from envs.wrappers import MASK

# fewer would show little where episodes are short
LEAST_STEPS = 100
# returned arrays are compared with their copies again after this many steps
KEPT_STEPS = 32
# the end of messages of `in_process` about infinite numbers and NaN
NOT_FINITE = "not finite"

# returned arrays, each with a copy made when it was returned
Copies: TypeAlias = list[tuple[NDArray[Any], NDArray[Any]]]


class Trajectory(NamedTuple):
    """Environments that were played, the recording of their answers, and the actions."""

    envs: VectorEnv
    record: Record
    actions: NDArray[Any]


def play_randomly(
    envs: VectorEnv, seed: int, episodes: int, steps: int, found: Complaints
) -> Trajectory:
    """Play until ``episodes`` have ended in each environment, or for ``steps`` if that is less.

    Single environments are watched beneath our layers.
    """
    if isinstance(envs, OneByOne):
        envs.envs[:] = [StrictWrapper(env, found) for env in envs.envs]
    check_declared_spaces(envs.observation_space, envs.action_space, found)
    space = deepcopy(envs.action_space)
    space.seed(seed)
    observation = _reset(envs, seed, found)
    record, actions = Record(observation), list[NDArray[Any]]()
    kept: deque[Copies] = deque([_copies(observation)])
    last_final: Copies = []
    ended = np.zeros(envs.num_envs, np.int64)
    while len(actions) < steps:
        if len(actions) >= LEAST_STEPS and ended.min() >= episodes:
            break
        action = random_actions(space, observation, envs.num_envs)
        actions.append(action.copy())
        step = envs.step(action)
        if not np.array_equal(action, actions[-1]):
            found.add("arrays", f"step {len(actions)} changed the actions that it was given")
        _look(envs, step, f"step {len(actions)}", found)
        record.add(step)
        observation = step.observation
        ended += step.terminated | step.truncated
        kept.append(_copies(step[:4]))
        if len(kept) > KEPT_STEPS:
            _look_again(kept.popleft(), found)
        if step.final_observation is not None:
            # kept until the next episode ends, which may be much later
            _look_again(last_final, found)
            last_final = _copies(step.final_observation)
    for copies in [*kept, last_final]:
        _look_again(copies, found)
    _tell_success(record, found)
    return Trajectory(envs, record, np.array(actions))


def _reset(envs: VectorEnv, seed: int, found: Complaints) -> ArrayTree:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        observation = envs.reset(seed)
    for warning in caught:
        if issubclass(warning.category, RuntimeWarning):
            _fault(str(warning.message), found)
    _look_at(envs, observation, "the first observation", found)
    return observation


def _fault(message: str, found: Complaints) -> None:
    found.add("finite" if message.endswith(NOT_FINITE) else "runs", message)


def _look(envs: VectorEnv, step: EnvStep, where: str, found: Complaints) -> None:
    for message in step.faults.values():
        _fault(message, found)
    for name, dtype in (("reward", np.float32), ("terminated", np.bool_), ("truncated", np.bool_)):
        array = getattr(step, name)
        if array.dtype != dtype or array.shape != (envs.num_envs,):
            what = f"{array.dtype}{list(array.shape)}"
            found.add("types", f"{name} of {where} is {what}; it should be {np.dtype(dtype)}")
    if not is_finite(step.reward):
        found.add("finite", f"the reward of {where} is {step.reward}, which is {NOT_FINITE}")
    _look_at(envs, step.observation, f"the observation of {where}", found)
    for row in np.flatnonzero(step.terminated | step.truncated).tolist():
        if step.final_observation is None:
            found.add("ends", f"{where} ended an episode and has no final observation")
        else:
            final = take_row(step.final_observation, row)
            _look_at_row(envs, final, f"the final observation of {where}", found)


def _look_at(envs: VectorEnv, observation: ArrayTree, where: str, found: Complaints) -> None:
    for row in range(envs.num_envs):
        _look_at_row(envs, take_row(observation, row), where, found)


def _look_at_row(envs: VectorEnv, observation: Any, where: str, found: Complaints) -> None:
    # the strict wrapper saw those of single environments, before types were converted
    if not isinstance(envs, OneByOne):
        if not is_finite(observation):
            found.add("finite", f"{where} is {NOT_FINITE}")
        check_member(envs.observation_space, observation, where, found)
    space = envs.action_space
    discrete = isinstance(space, spaces.Discrete | spaces.MultiDiscrete)
    if discrete and isinstance(observation, Mapping) and MASK in observation:
        found.add("mask", "", "ok")
        if not all(part.any() for part in allowed(space, observation[MASK])):
            found.add("mask", f"the mask of {where} allows nothing")


def _copies(tree: ArrayTree) -> Copies:
    return [(leaf, np.array(leaf)) for leaf in leaves(tree)]


def _look_again(copies: Copies, found: Complaints) -> None:
    if any(differ(array, copy) for array, copy in copies):
        found.add("arrays", "what one step returned was changed by a later one")


def _tell_success(record: Record, found: Complaints) -> None:
    told = record.column("success")[1:][record.ended()]
    if (told >= 0).any():
        found.add("success", f"told where episodes end: {told.clip(0).sum()} of {len(told)}", "ok")
    elif len(told):
        found.add("success", "the environment does not tell whether an episode succeeded", "ok")
