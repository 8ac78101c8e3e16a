"""Vector environments of somebody else, watched for answers that nothing can be learnt from.

Their slots cannot be replaced one by one, so whatever is wrong is an ``EnvFailure``: it ends the
training or evaluation with one line.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from envs.answers import AnswerError
from envs.config import EnvFailure, summary
from envs.observations import Observations
from envs.vector import ArrayTree, EnvStep, Restored, VectorEnv


def watched(envs: VectorEnv, name: str) -> VectorEnv:
    """The same environments; messages use ``name``.

    ``reset`` and ``step`` raise ``EnvFailure`` for a reward or an observation that is not finite, a
    symbol outside its space, and where the environment asks the process to end.
    """
    return _Watched(envs, name)


class _Watched(VectorEnv):
    def __init__(self, envs: VectorEnv, name: str) -> None:
        self.envs, self._name = envs, name
        self.num_envs, self.render_fps = envs.num_envs, envs.render_fps
        self.observation_space, self.action_space = envs.observation_space, envs.action_space
        self._observations = Observations(envs.observation_space)

    @override
    def reset(self, seed: int | None = None) -> ArrayTree:
        observation = self._call(self.envs.reset, seed)
        self._look(observation)
        return observation

    @override
    def step(self, action: NDArray[Any]) -> EnvStep:
        step: EnvStep = self._call(self.envs.step, action)
        if step.reward.shape != (self.num_envs,):
            shape = list(step.reward.shape)
            raise EnvFailure(f"{self._name}: reward: {shape}; it should be [{self.num_envs}]")
        if not np.isfinite(step.reward).all():
            row = int(np.isfinite(step.reward).argmin())
            what = f"reward: {step.reward[row]}, which is not finite"
            raise EnvFailure(f"{self._name}: slot {row}: {what}")
        self._look(step.observation)
        if step.final_observation is not None:
            self._look(step.final_observation)
        return step

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except AnswerError as error:
            raise EnvFailure(f"{self._name}: {error}") from None
        except (KeyboardInterrupt, Exception):
            raise
        # it asks the process to end, or a foreign library panics
        except BaseException as error:
            raise EnvFailure(f"{self._name}: {summary(error)}") from error

    def _look(self, batch: ArrayTree) -> None:
        for row, what in self._call(self._observations.misfits, batch).items():
            raise EnvFailure(f"{self._name}: slot {row}: {what}")

    @override
    def render(self) -> NDArray[np.uint8] | None:
        return self._call(self.envs.render)

    @override
    def state(self) -> dict[str, NDArray[Any]] | None:
        return self.envs.state()

    @override
    def snapshot(self) -> Callable[[], dict[str, NDArray[Any]] | None]:
        return self.envs.snapshot()

    @override
    def restore(self, state: Mapping[str, NDArray[Any]]) -> Restored:
        return self.envs.restore(state)

    @override
    def close(self) -> None:
        self._call(self.envs.close)
