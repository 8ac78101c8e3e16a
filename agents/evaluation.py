"""Evaluation: play whole episodes with a policy on fixed seeds, and summarise the returns."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Shaped
from numpy.typing import NDArray
from torch import Tensor

from agents.policy import PolicyInput, PolicyOutput, RecurrentPolicy
from agents.rollout import EnvStep, EpisodeCounter, Episodes, VectorEnv, following_inputs, start


class EvaluationError(RuntimeError):
    """Environments that fail so often that nothing can be evaluated. The message is one line."""


# Faults per environment, on average, after which an evaluation gives up.
MOST_FAULTS = 10


class Summary(NamedTuple):
    """The figures that an evaluation reports, in the environment's own units."""

    return_mean: float
    return_std: float
    return_iqm: float
    return_ci95: tuple[float, float]
    """Interval of the interquartile mean, by the bootstrap over episodes."""
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
    inputs, memory, _ = start(envs, policy, seed)
    while True:
        # not around the yield: whether the caller computes gradients is its own affair
        with torch.no_grad():
            output, memory = policy.step(inputs, memory)
            action = output.action.mode() if deterministic else output.action.sample()
        step = envs.step(policy.head.to_environment(action))
        acted = Acted(inputs, output, action, step)
        inputs = following_inputs(policy, inputs, action, step)
        yield acted


def evaluate(
    policy: RecurrentPolicy,
    envs: VectorEnv,
    episodes: int,
    seed: int,
    deterministic: bool = True,
) -> Episodes:
    """The first episodes of every environment, each with its fixed share.

    Taking whichever episodes end first would favour short ones. The shares are those of
    Stable-Baselines3's ``evaluate_policy``, so equal seeds give equal episodes.

    Raises:
        EvaluationError: If the environments fail again and again.
    """
    slots = np.arange(envs.num_envs)
    missing = (episodes + slots) // envs.num_envs
    counter, counted = EpisodeCounter(envs.num_envs), Episodes.none()
    for *_, step in act(policy, envs, seed, deterministic):
        if len(counted.faults) > MOST_FAULTS * envs.num_envs:
            raise EvaluationError(f"environments fail again and again: {counted.faults[-1]}")
        missing -= counter.count(step, counted, wanted=missing > 0)
        if not missing.any():
            break
    return counted


def summarise(episodes: Episodes) -> Summary:
    """Mean, standard deviation, and interquartile mean with its interval."""
    returns = np.array(episodes.returns)
    return Summary(
        float(returns.mean()),
        float(returns.std()),
        float(interquartile_mean(returns)),
        confidence_interval(returns),
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


def interquartile_mean(values: Float[np.ndarray, "*B n"]) -> NDArray[Any]:
    """The mean of the middle half along the last axis (Agarwal et al. 2021)."""
    cut = values.shape[-1] // 4
    ordered = np.sort(values, axis=-1)
    return np.asarray(ordered[..., cut : values.shape[-1] - cut].mean(-1))


def confidence_interval(
    values: Float[np.ndarray, " n"], resamples: int = 2000, level: float = 0.95
) -> tuple[float, float]:
    """The percentile bootstrap interval of the interquartile mean."""
    return stratified_interval([values], resamples, level)


def stratified_interval(
    groups: Sequence[Float[np.ndarray, " _"]], resamples: int = 2000, level: float = 0.95
) -> tuple[float, float]:
    """The interval of the interquartile mean of all values, which come from groups.

    By the percentile bootstrap: each group is resampled by itself (Agarwal et al. 2021), with a
    fixed seed, so that the same values give the same interval.
    """
    generator = np.random.default_rng(0)
    drawn = [each[generator.integers(0, len(each), (resamples, len(each)))] for each in groups]
    tail = (1 - level) / 2
    means = interquartile_mean(np.concatenate(drawn, axis=1))
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)
