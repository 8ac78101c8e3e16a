"""Recordings of what environments answer to actions, small enough to keep and compare.

Arrays are kept as hashes. Two recordings of the same actions tell in which step, environment and
part of an answer two instances first differ.
"""

import operator
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, cast

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import concatenate, create_empty_array
from jaxtyping import Int64
from numpy.typing import NDArray
from typing_extensions import override

from envs.answers import read_reset, read_step
from envs.vector import ArrayTree, EnvStep, VectorEnv, leaves, map_arrays, take_row
from envs.workers.replay import fingerprints
from envs.wrappers import MASK

# the columns of a step beside its observations; they are 0 in the row of the first observation
OUTCOME = ("reward", "terminated", "truncated", "success", "fault")


class Difference(NamedTuple):
    """The first place where two recordings differ."""

    step: int
    """Steps taken since the recordings began; 0 is their first observation."""
    row: int
    what: str
    """The name of a column."""

    @override
    def __str__(self) -> str:
        where = f"after {self.step} steps" if self.step else "before the first step"
        return f"{self.what} of environment {self.row}, {where}"


class Record:
    """A recording of the answers of N environments, from their first observation on."""

    def __init__(self, first: ArrayTree) -> None:
        names = leaf_names(first)
        self.columns = [*OUTCOME, *(f"final {name}" for name in names), *names]
        self._num_leaves = len(names)
        shown = _numbers(first)
        nothing = np.zeros((len(shown), len(OUTCOME) + len(names)), np.int64)
        self._times: list[NDArray[np.int64]] = [np.concatenate([nothing, shown], 1)]

    def add(self, step: EnvStep) -> None:
        """Record one step."""
        rows = len(step.reward)
        ended = step.terminated | step.truncated
        final = np.zeros((rows, self._num_leaves), np.int64)
        if step.final_observation is not None:
            pick = operator.itemgetter(ended)
            final[ended] = _numbers(map_arrays(pick, step.final_observation))
        success = np.full(rows, -1)
        if step.success is not None:
            success[ended] = step.success[ended]
        fault = [row in step.faults for row in range(rows)]
        bits = np.asarray(step.reward, np.float32).view(np.int32)
        outcome = np.stack([bits, step.terminated, step.truncated, success, fault], 1)
        self._times.append(np.concatenate([outcome, final, _numbers(step.observation)], 1))

    def numbers(self) -> Int64[np.ndarray, "T N columns"]:
        """The whole recording: the first observation, then every step."""
        return np.stack(self._times)

    def since(self, time: int) -> Int64[np.ndarray, "T N columns"]:
        """The recording as if it had begun after ``time`` steps."""
        numbers = self.numbers()[time:]
        numbers[0, :, : -self._num_leaves] = 0
        return numbers

    def ended(self) -> NDArray[np.bool_]:
        """Whether an episode ended, by step and environment, ``[T N]``."""
        return (self.column("terminated") | self.column("truncated"))[1:] != 0

    def column(self, name: str) -> Int64[np.ndarray, "T N"]:
        """One column over time."""
        return self.numbers()[..., self.columns.index(name)]


def first_difference(
    columns: list[str], one: NDArray[np.int64], other: NDArray[np.int64]
) -> Difference | None:
    """The first difference between two recordings, as far as both go; None if there is none."""
    both = min(len(one), len(other))
    found = np.argwhere(one[:both] != other[:both])
    if not len(found):
        return None
    step, row, column = found[0].tolist()
    return Difference(step, row, columns[column])


def leaf_names(tree: ArrayTree, name: str = "observation") -> list[str]:
    """Names for the arrays of a tree, in the order of ``leaves``."""
    if isinstance(tree, Mapping):
        return [n for key, part in tree.items() for n in leaf_names(part, f"{name}[{key!r}]")]
    if isinstance(tree, tuple):
        return [n for i, part in enumerate(tree) for n in leaf_names(part, f"{name}[{i}]")]
    return [name]


def _numbers(tree: ArrayTree) -> NDArray[np.int64]:
    return np.stack([fingerprints(leaf) for leaf in leaves(tree)], 1)


def play(envs: VectorEnv, first: ArrayTree, actions: NDArray[Any]) -> Record:
    """Record the answers to ``actions`` of environments whose last observation was ``first``."""
    record = Record(first)
    for action in actions:
        record.add(envs.step(action))
    return record


def play_one(
    env: gymnasium.Env[Any, Any], seeds: Iterator[int | None], actions: NDArray[Any]
) -> Record:
    """Record the answers of a Gymnasium environment itself; ``seeds`` has one for each episode."""
    record = Record(_batch_of_one(env, read_reset(env.reset(seed=next(seeds)))))
    for action in actions:
        shown, reward, terminated, truncated, info = read_step(env.step(action))
        final, success = None, None
        if terminated or truncated:
            final = _batch_of_one(env, shown)
            said = info.get("is_success", info.get("success"))
            success = None if said is None else np.array([said], np.bool_)
            shown = read_reset(env.reset(seed=next(seeds)))
        flags = np.array([[terminated], [truncated]], np.bool_)
        outcome = (np.array([reward], np.float32), flags[0], flags[1], final, success)
        record.add(EnvStep(_batch_of_one(env, shown), *outcome))
    return record


def _batch_of_one(env: gymnasium.Env[Any, Any], observation: Any) -> Any:
    space = env.observation_space
    room: Any = create_empty_array(space, 1, fn=np.zeros)
    return concatenate(space, [observation], room)


def random_actions(space: spaces.Space[Any], observation: ArrayTree, num_envs: int) -> NDArray[Any]:
    """A random action for each environment, among those that the observation's mask allows."""
    mask = observation.get(MASK) if isinstance(observation, Mapping) else None
    drawn: list[Any] = []
    for row in range(num_envs):
        if mask is None or not isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
            drawn.append(space.sample())
        else:
            parts = allowed(space, take_row(mask, row))
            several = isinstance(space, spaces.MultiDiscrete)
            drawn.append(cast(Any, space).sample(parts if several else next(iter(parts))))
    return np.array(drawn, space.dtype)


def allowed(space: spaces.Space[Any], mask: NDArray[np.int8]) -> tuple[NDArray[np.int8], ...]:
    """The mask of each factor of a discrete space."""
    if isinstance(space, spaces.MultiDiscrete):
        return tuple(np.split(mask, np.cumsum(space.nvec.ravel())[:-1]))
    return (mask,)
