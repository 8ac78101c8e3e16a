"""Environments: N of them behind one contract, wherever they come from.

``make_envs(config, num_envs)`` builds them from a configuration; ``EnvStep`` and ``VectorEnv`` say
what they do. `envs` knows nothing of agents and memories: plain NumPy and Gymnasium.
"""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Annotated, Any, TypeAlias, cast

import gymnasium
from pydantic import BeforeValidator, Field

from envs.atari import AtariConfig, atari_games, make_atari
from envs.config import EnvConfigError, EnvFailure
from envs.gymnasium_env import PACKAGES, GymnasiumConfig, make_gymnasium, register
from envs.vector import ArrayTree, EnvStep, Restored, VectorEnv, from_gymnasium, map_arrays

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
    "env_names",
    "from_gymnasium",
    "make_envs",
    "map_arrays",
]

ENVS: dict[str, Callable[[Any, int, bool, bool], VectorEnv]] = {
    "gymnasium": make_gymnasium,
    "atari": make_atari,
}


def _gymnasium_unless_said(value: Any) -> Any:
    """A mapping without ``kind`` means Gymnasium, which nearly all environments are."""
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
        config: Of any kind in ``ENVS``.
        num_envs: How many; as many as the configuration says if None.
        evaluation: Whole episodes: whatever the configuration shortens for training is not.
        render: Whether ``render()`` shall give pictures of slot 0.

    Raises:
        EnvConfigError: When there is no such environment, or not with these options.
    """
    count = config.num_envs if num_envs is None else num_envs
    return ENVS[config.kind](config, count, evaluation, render)


def env_names() -> dict[str, list[str]]:
    """The names of all environments that can be built here, by where they come from."""
    for prefix, package in {**PACKAGES, "fwrl/": "envs.tasks"}.items():
        if package != "ale_py" and find_spec(package) is not None:
            register(prefix)
    names: dict[str, list[str]] = {"fwrl": [], "atari": atari_games()}
    for env_id, spec in sorted(gymnasium.registry.items()):
        # the same games once more
        if not str(spec.entry_point).startswith("ale_py"):
            package = next((p for prefix, p in PACKAGES.items() if env_id.startswith(prefix)), None)
            family = "fwrl" if env_id.startswith("fwrl/") else package or "gymnasium"
            names.setdefault(family, []).append(env_id)
    return names
