"""Environments with a Gymnasium id: our own tasks, POPGym, MiniGrid, classic control and others.

Our own tasks are stepped in NumPy batches, others one after another, in this process or spread
over worker processes.
"""

import importlib
import inspect
import os
from collections.abc import Callable
from functools import partial
from importlib import util
from typing import Any, Literal, TypeAlias

import gymnasium
from gymnasium.envs.registration import EnvSpec, load_env_creator
from pydantic import Field, NonNegativeInt, field_validator

from envs.config import NO_FAULTS, Config, EnvConfigError, nearest, one_line, summary
from envs.vector import VectorEnv
from envs.vector_adapter import adapted
from envs.workers.in_process import OneByOne
from envs.workers.in_workers import in_workers
from envs.wrappers import ActionMask, VisibleEntries, with_numeric_mission

Scalar: TypeAlias = bool | int | float | str | None
OptionValue: TypeAlias = Scalar | list[Scalar] | dict[str, Scalar]

# prefixes of ids that are registered when a package is imported
PACKAGES = {"ALE/": "ale_py", "BabyAI-": "minigrid", "MiniGrid-": "minigrid", "popgym-": "popgym"}
# prefix of the ids of environments that a program makes by a function of its own
OF_PROGRAMS = "python/"
# beginnings of ids, or of the modules that define environments, which need a package more than the
# one that registers them -> that package, and what installs it
PARTS = {
    "popgym-Labyrinth": ("mazelib", "mazelib"),
    "gymnasium.envs.box2d": ("Box2D", "gymnasium[box2d]"),
    "gymnasium.envs.mujoco": ("mujoco", "gymnasium[mujoco]"),
    "gymnasium.envs.phys2d": ("flax", "gymnasium[jax]"),
    "gymnasium.envs.tabular": ("flax", "gymnasium[jax]"),
}
# POPGym registers these only where mazelib is installed
LABYRINTHS = [
    f"popgym-Labyrinth{task}{level}-v0"
    for task in ("Escape", "Explore")
    for level in ("", "Easy", "Medium", "Hard")
]
# arguments of `gymnasium.make` that are no options of an environment, and where each is set instead
RESERVED = {
    "disable_env_checker": "`fwrl check-env` checks environments",
    "id": "it is the key `id`",
    "max_episode_steps": "it is a key beside `options`",
    "num_envs": "it is a key beside `options`",
    "render_mode": "it follows from whether a video is recorded",
    "vector_kwargs": "`workers` says where environments run",
    "vectorization_mode": "`workers` says where environments run",
    "wrappers": "wrap the environment where it is registered",
}


class GymnasiumConfig(Config):
    """Environments made by Gymnasium from an id."""

    kind: Literal["gymnasium"] = "gymnasium"
    id: str
    """Id as in gymnasium.make, for instance fwrl/RepeatFirst-v0."""
    options: dict[str, OptionValue] = Field(default={})
    """Arguments of the environment's constructor."""
    num_envs: int = Field(default=8, ge=1)
    """Number of environments stepped together, in each process of a training."""
    workers: int = Field(default=0, ge=0)
    """Worker processes that the environments are spread over; 0: none."""
    worker_timeout: float = Field(default=120.0, gt=0)
    """Seconds after which a worker that does not answer is replaced; its episodes are lost."""
    max_episode_steps: int | None = Field(default=None, ge=1)
    """Steps after which episodes are truncated; null: the id's own limit."""
    action_mask: bool = False
    """Whether to add info["action_mask"] to the observation."""
    observation_indices: list[NonNegativeInt] | None = Field(default=None, min_length=1)
    """Entries of a vector observation that are seen, such as positions without velocities; null:
    all."""
    longest_replay: int = Field(default=100_000, ge=0)
    """Most steps of an episode that are recorded, to be replayed when a run continues; a longer
    episode is then replaced by a new one. Our own tasks need no replay."""

    @field_validator("id")
    @classmethod
    def _imports_nothing(cls, value: str) -> str:
        if ":" in value:
            raise ValueError(
                f"{value!r} asks to import code; say `--import MODULE` in the command, with the "
                f"module that registers the environment, and give only {value.rpartition(':')[2]!r}"
            )
        # Gymnasium's wrappers of old environments, which import whatever their options name
        if value.startswith(("GymV21Environment", "GymV26Environment")):
            raise ValueError(f"{value!r} asks to import code; register the environment itself")
        return value

    @field_validator("observation_indices")
    @classmethod
    def _each_once(cls, value: list[int] | None) -> list[int] | None:
        if value is not None and len(set(value)) < len(value):
            raise ValueError(f"{value} names an entry twice; once is enough")
        return value

    @field_validator("options")
    @classmethod
    def _reserved(cls, value: dict[str, OptionValue]) -> dict[str, OptionValue]:
        for name in value:
            if name in RESERVED:
                raise ValueError(f"{name!r} is not an option; {RESERVED[name]}")
        return value


def make_gymnasium(
    config: GymnasiumConfig, num_envs: int, evaluation: bool, render: bool
) -> VectorEnv:
    """N environments of the id, in batches, one by one or in worker processes.

    Raises:
        EnvConfigError: For an unknown id, wrong options or a package that is not installed.
    """
    # these environments are the same in training and evaluation
    del evaluation
    spec = find_spec(config.id)
    _check_options(spec, config.options)
    if config.workers == 0:
        return _make_here(spec, config, num_envs, render)
    workers = min(config.workers, num_envs)
    sizes = [len(range(worker, num_envs, workers)) for worker in range(workers)]
    first = [sum(sizes[:worker]) for worker in range(workers)]
    makers = [
        partial(_make_here, spec, config, size, render, slot)
        for size, slot in zip(sizes, first, strict=True)
    ]
    return in_workers(makers, config.id, config.worker_timeout)


