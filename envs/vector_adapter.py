"""Gymnasium's vector environments under our contract."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector import VectorEnv as GymnasiumVectorEnv
from jaxtyping import Bool
from numpy.typing import NDArray
from typing_extensions import override

from envs.answers import SUCCESS
from envs.config import EnvConfigError
from envs.observations import Observations
from envs.vector import (
    DEFAULT_FPS,
    ArrayTree,
    EnvStep,
    Restored,
    VectorEnv,
    check_spaces,
    map_arrays,
    replace_row,
)
from envs.watched import watched


def from_gymnasium(envs: GymnasiumVectorEnv[Any, Any, Any]) -> VectorEnv:
    """Any Gymnasium vector environment in SAME_STEP mode, under our contract.

    What it answers is ``watched``.

    Raises:
        EnvConfigError: If it resets in another mode, or has spaces that policies cannot use.
    """
    return watched(adapted(envs), str(envs))


def adapted(envs: GymnasiumVectorEnv[Any, Any, Any]) -> VectorEnv:
    """The same, for our own tasks: what these answer needs no watching.

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
        self._observations = Observations(self.observation_space)
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
        reward, ended = np.array(reward, np.float32), terminated | truncated
        if not np.count_nonzero(ended):
            return EnvStep(observation, reward, terminated, truncated, None)
        final = _final_observation(self._observations, observation, ended, info)
        return EnvStep(observation, reward, terminated, truncated, final, _success(info))

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
    observations: Observations,
    observation: ArrayTree,
    ended: Bool[np.ndarray, " N"],
    info: Mapping[str, Any],
) -> ArrayTree:
    """The last observations of the episodes that ended, nested as ``observation`` is.

    Gymnasium's own vector environments give an object array of single observations, others a
    batch with stale rows where nothing ended.
    """
    given = info["final_obs"]
    final = map_arrays(np.copy, observation)
    if isinstance(given, np.ndarray) and given.dtype == np.object_:
        for row in np.flatnonzero(ended).tolist():
            observations.check(given[row])
            replace_row(final, row, given[row])
        return final

    def select(leaf: NDArray[Any], given_leaf: NDArray[Any]) -> NDArray[Any]:
        leaf[ended] = given_leaf[ended]
        return leaf

    return map_arrays(select, final, given)


def _success(info: Mapping[str, Any]) -> Bool[np.ndarray, " N"] | None:
    for source in (info.get("final_info", {}), info):
        for key in SUCCESS:
            if key in source:
                return np.array(source[key], np.bool_) & source.get(f"_{key}", True)
    return None
