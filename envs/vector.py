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
from gymnasium.vector import AutoresetMode
from gymnasium.vector import VectorEnv as GymnasiumVectorEnv
from jaxtyping import Bool, Float32
from numpy.typing import NDArray
from typing_extensions import override

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
    """

    observation: ArrayTree
    reward: Float32[np.ndarray, " N"]
    terminated: Bool[np.ndarray, " N"]
    truncated: Bool[np.ndarray, " N"]
    final_observation: ArrayTree | None
    success: Bool[np.ndarray, " N"] | None = None
    faults: Mapping[int, str] = MappingProxyType({})


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


def from_gymnasium(envs: GymnasiumVectorEnv[Any, Any, Any]) -> VectorEnv:
    """Any Gymnasium vector environment in SAME_STEP mode, under our contract.

    Raises:
        EnvConfigError: If it resets in another mode, or has spaces that policies cannot use.
    """
    name = str(envs)
    # The instance's attribute comes first: AtariVectorEnv writes the mode of its latest instance
    # into a dictionary that all instances share.
    declared = envs.metadata.get("autoreset_mode")
    mode = getattr(envs.unwrapped, "autoreset_mode", declared)
    if mode != AutoresetMode.SAME_STEP:
        raise EnvConfigError(
            f"{name}: auto-reset mode is {mode!r}; build it with "
            "autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP"
        )
    check_spaces(envs.single_observation_space, envs.single_action_space, name)
    return _FromGymnasium(envs)


@runtime_checkable
class _Restorable(Protocol):
    """A vector environment with a state, which Gymnasium's interface does not include."""

    def state(self) -> dict[str, NDArray[Any]]: ...

    def restore(self, state: Mapping[str, NDArray[Any]]) -> Any: ...


class _FromGymnasium(VectorEnv):
    def __init__(self, envs: GymnasiumVectorEnv[Any, Any, Any]) -> None:
        self.envs = envs
        self.num_envs = envs.num_envs
        self.observation_space = envs.single_observation_space
        self.action_space = envs.single_action_space
        self.render_fps = float(envs.metadata.get("render_fps") or DEFAULT_FPS)

    @override
    def reset(self, seed: int | None = None) -> ArrayTree:
        observation, _ = self.envs.reset(seed=seed)
        return map_arrays(np.array, observation)

    @override
    def step(self, action: NDArray[Any]) -> EnvStep:
        action = np.asarray(action, self.action_space.dtype)
        observation, reward, terminated, truncated, info = self.envs.step(action)
        # copies, as many vector environments reuse one buffer
        observation = map_arrays(np.array, observation)
        terminated = np.array(terminated, np.bool_)
        truncated = np.array(truncated, np.bool_)
        ended = terminated | truncated
        return EnvStep(
            observation,
            np.array(reward, np.float32),
            terminated,
            truncated,
            _final_observation(observation, ended, info) if ended.any() else None,
            _success(info) if ended.any() else None,
        )

    @override
    def render(self) -> NDArray[np.uint8] | None:
        if self.envs.render_mode != "rgb_array":
            return None
        # rendering all to show the first would be a waste
        in_process = getattr(self.envs.unwrapped, "envs", None)
        frame = in_process[0].render() if in_process else (self.envs.render() or (None,))[0]
        return None if frame is None else np.array(frame, np.uint8)

    @override
    def state(self) -> dict[str, NDArray[Any]] | None:
        if not isinstance(self.envs, _Restorable):
            return None
        return {**self.envs.state(), "exact": np.ones(self.num_envs, np.bool_)}

    @override
    def restore(self, state: Mapping[str, NDArray[Any]]) -> Restored:
        restore = getattr(self.envs, "restore", None)
        if self.state() is None or restore is None:
            raise ValueError(f"{type(self.envs).__name__} cannot be restored")
        observation = restore(state)
        return Restored(np.zeros(self.num_envs, np.bool_), map_arrays(np.array, observation))

    @override
    def close(self) -> None:
        self.envs.close()


def _final_observation(
    observation: ArrayTree, ended: Bool[np.ndarray, " N"], info: Mapping[str, Any]
) -> ArrayTree:
    """The last observations of the episodes that ended, nested as ``observation`` is.

    Gymnasium's own vector environments give an object array of single observations, others a
    batch with stale rows where nothing ended.
    """
    given = info["final_obs"]
    final = map_arrays(np.copy, observation)
    if isinstance(given, np.ndarray) and given.dtype == np.object_:
        for row in np.flatnonzero(ended).tolist():
            replace_row(final, row, given[row])
        return final

    def select(leaf: NDArray[Any], given_leaf: NDArray[Any]) -> NDArray[Any]:
        leaf[ended] = given_leaf[ended]
        return leaf

    return map_arrays(select, final, given)


def _success(info: Mapping[str, Any]) -> Bool[np.ndarray, " N"] | None:
    for source in (info.get("final_info", {}), info):
        for key in ("is_success", "success"):
            if key in source:
                return np.array(source[key], np.bool_) & source.get(f"_{key}", True)
    return None
