"""Bridge to Stable-Baselines3: its vector environments under our contract, and ours under its."""

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Bool
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from typing_extensions import override

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
    take_row,
)
from envs.watched import watched


def from_sb3(vec_env: VecEnv) -> VectorEnv:
    """Any Stable-Baselines3 vector environment, with its wrappers, under our contract.

    What it answers is ``watched``.

    Raises:
        EnvConfigError: If it has spaces that policies cannot use.
    """
    name = type(vec_env).__name__
    check_spaces(vec_env.observation_space, vec_env.action_space, name)
    return watched(_FromSB3(vec_env), name)


def to_sb3(envs: VectorEnv, render: bool = False) -> VecEnv:
    """Our environments as a Stable-Baselines3 vector environment.

    ``seed(s)`` before ``reset()`` opens the same episodes as our ``reset(s)``. Only the bridge may
    step ``envs`` from now on. If they were built to ``render``, pictures show slot 0 only.
    """
    return _ToSB3(envs, "rgb_array" if render else None)


class _FromSB3(VectorEnv):
    def __init__(self, vec_env: VecEnv) -> None:
        self.vec_env = vec_env
        self.num_envs = vec_env.num_envs
        self.observation_space = vec_env.observation_space
        self.action_space = vec_env.action_space
        self._observations = Observations(self.observation_space)
        self.render_fps = float(getattr(vec_env, "metadata", {}).get("render_fps") or DEFAULT_FPS)

    @override
    def reset(self, seed: int | None = None) -> ArrayTree:
        if seed is not None:
            self.vec_env.seed(seed)
        return map_arrays(np.array, self.vec_env.reset())

    @override
    def step(self, action: NDArray[Any]) -> EnvStep:
        observation, reward, ended, infos = self.vec_env.step(action)
        observation = map_arrays(np.array, observation)
        ended = np.array(ended, np.bool_)
        truncated = ended & [bool(info.get("TimeLimit.truncated", False)) for info in infos]
        return EnvStep(
            observation,
            np.array(reward, np.float32),
            ended & ~truncated,
            truncated,
            self._final_observation(observation, ended, infos) if ended.any() else None,
            _success(infos) if ended.any() else None,
        )

    def _final_observation(
        self, observation: ArrayTree, ended: Bool[np.ndarray, " N"], infos: Sequence[dict[str, Any]]
    ) -> ArrayTree:
        final = map_arrays(np.copy, observation)
        for row in np.flatnonzero(ended).tolist():
            given = infos[row]["terminal_observation"]
            self._observations.check(given)
            replace_row(final, row, given)
        return final

    @override
    def render(self) -> NDArray[np.uint8] | None:
        if self.vec_env.render_mode != "rgb_array":
            return None
        frame = self.vec_env.get_images()[0]
        return None if frame is None else np.array(frame, np.uint8)

    @override
    def state(self) -> dict[str, NDArray[Any]] | None:
        return None

    @override
    def restore(self, state: Mapping[str, NDArray[Any]]) -> Restored:
        raise ValueError(f"{type(self.vec_env).__name__} cannot be restored")

    @override
    def close(self) -> None:
        self.vec_env.close()


def _success(infos: Sequence[dict[str, Any]]) -> Bool[np.ndarray, " N"] | None:
    if not any("is_success" in info for info in infos):
        return None
    return np.array([bool(info.get("is_success", False)) for info in infos])


class _ToSB3(VecEnv):
    def __init__(self, envs: VectorEnv, render_mode: str | None) -> None:
        self.envs = envs
        # read by the base class's constructor through `get_attr`
        self.render_mode = render_mode
        self._action: NDArray[Any] | None = None
        super().__init__(envs.num_envs, envs.observation_space, envs.action_space)

    @override
    def reset(self) -> Any:
        # seeds of the slots are consecutive
        observation = self.envs.reset(self._seeds[0])
        self._reset_seeds()
        self._reset_options()
        return observation

    @override
    def step_async(self, actions: NDArray[Any]) -> None:
        self._action = actions

    @override
    def step_wait(self) -> Any:
        assert self._action is not None, "step_async comes before step_wait"
        step = self.envs.step(self._action)
        ended = step.terminated | step.truncated
        infos: list[dict[str, Any]] = [
            {"TimeLimit.truncated": bool(cut)} for cut in step.truncated & ~step.terminated
        ]
        for row in np.flatnonzero(ended).tolist():
            assert step.final_observation is not None
            info = infos[row]
            info["terminal_observation"] = take_row(step.final_observation, row)
            if step.success is not None:
                info["is_success"] = bool(step.success[row])
        return step.observation, step.reward, ended, infos

    @override
    def close(self) -> None:
        self.envs.close()

    @override
    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        return [self.envs.render()]

    @override
    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        if attr_name != "render_mode":
            raise AttributeError(f"single environments are out of reach, so is their {attr_name!r}")
        return [self.render_mode for _ in self._get_indices(indices)]

    @override
    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise AttributeError(f"single environments are out of reach, so is their {attr_name!r}")

    @override
    def env_method(
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        raise AttributeError(f"single environments are out of reach, so is their {method_name!r}")

    @override
    def env_is_wrapped(
        self, wrapper_class: type[gymnasium.Wrapper[Any, Any, Any, Any]], indices: Any = None
    ) -> list[bool]:
        return [False for _ in self._get_indices(indices)]
