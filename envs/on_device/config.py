"""The configuration of tasks that are stepped as tensors, readable without PyTorch."""

from importlib import import_module
from typing import Literal

from pydantic import Field

from envs.config import Config
from envs.gymnasium_env import GymnasiumConfig, OptionValue, make_gymnasium
from envs.vector import VectorEnv


class OnDeviceConfig(Config):
    """One of our own tasks, stepped on the device that trains the policy.

    A rollout then leaves the device once, at its end. Episodes follow the same law as those of the
    task in NumPy, with other random numbers. Evaluations play the task in NumPy.
    """

    kind: Literal["on_device"] = "on_device"
    id: Literal["fwrl/RepeatPrevious-v0"] = "fwrl/RepeatPrevious-v0"
    """The task."""
    options: dict[str, OptionValue] = Field(default={})
    """Arguments of the task's constructor."""
    num_envs: int = Field(default=8, ge=1)
    """Number of environments stepped together, in each process of a training."""


def make_on_device(
    config: OnDeviceConfig, num_envs: int, evaluation: bool, render: bool
) -> VectorEnv:
    """N environments of the task, as tensors unless they are evaluated or drawn.

    Raises:
        EnvConfigError: If an option is wrong.
    """
    # also checks the options
    in_numpy = GymnasiumConfig(id=config.id, options=config.options)
    envs = make_gymnasium(in_numpy, num_envs, evaluation, render)
    if evaluation or render:
        return envs
    envs.close()
    task = import_module("envs.on_device.repeat_previous")
    return task.RepeatPreviousOnDevice(num_envs, **config.options)
