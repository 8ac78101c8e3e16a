"""Environments of many agents from PettingZoo's registry: one policy acts for all of them."""

import os
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal

from pydantic import Field, field_validator

from envs.config import NO_FAULTS, Config, EnvConfigError, nearest, summary
from envs.gymnasium_env import OptionValue
from envs.joint import AgentSlots, JointEnv
from envs.vector import VectorEnv


class PettingZooConfig(Config):
    """Parallel environments of PettingZoo; every agent has a slot and a memory of its own.

    One policy acts for all agents, so they need the same spaces. Steps, episodes and returns are
    those of agents: an episode is the life of one.
    """

    kind: Literal["pettingzoo"] = "pettingzoo"
    id: str
    """Id as in pettingzoo.make("parallel", ...), for instance sisl/pursuit-v5."""
    options: dict[str, OptionValue] = Field(default={})
    """Arguments of the environment's constructor."""
    num_envs: int = Field(default=8, ge=1)
    """Number of environments stepped together, in each process of a training; each has a slot for
    each of its agents."""
    max_episode_steps: int | None = Field(default=None, ge=1)
    """Steps after which all agents are truncated; null: the environment's own limit."""
    action_mask: bool = False
    """Whether to add info["action_mask"] of each agent to its observation."""
    longest_replay: int = Field(default=100_000, ge=0)
    """Most steps of an episode that are recorded, to be replayed when a run continues; a longer
    episode is then replaced by a new one."""

    @field_validator("options")
    @classmethod
    def _reserved(cls, value: dict[str, OptionValue]) -> dict[str, OptionValue]:
        if "render_mode" in value:
            raise ValueError(
                "'render_mode' is not an option; it follows from whether a video is recorded"
            )
        return value


def make_pettingzoo(
    config: PettingZooConfig, num_envs: int, evaluation: bool, render: bool
) -> VectorEnv:
    """``num_envs`` copies of the environment, with a slot for each agent of each.

    Raises:
        EnvConfigError: For an unknown id, wrong options, agents with different spaces, or a package
            that is not installed.
    """
    # these environments are the same in training and evaluation
    del evaluation
    return AgentSlots([partial(_make, config, render)] * num_envs, config.id, config.longest_replay)


def _make(config: PettingZooConfig, render: bool) -> JointEnv:
    options: dict[str, Any] = dict(config.options)
    if render:
        options["render_mode"] = "rgb_array"
    registry = _registry()
    exceptions = import_module("pettingzoo.env_registry.exceptions")
    try:
        env = registry.make("parallel", config.id, **options)
    except exceptions.FailedToImport as error:
        raise EnvConfigError(f"{config.id!r} needs another package: {error.__cause__}") from error
    except exceptions.PettingZooRegistryError:
        hint = nearest(config.id, registry.parallel_registry)
        raise EnvConfigError(
            f"no parallel environment {config.id!r} in PettingZoo; {hint}"
        ) from None
    except NO_FAULTS:
        raise
    # whatever its constructor raises
    except BaseException as error:
        raise EnvConfigError(f"{config.id!r} cannot be built: {summary(error)}") from error
    return JointEnv(env, config.id, config.max_episode_steps, config.action_mask)


def _registry() -> Any:
    if find_spec("pettingzoo") is None:
        raise EnvConfigError(
            "env.kind: 'pettingzoo' needs the package; `pip install 'fwrl[pettingzoo]'` brings it"
        )
    # pygame would print a greeting into our output
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    return import_module("pettingzoo")
