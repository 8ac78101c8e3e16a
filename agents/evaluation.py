"""Evaluation: play whole episodes with a policy on fixed seeds, and summarise the returns."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from agents.intervals import bootstrap
from agents.policy import PolicyInput, PolicyOutput, RecurrentPolicy
from agents.rollout import EnvStep, EpisodeCounter, Episodes, VectorEnv, following_inputs, start


class EvaluationError(RuntimeError):
    """Environments that fail so often that nothing can be evaluated. The message is one line."""


class EndlessError(EvaluationError):
    """An episode that goes on and on, so that nothing can be evaluated. The message is one line."""


# Steps after which an episode is taken to be endless. Environments that end their episodes do so
# several times earlier; those that allow more steps say so (``most_steps`` in envs).
LONGEST_EPISODE = 100_000
# Faults per environment, on average, after which an evaluation gives up.
MOST_FAULTS = 10


class Summary(NamedTuple):
    """The figures that an evaluation reports, in the environment's own units."""

    return_mean: float
    return_std: float
    return_iqm: float
    return_ci95: tuple[float, float]
    """Interval of the interquartile mean, by the bootstrap over episodes; NaN for one episode."""
    length_mean: float
    success_rate: float | None
    """None if the environment does not tell success."""


class Acted(NamedTuple):
    """One step of all environments: inputs and outputs of the policy, actions, and answers."""

    inputs: PolicyInput
    output: PolicyOutput
    action: Shaped[Tensor, "N A"]
    step: EnvStep


def act(
    policy: RecurrentPolicy, envs: VectorEnv, seed: int, deterministic: bool = True
) -> Iterator[Acted]:
    """Act without end and yield every step; the caller stops iterating."""
    inputs, memory, *_ = start(envs, policy, seed)
    while True:
        # not around the yield: whether the caller computes gradients is its own affair
        with torch.no_grad():
            output, memory = policy.step(inputs, memory)
            action = output.action.mode() if deterministic else output.action.sample()
        step = envs.step(policy.to_environment(action, output, inputs))
        acted = Acted(inputs, output, action, step)
        inputs = following_inputs(policy, inputs, action, step)
        yield acted


def evaluate(
    policy: RecurrentPolicy,
    envs: VectorEnv,
    episodes: int,
    seed: int,
    deterministic: bool = True,
    longest: int = LONGEST_EPISODE,
    watch: Callable[[int, int], None] | None = None,
) -> Episodes:
    """The first episodes of every environment, each with its fixed share.

    Taking whichever episodes end first would favour short ones. The shares are those of
    Stable-Baselines3's ``evaluate_policy``, so equal seeds give equal episodes.

    Args:
        policy: The policy that acts.
        envs: The environments, which are reset.
        episodes: How many episodes to play.
        seed: The seed of the first environment.
        deterministic: Whether to take the most probable actions.
        longest: Steps after which an episode is taken to be endless.
        watch: Told after every step how many episodes have ended, and the steps so far.

    Raises:
        EvaluationError: If the environments fail again and again.
        EndlessError: If an episode does not end.
    """
    slots = np.arange(envs.num_envs)
    missing = (episodes + slots) // envs.num_envs
    counter, counted = EpisodeCounter(envs.num_envs), Episodes.none()
    for steps, (*_, step) in enumerate(act(policy, envs, seed, deterministic), 1):
        if len(counted.faults) > MOST_FAULTS * envs.num_envs:
            raise EvaluationError(f"environments fail again and again: {counted.faults[-1]}")
        missing -= counter.count(step, counted, wanted=missing > 0)
        if not missing.any():
            break
        if watch is not None:
            watch(len(counted.returns), steps)
        # an episode of which nothing is wanted may be as long as it likes
        if steps >= longest and counter.lengths[missing > 0].max() >= longest:
            which = "an episode has not" if counted.returns else "no episode has"
            raise EndlessError(f"{which} ended after {longest:,} steps; set env.max_episode_steps")
    return counted


def summarise(episodes: Episodes) -> Summary:
    """Mean, standard deviation, and interquartile mean with its interval."""
    returns = np.array(episodes.returns)
    iqm, low, high = bootstrap([episodes.returns])
    return Summary(
        float(returns.mean()),
        float(returns.std()),
        iqm,
        (low, high),
        float(np.mean(episodes.lengths)),
        success_rate(episodes.successes),
    )


def success_rate(successes: Iterable[bool | None]) -> float | None:
    """The share of episodes that succeeded; None if the environments never told.

    Some environments report only successes: as soon as one did, an episode without a report counts
    as failed.
    """
    said = list(successes)
    if all(success is None for success in said):
        return None
    return sum(success is True for success in said) / len(said)
