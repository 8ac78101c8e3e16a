"""The one contract of all environments: N of them in a row, with same-step auto-reset.

``reset(seed) -> observation`` and ``step(action) -> EnvStep``. Where an episode ends, the returned
observation already opens the next one, and ``final_observation`` is the one it ended on. Nobody
above this file meets another convention.
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


# Of an environment that does not say.
DEFAULT_FPS = 30.0


class EnvStep(NamedTuple):
    """What N environments answer to N actions. The arrays belong to the caller.

    Args:
        observation: Where an episode ended, the first one of the next episode.
        reward: Of this step, never clipped or scaled.
        terminated: The task ended the episode: nothing follows, the value of what follows is zero.
        truncated: The clock ended it: the task would have gone on.
        final_observation: The last observation of the episodes that ended; only their rows are
            valid. None when none ended.
        success: Whether the task was solved; only the rows of episodes that ended mean anything.
            None unless the environment says so.
        faults: What broke, in one line, by row. Where a step broke, the row is truncated, earned
            nothing, and its last observation is the one before; where only the next episode could
            not be opened at once, the row is as the step left it. Either way it opens an episode.
    """

    observation: ArrayTree
    reward: Float32[np.ndarray, " N"]
    terminated: Bool[np.ndarray, " N"]
    truncated: Bool[np.ndarray, " N"]
    final_observation: ArrayTree | None
    success: Bool[np.ndarray, " N"] | None = None
    faults: Mapping[int, str] = MappingProxyType({})


class Restored(NamedTuple):
    """What ``VectorEnv.restore`` came to.

    Args:
        anew: Where the episode could not be continued, so that the next one was opened.
        observation: What all the environments show now.
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
    """Steps that a film should show per second."""

    def reset(self, seed: int | None = None) -> ArrayTree:
        """The first observation of N new episodes.

        Args:
            seed: Slot i is seeded with ``seed + i``, and with it all episodes that follow there.
                None goes on with the random numbers that each slot has.
        """
        ...

    def step(self, action: NDArray[Any]) -> EnvStep:
        """Act once in every environment; ``action`` has a leading axis N."""
        ...

    def render(self) -> NDArray[np.uint8] | None:
        """What slot 0 looks like now, ``[H W 3]``; None if it was not built to render."""
        ...

    def state(self) -> dict[str, NDArray[Any]] | None:
        """Copies of all that the environments will do next depends on; None if they cannot say.

        To be asked for between two steps. ``exact`` is among the arrays: False where an episode is
        too long to be continued. The arrays hold truth values, integers and floats of at most 64
        bits, and do not depend on how many processes the environments are spread over.
        """
        ...

    def restore(self, state: Mapping[str, NDArray[Any]]) -> Restored:
        """Do from now on what the environments would have that ``state`` was asked of.

        These must have been built from the same configuration; they may be new or used. Where
        ``anew`` is False, every later answer is the same, bit for bit, over all episodes.

        Raises:
            ValueError: If the arrays do not fit these environments.
        """
        ...

    def close(self) -> None:
        """Free what the environments hold; closing twice is harmless."""
        ...


def map_arrays(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """The same nesting with ``function`` applied to every array (of all the given trees)."""
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
    """Nothing, if policies can read the observations and make the actions.

    Raises:
        EnvConfigError: For text, graphs and other spaces that are not arrays of one shape.
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
    # An instance's own attribute comes first: AtariVectorEnv writes the mode of the latest instance
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
    """What vector environments of our own can do, though Gymnasium does not ask for it."""

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
        # Many vector environments write into one buffer; what we return is never touched again.
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
        # Rendering all to look at the first would be a waste.
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
    """The observations that episodes ended on, in a tree of the form of ``observation``.

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
