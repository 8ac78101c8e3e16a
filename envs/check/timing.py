"""Time that environments take to be built, stepped and reset, and whether workers would help."""

import time
from copy import deepcopy
from typing import NamedTuple

import numpy as np

from envs.check.trajectory import random_actions
from envs.vector import VectorEnv, leaves, take_row

# limits of a measurement
SECONDS, MOST_STEPS, MOST_RESETS = 1.0, 2000, 10
# a step's way through a pipe to a worker process and back
PIPE_SECONDS = 1e-4
# workers are clearly worthwhile if a step takes this many times as long as its way there and back
CLEARLY = 3


class Timing(NamedTuple):
    """Times per environment, measured with random actions in this process, and memory.

    They are stepped together; the time of all is divided by their number.
    """

    num_envs: int
    build_seconds: float
    reset_seconds: float
    step_seconds: float
    """Median of the steps that ended no episode, or of all if each one does."""
    steps_per_second: float
    """All environments together, with the steps that end episodes."""
    observation_bytes: int


def measure(envs: VectorEnv, build_seconds: float, seed: int) -> Timing:
    """Time environments, which are reset and stepped; ``build_seconds`` was measured before."""
    observation = envs.reset(seed)
    resets: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(resets) < MOST_RESETS and (not resets or time.perf_counter() < end):
        start = time.perf_counter()
        observation = envs.reset(seed + 1 + len(resets))
        resets.append(time.perf_counter() - start)
    space = deepcopy(envs.action_space)
    space.seed(seed)
    quiet: list[float] = []
    ending: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(quiet) + len(ending) < MOST_STEPS and time.perf_counter() < end:
        action = random_actions(space, observation, envs.num_envs)
        start = time.perf_counter()
        step = envs.step(action)
        taken = time.perf_counter() - start
        observation = step.observation
        (ending if (step.terminated | step.truncated).any() else quiet).append(taken)
    return Timing(
        envs.num_envs,
        build_seconds / envs.num_envs,
        float(np.median(resets)) / envs.num_envs,
        float(np.median(quiet or ending)) / envs.num_envs,
        envs.num_envs * (len(quiet) + len(ending)) / sum(quiet + ending),
        sum(np.asarray(leaf).nbytes for leaf in leaves(take_row(observation, 0))),
    )


def workers_pay(timing: Timing) -> bool | None:
    """Whether a step takes long enough for worker processes to pay; None if that is not clear."""
    if timing.step_seconds < PIPE_SECONDS:
        return False
    return True if timing.step_seconds > CLEARLY * PIPE_SECONDS else None
