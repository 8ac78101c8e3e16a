"""The training run: collect, update, log; every so often evaluate and save."""

import signal
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console

from agents.evaluation import Summary, evaluate, summarise
from agents.policy import RecurrentPolicy
from agents.ppo import make_optimizer, ppo_update
from agents.rollout import EpisodeCounter, collect, start
from envs import EnvConfigError, VectorEnv, make_envs
from fwrl.cli.learner import Counters, Learner, describe, restore, save
from fwrl.cli.progress import ProgressReport
from fwrl.cli.run_config import RunConfig
from fwrl.cli.run_directory import prune_checkpoints
from fwrl.cli.run_log import RecentEpisodes, RunLog, evaluation_metrics, state_norm
from fwrl.config import ConfigError
from fwrl.training import choose_device

FINISHED, STOPPED = 0, 75


class Setup(NamedTuple):
    """What a run needs; making it finds the mistakes before anything is written."""

    envs: VectorEnv
    evaluation_envs: VectorEnv
    learner: Learner


def prepare(config: RunConfig) -> Setup:
    """Environments, policy and optimiser of a configuration.

    Raises:
        ConfigError: If they cannot be made.
    """
    torch.set_num_threads(config.num_threads)
    torch.manual_seed(config.seed)
    device = choose_device(config.device)
    evaluation_count = min(config.evaluation.num_envs, config.evaluation.episodes)
    try:
        envs = make_envs(config.env)
        evaluation_envs = make_envs(config.env, evaluation_count, evaluation=True)
    except EnvConfigError as error:
        raise ConfigError(str(error)) from None
    policy = RecurrentPolicy(envs.observation_space, envs.action_space, config.policy).to(device)
    return Setup(envs, evaluation_envs, Learner(policy, make_optimizer(policy, config.ppo)))


def train(
    config: RunConfig, setup: Setup, directory: Path, continued: bool, console: Console
) -> int:
    """Train until ``total_steps``, or until asked to stop; returns the exit code."""
    counters = restore(setup.learner, directory) if continued else Counters()
    if counters.steps >= config.total_steps:
        console.print(f"{directory}: finished, {counters.steps:,} steps", soft_wrap=True)
        return FINISHED
    log = RunLog(directory, config, counters.steps)
    report = ProgressReport(console, config.total_steps, counters.steps)
    report.say(f"{directory}: {describe(setup.learner.policy)}")
    try:
        with stop_signals() as stopped:
            _loop(config, setup, directory, counters, log, report, stopped)
    finally:
        report.close()
        log.close()
        setup.envs.close()
        setup.evaluation_envs.close()
    return STOPPED if stopped else FINISHED


def _loop(
    config: RunConfig,
    setup: Setup,
    directory: Path,
    counters: Counters,
    log: RunLog,
    report: ProgressReport,
    stopped: list[int],
) -> None:
    envs, evaluation_envs, learner = setup
    policy, ppo = learner.policy, config.ppo
    carry = start(envs, policy, _stream_seed(config.seed, counters.steps))
    counter, recent = EpisodeCounter(envs.num_envs), RecentEpisodes()
    num_steps, piece = ppo.num_steps, ppo.sequence_length
    every = config.evaluation.every_steps
    evaluated = counters.steps // every
    while counters.steps < config.total_steps and not stopped:
        began = time.perf_counter()
        rollout, carry, episodes = collect(
            envs, policy, carry, num_steps, ppo.discount, ppo.gae_lambda, counter, piece
        )
        acted = time.perf_counter()
        remaining = 1 - counters.steps / config.total_steps
        metrics = ppo_update(policy, learner.optimizer, rollout, ppo, remaining)
        updated = time.perf_counter()

        counters = counters.after(num_steps * envs.num_envs, updated - began)
        recent.add(episodes)
        metrics |= recent.metrics() | {
            "time/fps": report.speed(counters.steps),
            "time/iterations": counters.iterations,
            "time/time_elapsed": counters.seconds,
            "time/total_timesteps": counters.steps,
            "time/rollout_s": acted - began,
            "time/update_s": updated - acted,
            "memory/state_norm": state_norm(carry.memory),
        }
        due = counters.steps // every > evaluated or counters.steps >= config.total_steps
        score = None
        if due and not stopped:
            evaluated = counters.steps // every
            summary = _evaluate(config, policy, evaluation_envs)
            metrics |= evaluation_metrics(summary)
            score = summary.return_mean
            report.say(f"{counters.steps:,} steps: evaluated return {score:.4g}")
        log.write(counters.steps, metrics)
        if due or stopped:
            log.flush()
            save(learner, directory, counters, score)
            prune_checkpoints(directory, config.checkpoint.keep)
        report.show(counters.steps, metrics.get("rollout/ep_rew_mean"))


@contextmanager
def stop_signals() -> Generator[list[int]]:
    """A list that the first SIGINT or SIGTERM fills; the second one interrupts at once."""
    received: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        if received:
            signal.default_int_handler(number, frame)
        received.append(number)

    signals = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(number, remember) for number in signals]
    try:
        yield received
    finally:
        for number, handler in zip(signals, previous, strict=True):
            signal.signal(number, handler)


def _stream_seed(seed: int, steps: int) -> int:
    """Another part of the environments' episodes each time that a run is continued."""
    return int(np.random.SeedSequence((seed, steps)).generate_state(1)[0] >> 1)


def _evaluate(config: RunConfig, policy: RecurrentPolicy, envs: VectorEnv) -> Summary:
    """The same episodes every time, and a training that does not notice it was evaluated."""
    chosen = config.evaluation
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        episodes = evaluate(policy, envs, chosen.episodes, config.seed, chosen.deterministic)
    return summarise(episodes)
