"""Wrappers of single environments: numeric missions, hidden entries, and action masks."""

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import ObservationWrapper, Wrapper, spaces
from numpy.typing import NDArray
from typing_extensions import override

from envs.answers import AnswerError, check_info, shown
from envs.config import EnvConfigError

# the key of the action mask in an observation or info
MASK = "action_mask"
# no mission of MiniGrid has as many words
MISSION_WORDS = 24


def with_numeric_mission(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    """The environment with MiniGrid's mission, a sentence, as numbers; other ones unchanged.

    A constant mission is left out; one that differs between episodes becomes the indices of its
    words in MiniGrid's vocabulary, padded with 0.
    """
    space = env.observation_space
    mission = space.get("mission") if isinstance(space, spaces.Dict) else None
    if not hasattr(mission, "mission_func"):
        return env
    if getattr(mission, "ordered_placeholders", None) is None:
        return WithoutMission(env)
    # imported here as minigrid is optional
    from minigrid.wrappers import DictObservationSpaceWrapper  # noqa: PLC0415

    return DictObservationSpaceWrapper(env, max_words_in_mission=MISSION_WORDS)


class WithoutMission(ObservationWrapper[Any, Any, Any]):
    """A dictionary observation without its key ``mission``."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        assert isinstance(env.observation_space, spaces.Dict)
        self.observation_space = spaces.Dict(self.observation(env.observation_space.spaces))

    @override
    def observation(self, observation: dict[str, Any]) -> dict[str, Any]:
        return {key: part for key, part in observation.items() if key != "mission"}


class VisibleEntries(ObservationWrapper[Any, Any, Any]):
    """A vector observation of which some entries are seen, such as positions without velocities."""

    def __init__(self, env: gymnasium.Env[Any, Any], indices: Sequence[int]) -> None:
        """The environment, seen through the entries at ``indices``.

        Raises:
            EnvConfigError: If its observations are no vectors, or have no such entries.
        """
        super().__init__(env)
        space = env.observation_space
        if not isinstance(space, spaces.Box) or len(space.shape) != 1:
            raise EnvConfigError(
                f"observation_indices: {space!r} has no entries to choose from; set it to null"
            )
        beyond = [index for index in indices if index >= space.shape[0]]
        if beyond:
            raise EnvConfigError(
                f"observation_indices: there is no entry {beyond[0]}; the last is "
                f"{space.shape[0] - 1}"
            )
        self.indices = list(indices)
        low, high = space.low[self.indices], space.high[self.indices]
        self.observation_space = spaces.Box(low, high, dtype=space.dtype.type)

    @override
    def observation(self, observation: NDArray[Any]) -> NDArray[Any]:
        return observation[self.indices]


class ActionMask(Wrapper[Any, Any, Any, Any]):
    """Adds the mask in ``info["action_mask"]`` to the observation, as ``with_mask`` does."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self.observation_space = masked_space(env.observation_space, env.action_space)

    @override
    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        return self._with_mask(observation, info), info

    @override
    def step(self, action: Any) -> tuple[dict[str, Any], Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._with_mask(observation, info), reward, terminated, truncated, info

    def _with_mask(self, observation: Any, info: dict[str, Any]) -> dict[str, Any]:
        check_info(info)
        return with_mask(observation, info, str(self.env))


def masked_space(observations: spaces.Space[Any], actions: spaces.Space[Any]) -> spaces.Space[Any]:
    """The space of observations with a mask of the actions.

    Raises:
        EnvConfigError: If such actions cannot be masked.
    """
    if isinstance(actions, spaces.Discrete):
        size = int(actions.n)
    elif isinstance(actions, spaces.MultiDiscrete):
        size = int(actions.nvec.sum())
    else:
        raise EnvConfigError(
            f"action_mask: actions in {actions!r} cannot be masked; set it to false"
        )
    parts = (
        observations.spaces
        if isinstance(observations, spaces.Dict)
        else {"observation": observations}
    )
    return spaces.Dict({**parts, MASK: spaces.MultiBinary(size)})


def with_mask(observation: Any, info: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The observation with the mask in the info; messages call the environment ``name``.

    It has one number per action, 1 where that is allowed; for MultiDiscrete the actions of all
    factors are concatenated. An observation that is no dictionary gets the key ``observation``.

    Raises:
        EnvConfigError: If there is no mask.
        AnswerError: If it is none.
    """
    if MASK not in info:
        raise EnvConfigError(f'action_mask: {name} gives no info["{MASK}"]; set it to false')
    # some environments give a tuple with a mask per factor
    given = info[MASK]
    mask: NDArray[Any] = np.concatenate(given) if isinstance(given, tuple) else given
    binary = mask
    if getattr(mask, "dtype", None) != np.int8:
        mask = np.asarray(mask)
        binary = (mask == 1).astype(np.int8)
        if mask.dtype == object or not np.array_equal(binary, mask):
            raise AnswerError(f"info[{MASK!r}]: {shown(mask)}; its numbers should be 0 and 1")
    parts = observation if isinstance(observation, dict) else {"observation": observation}
    return {**parts, MASK: binary}
