"""Environments that a program makes by a function of its own, as ids of Gymnasium."""

import re
from collections.abc import Callable
from typing import Any, TypeAlias

import gymnasium

from envs.gymnasium_env import OF_PROGRAMS

# Makes one environment; a class of environments is such a function too.
MakeEnv: TypeAlias = Callable[..., gymnasium.Env[Any, Any]]


def id_of(make_env: MakeEnv) -> str:
    """The id under which a function's environments are registered: made of its name."""
    name = re.sub(r"\W+", "", getattr(make_env, "__name__", type(make_env).__name__))
    return f"{OF_PROGRAMS}{name}-v0"


def register(make_env: MakeEnv, env_id: str) -> None:
    """Let ``env_id`` mean the environments that a function makes, in this process.

    A function that was registered under this id before is replaced, as when a cell of a notebook
    is run again.
    """
    gymnasium.registry.pop(env_id, None)
    gymnasium.register(env_id, entry_point=make_env)
