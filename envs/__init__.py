"""Environments of fwrl: N of them behind one contract, wherever they come from.

``make_envs(config, num_envs)`` builds them from a configuration; ``EnvStep`` and ``VectorEnv`` are
the contract. The package is plain NumPy and Gymnasium, without agents or memories.
"""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Annotated, Any, TypeAlias, cast

import gymnasium
from pydantic import BeforeValidator, Field

from envs.atari import AtariConfig, atari_games, make_atari
from envs.config import EnvConfigError, EnvFailure
from envs.gymnasium_env import PACKAGES, GymnasiumConfig, make_gymnasium, register
from envs.gymnasium_env import find_spec as find_env_spec
from envs.vector import ArrayTree, EnvStep, Restored, VectorEnv, map_arrays
from envs.vector_adapter import from_gymnasium

__all__ = [
    "ENVS",
    "ArrayTree",
    "AtariConfig",
    "EnvConfig",
    "EnvConfigError",
    "EnvFailure",
    "EnvStep",
    "GymnasiumConfig",
    "Restored",
    "VectorEnv",
    "env_name",
    "env_names",
    "from_gymnasium",
    "make_envs",
    "map_arrays",
    "most_steps",
]

ENVS: dict[str, Callable[[Any, int, bool, bool], VectorEnv]] = {
    "gymnasium": make_gymnasium,
    "atari": make_atari,
}


def _gymnasium_unless_said(value: Any) -> Any:
    """The mapping with ``kind: gymnasium``, unless it has a ``kind``."""
    if isinstance(value, Mapping) and "kind" not in value:
        return {"kind": "gymnasium", **cast(Mapping[str, Any], value)}
    return value


EnvConfig: TypeAlias = Annotated[
    GymnasiumConfig | AtariConfig,
    Field(discriminator="kind"),
    BeforeValidator(_gymnasium_unless_said),
]


def make_envs(
    config: GymnasiumConfig | AtariConfig,
    num_envs: int | None = None,
    evaluation: bool = False,
    render: bool = False,
) -> VectorEnv:
    """The environments that ``config`` describes.

    Args:
        config: A configuration of any kind in ``ENVS``.
        num_envs: The number of environments; None: that of the configuration.
        evaluation: Whether to play whole episodes, even if training shortens them.
        render: Whether ``render()`` returns pictures of slot 0.

    Raises:
        EnvConfigError: If there is no such environment, or an option is wrong.
    """
    count = config.num_envs if num_envs is None else num_envs
    return ENVS[config.kind](config, count, evaluation, render)


def env_name(config: GymnasiumConfig | AtariConfig) -> str:
    """The environment's id, or the game's name."""
    return config.game if isinstance(config, AtariConfig) else config.id


def most_steps(config: GymnasiumConfig | AtariConfig) -> int:
    """The most steps that an episode may have by its own limit; 0 if it has none.

    Raises:
        EnvConfigError: If there is no such environment.
    """
    if isinstance(config, AtariConfig):
        return config.max_episode_frames // config.frame_skip
    return config.max_episode_steps or find_env_spec(config.id).max_episode_steps or 0


def env_names() -> dict[str, list[str]]:
    """The names of all environments that can be built with the installed packages, by package."""
    for prefix, package in {**PACKAGES, "fwrl/": "envs.tasks"}.items():
        if package != "ale_py" and find_spec(package) is not None:
            register(prefix)
    names: dict[str, list[str]] = {"fwrl": [], "atari": atari_games()}
    for env_id, spec in sorted(gymnasium.registry.items()):
        # the ids of ale-py are the games listed above
        if not str(spec.entry_point).startswith("ale_py"):
            package = next((p for prefix, p in PACKAGES.items() if env_id.startswith(prefix)), None)
            family = "fwrl" if env_id.startswith("fwrl/") else package or "gymnasium"
            names.setdefault(family, []).append(env_id)
    return names
