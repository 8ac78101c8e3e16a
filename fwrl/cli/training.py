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

from agents import distributed
from agents.evaluation import Summary, evaluate, summarise
from agents.policy import RecurrentPolicy
from agents.ppo import make_optimizer, ppo_update
from agents.rollout import EpisodeCounter, collect, start
from envs import EnvConfigError, VectorEnv, make_envs
from fwrl.cli.learner import Counters, Learner, describe, restore, save
from fwrl.cli.progress import ProgressReport
from fwrl.cli.run_config import RunConfig
from fwrl.cli.run_directory import package_versions, prune_checkpoints
from fwrl.cli.run_log import (
    RecentEpisodes,
    RunLog,
    evaluation_metrics,
    gather_episodes,
    state_norm,
)
from fwrl.config import ConfigError
from fwrl.training import choose_device

FINISHED, STOPPED = 0, 75


class Setup(NamedTuple):
    """What a run needs; making it finds the mistakes before anything is written."""

    envs: VectorEnv
    evaluation_envs: VectorEnv | None
    """None in all processes but the first."""
    learner: Learner


def join(config: RunConfig) -> None:
    """Meet the other processes of this run, if a launcher has started several.

    Raises:
        ConfigError: If that is impossible, or they were not started alike.
    """
    device = choose_device(config.device)
    distributed.join(distributed.own_device(device))
    if not distributed.alike(f"{package_versions()} {device.type} {config.model_dump_json()}"):
        raise ConfigError(
            "the processes of this run differ in configuration, device or version; "
            "start them all by the same command on machines that are set up alike"
        )


def prepare(config: RunConfig) -> Setup:
    """Environments, policy and optimiser of a configuration.

    Raises:
        ConfigError: If they cannot be made.
    """
    torch.set_num_threads(config.num_threads)
    torch.manual_seed(config.seed)
    device = distributed.own_device(choose_device(config.device))
    evaluation_count = min(config.evaluation.num_envs, config.evaluation.episodes)
    evaluation_envs = None
    try:
        envs = make_envs(config.env)
        if distributed.is_first():
            evaluation_envs = make_envs(config.env, evaluation_count, evaluation=True)
    except EnvConfigError as error:
        raise ConfigError(str(error)) from None
    policy = RecurrentPolicy(envs.observation_space, envs.action_space, config.policy).to(device)
    distributed.copy_from_first(policy)
    if not distributed.is_first():
        # the same policy everywhere, but not the same actions
        torch.manual_seed(_seed(config.seed, 0, distributed.rank()))
    return Setup(envs, evaluation_envs, Learner(policy, make_optimizer(policy, config.ppo)))


def train(
    config: RunConfig, setup: Setup, directory: Path, continued: bool, console: Console
) -> int:
    """Train until ``total_steps``, or until asked to stop; returns the exit code."""
    counters = restore(setup.learner, directory) if continued else Counters()
    if counters.steps >= config.total_steps:
        console.print(f"{directory}: finished, {counters.steps:,} steps", soft_wrap=True)
        return FINISHED
    log = RunLog(directory, config, counters.steps) if distributed.is_first() else None
    report = ProgressReport(console, config.total_steps, counters.steps)
    report.say(f"{directory}: {describe(setup.learner.policy)}{_processes()}")
    try:
        with stop_signals() as received:
            stopped = _loop(config, setup, directory, counters, log, report, received)
    finally:
        report.close()
        if log is not None:
            log.close()
        setup.envs.close()
        if setup.evaluation_envs is not None:
            setup.evaluation_envs.close()
    return STOPPED if stopped else FINISHED


def _processes() -> str:
    count = distributed.num_processes()
    return f", in {count} processes" if count > 1 else ""


def _loop(
    config: RunConfig,
    setup: Setup,
    directory: Path,
    counters: Counters,
    log: RunLog | None,
    report: ProgressReport,
    received: list[int],
) -> bool:
    """Whether it ended because one of the processes received a signal."""
    envs, evaluation_envs, learner = setup
    policy, ppo = learner.policy, config.ppo
    seed = _seed(config.seed, counters.steps) + distributed.rank() * envs.num_envs
    carry, counter = start(envs, policy, seed), EpisodeCounter(envs.num_envs)
    recent, stopped = RecentEpisodes(), False
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

        steps = num_steps * envs.num_envs * distributed.num_processes()
        counters = counters.after(steps, updated - began)
        recent.add(gather_episodes(episodes))
        metrics |= {
            "time/rollout_s": acted - began,
            "time/update_s": updated - acted,
            "memory/state_norm": state_norm(carry.memory),
        }
        metrics = distributed.average_metrics(metrics) | recent.metrics()
        metrics |= _progress(counters, report)
        stopped = distributed.any_process(bool(received))
        due = counters.steps // every > evaluated or counters.steps >= config.total_steps
        score = None
        if due and not stopped:
            evaluated = counters.steps // every
            if evaluation_envs is not None:
                summary = _evaluate(config, policy, evaluation_envs)
                metrics |= evaluation_metrics(summary)
                score = summary.return_mean
                report.say(f"{counters.steps:,} steps: evaluated return {score:.4g}")
            # during an evaluation there is time for a signal
            stopped = distributed.any_process(bool(received))
        if log is not None:
            log.write(counters.steps, metrics)
        if due or stopped:
            _save(config, learner, directory, counters, score, log)
        report.show(counters.steps, metrics.get("rollout/ep_rew_mean"))
    return stopped


def _progress(counters: Counters, report: ProgressReport) -> dict[str, float]:
    return {
        "time/fps": report.speed(counters.steps),
        "time/iterations": counters.iterations,
        "time/time_elapsed": counters.seconds,
        "time/total_timesteps": counters.steps,
    }


def _save(
    config: RunConfig,
    learner: Learner,
    directory: Path,
    counters: Counters,
    score: float | None,
    log: RunLog | None,
) -> None:
    if log is not None:
        log.flush()
    save(learner, directory, counters, score)
    if log is not None:
        prune_checkpoints(directory, config.checkpoint.keep)


@contextmanager
def stop_signals() -> Generator[list[int]]:
    """A list that the first SIGINT or SIGTERM fills; the second one interrupts at once.

    With several processes it does not, and afterwards signals are ignored: a launcher may repeat
    what the system has sent to everybody, and ends those that are leaving as soon as one has left.
    """
    received: list[int] = []
    alone = distributed.num_processes() == 1

    def remember(number: int, frame: FrameType | None) -> None:
        if received and alone:
            signal.default_int_handler(number, frame)
        received.append(number)

    signals = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(number, remember) for number in signals]
    try:
        yield received
    finally:
        for number, handler in zip(signals, previous, strict=True):
            signal.signal(number, handler if alone else signal.SIG_IGN)


def _seed(*numbers: int) -> int:
    """One made of several: another for each part of a run that was continued, and each process."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0] >> 1)


def _evaluate(config: RunConfig, policy: RecurrentPolicy, envs: VectorEnv) -> Summary:
    """The same episodes every time, and a training that does not notice it was evaluated."""
    chosen = config.evaluation
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        episodes = evaluate(policy, envs, chosen.episodes, config.seed, chosen.deterministic)
    return summarise(episodes)
