"""Diagnostics at evaluations: measures of the memory, pictures of its state, and a film.

None of them ends a training. What raises, and what is undefined, is counted in the log's errors.
"""

import math
from collections.abc import Generator
from contextlib import closing, contextmanager
from typing import Any

import torch

from agents.policy import RecurrentPolicy
from agents.ppo import PPOConfig
from agents.rollout import Rollout
from envs import make_envs
from fwrl.run.config import RunConfig
from fwrl.run.learner_log import learner_metrics
from fwrl.run.log import RunLog
from fwrl.run.memory_log import memory_metrics, state_pictures
from fwrl.run.signals import Interrupted, interrupt_steps
from fwrl.run.video.episode_frames import moments, pictures_of


@contextmanager
def _harmless(log: RunLog | None) -> Generator[None]:
    try:
        yield
    except Interrupted:
        raise
    # a policy that has diverged, or an environment that cannot draw, may raise anything
    except Exception:
        _count_error(log)


def _count_error(log: RunLog | None) -> None:
    if log is not None:
        log.errors += 1


def measured(
    log: RunLog | None, policy: RecurrentPolicy, rollout: Rollout, config: PPOConfig
) -> dict[str, float]:
    """``memory/*`` and more over the first rows of a rollout; NaN where a measure is undefined.

    The log is None in all processes but the first.
    """
    metrics: dict[str, float] = {}
    with _harmless(log):
        metrics |= memory_metrics(policy, rollout)
        metrics |= learner_metrics(policy, rollout, config)
        if any(math.isnan(value) for value in metrics.values()):
            _count_error(log)
    return metrics


def show_memory(log: RunLog, steps: int, memory: Any) -> None:
    """Show pictures of the memory's state in TensorBoard."""
    with _harmless(log):
        log.show(steps, state_pictures(memory))


def show_film(
    log: RunLog, steps: int, policy: RecurrentPolicy, config: RunConfig, received: list[int]
) -> None:
    """Show an episode of the policy in TensorBoard, if that is configured."""
    chosen = config.evaluation
    if not chosen.film_steps:
        return
    with _harmless(log), torch.random.fork_rng():
        torch.manual_seed(config.seed)
        with closing(make_envs(config.env, 1, evaluation=True, render=True)) as envs:
            interrupt_steps(envs, received)
            episode = moments(envs, policy, config.seed, chosen.film_steps, chosen.deterministic)
            frames = list(pictures_of(episode))
        if frames:
            log.show_video(steps, "eval/episode", frames)
