"""Our own memory tasks, stepped in batches; their Gymnasium ids are ``fwrl/<Name>-v0``."""

from collections.abc import Callable
from typing import Any, cast

import gymnasium

from envs.tasks.autoencode import Autoencode
from envs.tasks.batched import BatchedTask, TaskEnv, TaskVectorEnv
from envs.tasks.cart_pole import NoisyStatelessCartPole, StatelessCartPole
from envs.tasks.color_cubes import ColorCubes
from envs.tasks.concentration import Concentration
from envs.tasks.count_recall import CountRecall
from envs.tasks.endless_t_maze import EndlessTMaze
from envs.tasks.graph_meta_rl import GraphMetaRL
from envs.tasks.higher_lower import HigherLower
from envs.tasks.key_value_recall import KeyValueRecall
from envs.tasks.repeat_first import RepeatFirst
from envs.tasks.repeat_previous import RepeatPrevious
from envs.tasks.t_maze import TMaze

__all__ = [
    "TASKS",
    "BatchedTask",
    "TaskEnv",
    "TaskVectorEnv",
    "make_env",
    "make_vector_env",
    "register",
]

# each is constructed with ``num_envs`` and keywords of its own
TASKS: dict[str, type[BatchedTask]] = {
    "Autoencode": Autoencode,
    "ColorCubes": ColorCubes,
    "Concentration": Concentration,
    "CountRecall": CountRecall,
    "EndlessTMaze": EndlessTMaze,
    "GraphMetaRL": GraphMetaRL,
    "HigherLower": HigherLower,
    "KeyValueRecall": KeyValueRecall,
    "NoisyStatelessCartPole": NoisyStatelessCartPole,
    "RepeatFirst": RepeatFirst,
    "RepeatPrevious": RepeatPrevious,
    "StatelessCartPole": StatelessCartPole,
    "TMaze": TMaze,
}


def register() -> None:
    """Register every task with Gymnasium as ``fwrl/<Name>-v0``; a second call changes nothing."""
    for name in TASKS:
        env_id = f"fwrl/{name}-v0"
        if env_id not in gymnasium.registry:
            gymnasium.register(
                id=env_id,
                entry_point="envs.tasks:make_env",
                vector_entry_point="envs.tasks:make_vector_env",
                kwargs={"task": name},
            )


def make_env(task: str, render_mode: str | None = None, **parameters: Any) -> TaskEnv:
    """One environment of a task, with the keywords given to ``gymnasium.make``."""
    make = cast(Callable[..., BatchedTask], TASKS[task])
    return TaskEnv(make(num_envs=1, **parameters), render_mode)


def make_vector_env(
    task: str, num_envs: int, render_mode: str | None = None, **parameters: Any
) -> TaskVectorEnv:
    """N environments of a task, with the keywords given to ``gymnasium.make_vec``."""
    make = cast(Callable[..., BatchedTask], TASKS[task])
    return TaskVectorEnv(make(num_envs=num_envs, **parameters), render_mode)
