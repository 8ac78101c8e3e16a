"""A job for agents that are trained side by side: a task of ours, and how to learn it."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from typing_extensions import override

from agents.ppo import PPOConfig
from envs import GymnasiumConfig, make_envs
from envs.sb3 import to_sb3
from fwrl.config import Config

# Beyond the seeds of the environments that a job trains in.
EVALUATION_SEED = 1_000_000


class TrainingConfig(Config):
    """A task of ours, in which episodes are equally long, and how to learn it."""

    task: str
    """The name of the task."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Its options."""
    num_envs: PositiveInt
    """Environments that step together."""
    width: PositiveInt = 128
    """Units of the memory and of the layers around it."""
    ppo: PPOConfig = PPOConfig()
    """The algorithm."""
    reward_scale: PositiveFloat = 1.0
    """Factor on the rewards that are learned from."""
    previous: bool = False
    """Whether the last action and reward are inputs, for agents that can have them."""
    time_frequencies: NonNegativeInt = 0
    """Sines and cosines of the time in the episode that are inputs, for the same agents."""
    total_steps: PositiveInt | None = None
    """Steps over which the schedules fall; None: they do not."""
    seed: NonNegativeInt = 0
    """The seed of parameters, episodes and actions."""
    threads: PositiveInt = 1
    """Threads, and processors of an agent that has a process of its own."""

    @property
    def env(self) -> GymnasiumConfig:
        """The environments."""
        return GymnasiumConfig(
            id=f"fwrl/{self.task}-v0", options=self.options, num_envs=self.num_envs
        )

    def remaining(self, steps: int) -> float:
        """The fraction of the training that is left after so many steps, for the schedules."""
        return 1.0 if self.total_steps is None else 1 - steps / self.total_steps


@runtime_checkable
class Learner(Protocol):
    """An agent in its environments."""

    def iterate(self) -> object:
        """A rollout and its updates."""
        ...

    def evaluate(self, episodes: int) -> float:
        """The mean return of the most probable actions in so many other episodes."""
        ...


class _Scaled(VecEnvWrapper):
    """Environments with a factor on their rewards."""

    def __init__(self, envs: VecEnv, scale: float) -> None:
        super().__init__(envs)
        self.scale = scale

    @override
    def reset(self) -> Any:
        return self.venv.reset()

    @override
    def step_wait(self) -> Any:
        observation, reward, ended, infos = self.venv.step_wait()
        return observation, self.scale * reward, ended, infos


def vec_env(job: TrainingConfig) -> VecEnv:
    """The environments that a job trains in, as Stable-Baselines3 has them."""
    envs = to_sb3(make_envs(job.env))
    envs.seed(job.seed)
    return envs if job.reward_scale == 1 else _Scaled(envs, job.reward_scale)


def evaluation_env(job: TrainingConfig, episodes: int) -> VecEnv:
    """Environments for an evaluation, one for each episode."""
    envs = to_sb3(make_envs(job.env, episodes, evaluation=True))
    envs.seed(job.seed + EVALUATION_SEED)
    return envs


def mean_return(envs: VecEnv, act: Callable[[NDArray[Any]], NDArray[Any]]) -> float:
    """The mean return of an episode in each of the environments."""
    total, running = np.zeros(envs.num_envs), np.ones(envs.num_envs, bool)
    observation = np.asarray(envs.reset())
    while running.any():
        observation, reward, ended, _ = envs.step(act(np.asarray(observation)))
        total += running * reward
        running &= ~ended
    return float(total.mean())


def columns_of(space: spaces.Space[Any]) -> list[int]:
    """How many symbols there are in each column of an observation."""
    assert isinstance(space, spaces.Discrete | spaces.MultiDiscrete)
    return [int(space.n)] if isinstance(space, spaces.Discrete) else space.nvec.tolist()
