"""The contract of all environments: N of them stepped together, with same-step auto-reset.

``reset(seed) -> observation`` and ``step(action) -> EnvStep``. Where an episode ends, the returned
observation is the first of the next episode, and ``final_observation`` the last of the one that
ended. Other conventions are translated below this file.
"""

import operator
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, TypeAlias, cast, runtime_checkable

import numpy as np
from gymnasium import spaces
from jaxtyping import Bool, Float32
from numpy.typing import NDArray

from envs.config import EnvConfigError

# An array with leading axis N, or a dictionary or tuple of such.
ArrayTree: TypeAlias = NDArray[Any] | dict[str, Any] | tuple[Any, ...]


# Frames per second for environments that do not declare any.
DEFAULT_FPS = 30.0


class EnvStep(NamedTuple):
    """The answer of N environments to N actions. The arrays belong to the caller.

    Args:
        observation: Where an episode ended, the first one of the next episode.
        reward: Reward of this step, never clipped or scaled.
        terminated: Whether the task ended the episode; the value of what follows is zero.
        truncated: Whether a time limit ended the episode; the task would have gone on.
        final_observation: The last observation of the episodes that ended; only their rows are
            valid. None if none ended.
        success: Whether the task was solved; only the rows of episodes that ended are valid. None
            if the environment does not tell.
        faults: One line on each environment that failed, by row. If its step failed, the row is
            truncated with reward 0, and its final observation is the previous one. If only the
            reset failed at first, the row is as the step left it. Either way an episode opens.
        vacant: Where no agent acted, as it had left before; what ends there is no episode. None if
            every slot had its agent.
    """

    observation: ArrayTree
    reward: Float32[np.ndarray, " N"]
    terminated: Bool[np.ndarray, " N"]
    truncated: Bool[np.ndarray, " N"]
    final_observation: ArrayTree | None
    success: Bool[np.ndarray, " N"] | None = None
    faults: Mapping[int, str] = MappingProxyType({})
    vacant: Bool[np.ndarray, " N"] | None = None


class Restored(NamedTuple):
    """The result of ``VectorEnv.restore``.

    Args:
        anew: Where the episode could not be continued, so that the next one was opened.
        observation: The current observations.
    """

    anew: Bool[np.ndarray, " N"]
    observation: ArrayTree


@runtime_checkable
class VectorEnv(Protocol):
    """N environments of one kind, stepped together. The spaces are those of one of them."""

    num_envs: int
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    render_fps: float
    """Steps per second in a video."""

    def reset(self, seed: int | None = None) -> ArrayTree:
        """The first observation of N new episodes.

        Args:
            seed: Slot i is seeded with ``seed + i``, which determines all its later episodes too.
                None: each slot continues its random numbers.
        """
        ...

    def step(self, action: NDArray[Any]) -> EnvStep:
        """Step every environment; ``action`` has a leading axis N."""
        ...

    def render(self) -> NDArray[np.uint8] | None:
        """A picture of slot 0, ``[H W 3]``; None if it was not built to render."""
        ...

    def state(self) -> dict[str, NDArray[Any]] | None:
        """Copies of all state that determines later answers; None if it is not accessible.

        Called between two steps. The array ``exact`` is False where an episode is too long to be
        continued. The arrays hold booleans, integers and floats of at most 64 bits, and do not
        depend on the number of worker processes.
        """
        ...

    def snapshot(self) -> Callable[[], dict[str, NDArray[Any]] | None]:
        """A function that returns what ``state`` would return now, whenever it is called.

        Unlike a state, a snapshot costs the same however long the episodes are.
        """
        state = self.state()
        return lambda: state

    def restore(self, state: Mapping[str, NDArray[Any]]) -> Restored:
        """Continue from a state of environments that were built from the same configuration.

        Where ``anew`` is False, every later answer is equal bit for bit, over all episodes.

        Raises:
            ValueError: If the arrays do not fit these environments.
        """
        ...

    def close(self) -> None:
        """Free what the environments hold; closing twice is harmless."""
        ...


def map_arrays(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """The nesting of ``tree`` with ``function`` applied to its arrays, and those of the others."""
    if type(tree) is np.ndarray:
        # by far the most frequent
        return function(tree, *others)
    if isinstance(tree, Mapping):
        items = cast(Mapping[str, Any], tree).items()
        return {key: map_arrays(function, v, *(other[key] for other in others)) for key, v in items}
    if isinstance(tree, tuple):
        branches = zip(tree, *others, strict=True)
        return tuple(map_arrays(function, *branch) for branch in branches)
    return function(tree, *others)


def leaves(tree: Any) -> list[Any]:
    """All the arrays of a tree."""
    if isinstance(tree, Mapping | tuple):
        parts = cast(Mapping[str, Any], tree).values() if isinstance(tree, Mapping) else tree
        return [leaf for part in cast(Any, parts) for leaf in leaves(part)]
    return [tree]


def take_row(tree: ArrayTree, row: int) -> Any:
    """One environment's observation in a batch."""
    return map_arrays(operator.itemgetter(row), tree)


def replace_row(tree: ArrayTree, row: int, value: Any) -> None:
    """Write one environment's observation into its row of a batch, in place."""
    if isinstance(tree, Mapping):
        for key, leaf in tree.items():
            replace_row(leaf, row, value[key])
    elif isinstance(tree, tuple):
        for leaf, item in zip(tree, value, strict=True):
            replace_row(leaf, row, item)
    else:
        tree[row] = value


def check_spaces(
    observation_space: spaces.Space[Any], action_space: spaces.Space[Any], name: str
) -> None:
    """Check that policies can read the observations and choose the actions.

    Raises:
        EnvConfigError: For spaces that are not arrays of a fixed shape, such as text and graphs.
    """
    unknown = _first_unknown(observation_space, nested=True)
    if unknown is not None:
        raise EnvConfigError(
            f"{name}: observations in {unknown!r} are not supported; they must be Box, Discrete, "
            "MultiDiscrete, MultiBinary, or Dict and Tuple of them"
        )
    unknown = _first_unknown(action_space, nested=False)
    if unknown is not None:
        raise EnvConfigError(
            f"{name}: actions in {unknown!r} are not supported; they must be Discrete, "
            "MultiDiscrete, MultiBinary or Box"
        )


def _first_unknown(space: spaces.Space[Any], nested: bool) -> spaces.Space[Any] | None:
    children: list[spaces.Space[Any]] | None = None
    if nested and isinstance(space, spaces.Dict):
        children = list(space.spaces.values())
    elif nested and isinstance(space, spaces.Tuple):
        children = list(space.spaces)
    if children is not None:
        unknown = (_first_unknown(child, nested) for child in children)
        return next((child for child in unknown if child is not None), None)
    arrays = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
    return None if isinstance(space, arrays) else space
