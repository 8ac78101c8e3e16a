"""What environments cost a training: time to build, to step, to reset and to play again."""

import time
from copy import deepcopy
from typing import NamedTuple

import numpy as np

from envs.check.trajectory import random_actions
from envs.vector import VectorEnv, leaves, take_row

# to be measured for so long, and with so many answers at most
SECONDS, MOST_STEPS, MOST_RESETS = 1.0, 2000, 10
# for a step to go through a pipe to a worker process and back
PIPE_SECONDS = 1e-4
# a step should take so many times as long for workers to be worthwhile, and no less than the pipe
CLEARLY = 3


class Costs(NamedTuple):
    """Measured with random actions in this process, on this machine as it was.

    Times are of one environment: those of all, stepped together, divided by how many they are.
    """

    num_envs: int
    build_seconds: float
    reset_seconds: float
    step_seconds: float
    """Without the steps that ended an episode, unless all do."""
    steps_per_second: float
    """Of all environments together, episodes' ends included."""
    observation_bytes: int


def measure(envs: VectorEnv, build_seconds: float, seed: int) -> Costs:
    """The costs of environments that took so many seconds to be built; they are reset and used."""
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
    return Costs(
        envs.num_envs,
        build_seconds / envs.num_envs,
        float(np.median(resets)) / envs.num_envs,
        float(np.median(quiet or ending)) / envs.num_envs,
        envs.num_envs * (len(quiet) + len(ending)) / sum(quiet + ending),
        sum(np.asarray(leaf).nbytes for leaf in leaves(take_row(observation, 0))),
    )


def workers_pay(costs: Costs) -> bool | None:
    """Whether a step takes long enough for worker processes; None where that is not clear."""
    if costs.step_seconds < PIPE_SECONDS:
        return False
    return True if costs.step_seconds > CLEARLY * PIPE_SECONDS else None