def find_spec(env_id: str) -> EnvSpec:
    """Gymnasium's specification of an id, after importing the package that registers it.

    Raises:
        EnvConfigError: If the id is not registered, or its package is not installed.
    """
    register(env_id)
    words = lacking(env_id)
    if words is not None:
        raise EnvConfigError(f"{env_id!r} needs another package; `pip install {words!r}` brings it")
    if env_id not in gymnasium.registry and env_id.startswith(OF_PROGRAMS):
        raise EnvConfigError(
            f"{env_id!r} is made by a function of a Python program; give it there, as "
            "fwrl.load(RUN, env=FUNCTION)"
        )
    if env_id not in gymnasium.registry:
        raise EnvConfigError(f"no environment {env_id!r}; {nearest(env_id, gymnasium.registry)}")
    return gymnasium.registry[env_id]


def register(env_id: str) -> None:
    """Register the family of ids that ``env_id`` belongs to."""
    if env_id.startswith("fwrl/"):
        tasks = importlib.import_module("envs.tasks")
        tasks.register()
    for prefix, package in PACKAGES.items():
        if env_id.startswith(prefix):
            # pygame would print a greeting into our output
            os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
            try:
                importlib.import_module(package)
            except ImportError as error:
                if util.find_spec(package) is not None:
                    what = f"{env_id!r}: the package {package} cannot be imported: {summary(error)}"
                    raise EnvConfigError(what) from error
                raise EnvConfigError(
                    f"{env_id!r} needs the package {package}; `pip install fwrl[pomdp]` brings it"
                ) from error


def lacking(env_id: str) -> str | None:
    """The words for pip without which an environment cannot be built; None if nothing is known."""
    spec = gymnasium.registry.get(env_id)
    for name in (env_id, str(spec.entry_point) if spec else ""):
        for beginning, (package, words) in PARTS.items():
            if name.startswith(beginning) and util.find_spec(package) is None:
                return words
    return None


def _make_here(
    spec: EnvSpec, config: GymnasiumConfig, num_envs: int, render: bool, first_slot: int = 0
) -> VectorEnv:
    """N environments in this process, which may be that of a worker."""
    batched = spec.vector_entry_point is not None and spec.id.startswith("fwrl/")
    try:
        if batched and not _wrapped(config):
            arguments = _arguments(spec, config, render)
            return adapted(gymnasium.make_vec(spec, num_envs, **arguments))
        make = partial(_make_one, spec, config, render)
        return OneByOne([make] * num_envs, spec.id, config.longest_replay, first_slot)
    except NO_FAULTS:
        raise
    except (ImportError, gymnasium.error.Error) as error:
        raise EnvConfigError(f"{config.id}: {one_line(error)}") from error
    # raised by a constructor that cannot use an option's value
    except (AttributeError, AssertionError, LookupError, TypeError, ValueError) as error:
        raise EnvConfigError(f"{config.id} with {config.options}: {one_line(error)}") from error
    # a simulator may raise anything, or ask the process to end
    except BaseException as error:
        raise EnvConfigError(f"{config.id}: cannot be built: {summary(error)}") from error


def _wrapped(config: GymnasiumConfig) -> bool:
    changed = (config.max_episode_steps, config.observation_indices)
    return config.action_mask or any(value is not None for value in changed)


def _make_one(spec: EnvSpec, config: GymnasiumConfig, render: bool) -> gymnasium.Env[Any, Any]:
    arguments = _arguments(spec, config, render)
    env: gymnasium.Env[Any, Any] = gymnasium.make(
        spec, config.max_episode_steps, disable_env_checker=True, **arguments
    )
    env = with_numeric_mission(env)
    if config.observation_indices is not None:
        env = VisibleEntries(env, config.observation_indices)
    return ActionMask(env) if config.action_mask else env


def _arguments(spec: EnvSpec, config: GymnasiumConfig, render: bool) -> dict[str, Any]:
    """The options of the environment, with a render mode if it shall and can render."""
    arguments: dict[str, Any] = dict(config.options)
    if render and "rgb_array" in _render_modes(spec):
        arguments["render_mode"] = "rgb_array"
    return arguments


def _creator(spec: EnvSpec) -> Callable[..., Any]:
    """The class or function that builds the environment, whose parameters are its options."""
    if spec.id.startswith("fwrl/"):
        tasks = importlib.import_module("envs.tasks")
        return tasks.TASKS[spec.kwargs["task"]]
    creator = spec.entry_point
    return load_env_creator(creator) if isinstance(creator, str) else creator or _unknown


def _unknown(**_: Any) -> None:
    """In place of a creator whose options cannot be found out."""


def _render_modes(spec: EnvSpec) -> list[str]:
    metadata = getattr(_creator(spec), "metadata", {})
    return metadata.get("render_modes", []) if isinstance(metadata, dict) else []


def option_names(spec: EnvSpec) -> list[str] | None:
    """The options that the environment takes; None if its constructor does not tell."""
    creator = _creator(spec)
    classes = inspect.getmro(creator) if inspect.isclass(creator) else [creator]
    names: list[str] = []
    for one in classes:
        if inspect.isclass(one) and "__init__" not in vars(one):
            continue
        parameters = inspect.signature(one).parameters.values()
        names += [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        # a constructor with **kwargs passes them on to its base class
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return sorted(set(names) - set(RESERVED))
    return None


def _check_options(spec: EnvSpec, options: dict[str, OptionValue]) -> None:
    names = option_names(spec)
    for name in options:
        if names is not None and name not in names:
            known = f"its options are {', '.join(names)}" if names else "it has no options"
            raise EnvConfigError(f"{spec.id} has no option {name!r}; {known}")
