"""Environments of fwrl: N of them behind one contract, wherever they come from.

``make_envs(config, num_envs)`` builds them from a configuration; ``EnvStep`` and ``VectorEnv`` are
the contract. The package is plain NumPy and Gymnasium, without agents or memories.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.util import find_spec
from typing import Annotated, Any, TypeAlias, cast

import gymnasium
from gymnasium.envs.registration import EnvSpec
from pydantic import BeforeValidator, Field

from envs.atari import AtariConfig, atari_games, make_atari
from envs.config import EnvConfigError, EnvFailure
from envs.gymnasium_env import (
    LABYRINTHS,
    PACKAGES,
    GymnasiumConfig,
    lacking,
    make_gymnasium,
    register,
)
from envs.gymnasium_env import find_spec as find_env_spec
from envs.on_device.config import OnDeviceConfig, make_on_device
from envs.pettingzoo_env import PettingZooConfig, make_pettingzoo
from envs.vector import ArrayTree, EnvStep, Restored, VectorEnv, map_arrays
from envs.vector_adapter import from_gymnasium

__all__ = [
    "ENVS",
    "AnyEnvConfig",
    "ArrayTree",
    "AtariConfig",
    "EnvConfig",
    "EnvConfigError",
    "EnvFailure",
    "EnvStep",
    "GymnasiumConfig",
    "OnDeviceConfig",
    "PettingZooConfig",
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
    "on_device": make_on_device,
    "pettingzoo": make_pettingzoo,
}


def _gymnasium_unless_said(value: Any) -> Any:
    """The mapping with ``kind: gymnasium``, unless it has a ``kind``."""
    if isinstance(value, Mapping) and "kind" not in value:
        return {"kind": "gymnasium", **cast(Mapping[str, Any], value)}
    return value


AnyEnvConfig: TypeAlias = GymnasiumConfig | AtariConfig | OnDeviceConfig | PettingZooConfig

EnvConfig: TypeAlias = Annotated[
    AnyEnvConfig,
    Field(discriminator="kind"),
    BeforeValidator(_gymnasium_unless_said),
]


def make_envs(
    config: AnyEnvConfig,
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


def env_name(config: AnyEnvConfig) -> str:
    """The environment's id, or the game's name."""
    return config.game if isinstance(config, AtariConfig) else config.id


def most_steps(config: AnyEnvConfig) -> int:
    """The most steps that an episode may have by its own limit; 0 if it has none.

    Raises:
        EnvConfigError: If there is no such environment.
    """
    if isinstance(config, AtariConfig):
        return config.max_episode_frames // config.frame_skip
    if isinstance(config, PettingZooConfig):
        return config.max_episode_steps or 0
    limit = config.max_episode_steps if isinstance(config, GymnasiumConfig) else None
    return limit or find_env_spec(config.id).max_episode_steps or 0


def env_names() -> dict[str, list[str]]:
    """The names of all environments, by package; what is to be installed first stands beside it."""
    for prefix, package in {**PACKAGES, "fwrl/": "envs.tasks"}.items():
        if package != "ale_py" and find_spec(package) is not None:
            # a package that cannot be imported has nothing to offer
            with suppress(EnvConfigError):
                register(prefix)
    known = {*gymnasium.registry, *(LABYRINTHS if find_spec("popgym") else ())}
    names: dict[str, list[str]] = {"fwrl": [], "atari": atari_games()}
    missing: dict[str, list[str]] = {}
    for env_id in sorted(known):
        spec = gymnasium.registry.get(env_id)
        # ids of ale-py are the games listed above; Gymnasium keeps some that only raise an error
        if spec and (str(spec.entry_point).startswith("ale_py") or _only_raises(spec)):
            continue
        package = next((p for prefix, p in PACKAGES.items() if env_id.startswith(prefix)), None)
        family = "fwrl" if env_id.startswith("fwrl/") else package or "gymnasium"
        words = lacking(env_id)
        if words is None:
            names.setdefault(family, []).append(env_id)
        else:
            missing.setdefault(f"{family}, after pip install {words!r}", []).append(env_id)
    return names | missing


def _only_raises(spec: EnvSpec) -> bool:
    return getattr(spec.entry_point, "__name__", "").startswith("_raise_")
