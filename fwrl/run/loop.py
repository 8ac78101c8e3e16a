"""The training run: collect, update, log; every so often evaluate and save."""

import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console

from agents import distributed
from agents.actions import DivergedError
from agents.evaluation import (
    LONGEST_EPISODE,
    EndlessError,
    EvaluationError,
    evaluate,
    summarise,
)
from agents.ppo import ppo_update
from agents.rollout import EpisodeCounter, Episodes, Rollout, collect, start
from envs import EnvFailure, VectorEnv, most_steps
from fwrl.run.build import Setup
from fwrl.run.config import RunConfig
from fwrl.run.diagnostics import measured, show_film, show_memory
from fwrl.run.directory import keep_config
from fwrl.run.exit_codes import FAILED, FINISHED, STOPPED
from fwrl.run.faults import FaultReport
from fwrl.run.iteration import Iteration, OnIteration, look_at
from fwrl.run.last_resort import LastResort
from fwrl.run.log import RunLog, cut_logs, evaluation_metrics, gather_episodes, state_norm
from fwrl.run.progress import ProgressReport, say
from fwrl.run.saver import NotFiniteError, Saver, check_space, newest_checkpoint
from fwrl.run.signals import Interrupted, interrupt_steps, interrupt_updates
from fwrl.run.state import (
    Pending,
    Run,
    begin,
    counters_of,
    describe,
    episodes_seed,
    load_learner,
    resume,
)

# After so many iterations in a row with skipped updates the policy is rolled back.
MAX_SKIPPING = 3
# Training ends after so many rollbacks with fewer iterations than these between each two.
MAX_ROLLBACKS, SOUND_ITERATIONS = 3, 100


class Failure(Exception):
    """The reason why a training cannot go on, in one line."""


class Job(NamedTuple):
    """A run and all that it needs to go on."""

    config: RunConfig
    run: Run
    evaluation_envs: VectorEnv | None
    log: RunLog | None
    """None in all processes but the first, as are the environments for evaluations."""
    saver: Saver
    report: ProgressReport
    faults: FaultReport
    received: list[int]
    """The signals so far."""
    say: Callable[[str], None]
    on_iteration: OnIteration | None


def train(
    config: RunConfig,
    setup: Setup,
    directory: Path,
    continued: bool,
    received: list[int],
    resort: LastResort,
    console: Console,
    on_iteration: OnIteration | None = None,
    track: str | None = None,
) -> int:
    """Train until ``total_steps``, or until a signal comes; returns the exit code.

    Args:
        config: The run's configuration.
        setup: Made from it by ``prepare``; its environments are closed at the end.
        directory: The run's directory, opened by ``open_run``.
        continued: Whether the directory has checkpoints to go on from.
        received: Signals; the first one stops the training.
        resort: Told how to save, should the training not stop in time.
        console: Where to report.
        on_iteration: Called after each iteration.
        track: ``wandb`` mirrors the log there.

    Raises:
        CheckpointError: If there are checkpoints and none of them can be used.
        ConfigError: If there is no space for checkpoints, or the environments have other spaces
            than they had; the run is then as it was.
    """
    tell = partial(say, console)
    try:
        if continued:
            checkpoint = newest_checkpoint(directory, tell)
            run, notes = resume(setup.learner, setup.envs, checkpoint, config)
            if distributed.is_first():
                notes += cut_logs(directory, checkpoint.document.get("log"))
                keep_config(directory, config)
            how = f"but not bit for bit: {'; '.join(notes)}" if notes else "bit for bit"
            tell(f"{directory}: continues at {run.counters.steps:,} steps, {how}")
        else:
            run = begin(setup.learner, setup.envs, episodes_seed(config, 0))
        if run.pending is None and run.counters.steps >= config.total_steps:
            tell(f"{directory}: finished, {run.counters.steps:,} steps")
            return FINISHED
        learner = run.learner
        interrupt_updates(learner.optimizer, received)
        for envs in filter(None, (setup.envs, setup.evaluation_envs)):
            interrupt_steps(envs, received)
        tell(f"{directory}: {describe(learner.policy)}")
        first = distributed.is_first()
        log = RunLog(directory, config, continued, track, tell) if first else None
        saver = Saver(directory, config, learner.policy, log, tell)
        report = ProgressReport(console, config.total_steps, run.counters.steps)
        if distributed.num_processes() == 1:
            resort.save = saver.save_at_last
        faults, evaluated = FaultReport(tell), setup.evaluation_envs
        try:
            return _train(
                Job(
                    config, run, evaluated, log, saver, report, faults, received, tell, on_iteration
                )
            )
        finally:
            resort.save = None
            report.close()
            if log is not None:
                log.close()
    finally:
        setup.close()


def _train(job: Job) -> int:
    """Run the loop; save the newest whole state, whatever has ended it; return the exit code."""
    saver, alone = job.saver, distributed.num_processes() == 1
    try:
        with closing(job.faults):
            code = _loop(job)
    except Interrupted:
        code = STOPPED
    except Failure as error:
        job.say(f"{saver.directory}: {error}")
        return FAILED
    # at once, at the user's second interrupt
    except KeyboardInterrupt:
        raise
    # code that environments bring may also ask Python to exit, or raise errors of other languages
    except BaseException as error:
        # other processes go on waiting: they cannot be asked for their part of a checkpoint
        if alone:
            saver.save_at_last()
        if not alone or _is_ours(error):
            raise
        job.say(f"{saver.directory}: {_reason(error)}")
        return FAILED
    return code if saver.save_at_last() else FAILED


def _is_ours(error: BaseException) -> bool:
    """Whether an error is a mistake in our code, whose traceback is wanted."""
    return isinstance(error, Exception) and not isinstance(error, EnvFailure | EvaluationError)


def _reason(error: BaseException) -> str:
    ours = isinstance(error, Exception)
    return (
        str(error) if ours else f"ended by {type(error).__name__}: {' '.join(str(error).split())}"
    )


def _loop(job: Job) -> int:
    """Iterate until ``total_steps``, or until a signal comes; returns the exit code."""
    config, run, saver = job.config, job.run, job.saver
    saver.reached(run)
    if run.counters.iterations == 0:
        _save_first(job)
    while run.pending is not None or run.counters.steps < config.total_steps:
        hopeless = None
        if run.pending is None:
            metrics, hopeless = _iterate(job)
        else:
            metrics = run.pending.metrics
        evaluated = _evaluation_is_due(job)
        if evaluated:
            # a signal may interrupt a long evaluation: the continued run then makes it again
            run.pending = Pending(metrics)
            saver.reached(run)
            metrics = metrics | _evaluate(job)
        run.pending = None
        with saver.lock:
            metrics = _log(job, metrics)
            saver.reached(run)
        made = Iteration(run.counters.steps, metrics, run.learner.policy)
        look_at(made, job.on_iteration, job.received)
        late, stop, lost, moved = distributed.any_process(
            saver.late, bool(job.received), saver.lost, saver.moved
        )
        if moved:
            # the last save says where the run is now
            return FAILED
        if lost:
            raise Failure(f"checkpoints could not be written {saver.failures} times in a row")
        if hopeless:
            saver.save_at_last()
            raise Failure(hopeless)
        if stop:
            return STOPPED
        if evaluated or late:
            _save(job)
    return FINISHED


def _iterate(job: Job) -> tuple[dict[str, float], str | None]:
    """A rollout and an update: the metrics, and why training should end here, if it should."""
    rollout, episodes, metrics = _collect_finite(job)
    metrics |= _update(job, rollout)
    episodes = gather_episodes(episodes)
    metrics = _count(job, episodes, metrics)
    hopeless = job.faults.nothing_but(episodes, _steps_of_an_iteration(job))
    if _evaluation_is_due(job):
        metrics |= measured(job.log, job.run.learner.policy, rollout, job.config.ppo)
    if job.run.counters.skipping >= MAX_SKIPPING:
        _roll_back(job, f"the gradient was not finite in {MAX_SKIPPING} iterations in a row")
    return metrics, hopeless


def _collect_finite(job: Job) -> tuple[Rollout, Episodes, dict[str, float]]:
    """A rollout; a policy whose output is not finite is taken back first."""
    while True:
        try:
            collected, reason = _collect(job), ""
        except DivergedError as error:
            collected, reason = None, str(error)
        if not distributed.any_process(collected is None)[0] and collected is not None:
            return collected
        _roll_back(job, reason or "the policy of another process has diverged")
        with job.saver.lock:
            job.saver.reached(job.run)


def _collect(job: Job) -> tuple[Rollout, Episodes, dict[str, float]]:
    """A rollout, the episodes that ended in it, and its metrics."""
    run, ppo, began = job.run, job.config.ppo, time.perf_counter()
    policy = run.learner.policy
    # weights are converted once for the whole rollout
    with torch.no_grad(), policy.autocast():
        rollout, run.carry, episodes = collect(
            run.envs,
            policy,
            run.carry,
            ppo.num_steps,
            ppo.discount,
            ppo.gae_lambda,
            run.episodes,
            ppo.sequence_length,
        )
    seconds = time.perf_counter() - began
    norm = state_norm(run.carry.memory.layers)
    return rollout, episodes, {"time/rollout_s": seconds, "memory/state_norm": norm}


def _update(job: Job, rollout: Rollout) -> dict[str, float]:
    """Update the policy on a rollout; returns the metrics of the update."""
    learner, began = job.run.learner, time.perf_counter()
    remaining = 1 - job.run.counters.steps / job.config.total_steps
    metrics = ppo_update(learner.policy, learner.optimizer, rollout, job.config.ppo, remaining)
    return metrics | {"time/update_s": time.perf_counter() - began}


def _count(job: Job, episodes: Episodes, metrics: dict[str, float]) -> dict[str, float]:
    """Count an iteration by the episodes of all processes; returns its metrics, averaged."""
    run, seconds = job.run, metrics["time/rollout_s"] + metrics["time/update_s"]
    run.recent.add(episodes)
    job.faults.tell(episodes.faults)
    metrics = distributed.average_metrics(metrics) | run.recent.metrics()
    steps = _steps_of_an_iteration(job)
    skipped = int(metrics["health/skipped_updates"])
    run.counters = run.counters.after(steps, seconds, len(episodes.faults), skipped)
    run.score = None
    return metrics


def _steps_of_an_iteration(job: Job) -> int:
    return job.config.ppo.num_steps * job.run.envs.num_envs * distributed.num_processes()


def _evaluation_is_due(job: Job) -> bool:
    counters, every = job.run.counters, job.config.evaluation.every_steps
    at_the_end = counters.steps >= job.config.total_steps
    return at_the_end or counters.steps // every > counters.evaluated_at // every


def _evaluate(job: Job) -> dict[str, float]:
    """Metrics of the policy on the same episodes every time; training's randomness is untouched."""
    run, config = job.run, job.config
    run.counters = run.counters._replace(evaluated_at=run.counters.steps)
    if job.evaluation_envs is None:
        return {}
    chosen, policy = config.evaluation, run.learner.policy
    longest = max(LONGEST_EPISODE, most_steps(config.env))

    def watch(ended: int, steps: int) -> None:
        job.report.show_evaluation(ended, chosen.episodes, steps)

    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        try:
            episodes = evaluate(
                policy,
                job.evaluation_envs,
                chosen.episodes,
                config.seed,
                chosen.deterministic,
                longest,
                watch,
            )
        except (EndlessError, DivergedError) as error:
            # the environment of a run cannot be changed any more, but what it learns can be used
            job.say(f"{run.counters.steps:,} steps: not evaluated: {error}")
            return {}
    job.faults.tell(episodes.faults)
    summary = summarise(episodes)
    run.score = summary.return_mean
    job.say(f"{run.counters.steps:,} steps: evaluated return {run.score:.4g}")
    if job.log is not None:
        show_memory(job.log, run.counters.steps, run.carry.memory.layers)
        show_film(job.log, run.counters.steps, policy, config, job.received)
    return evaluation_metrics(summary)


def _log(job: Job, metrics: dict[str, float]) -> dict[str, float]:
    """Write the metrics of an iteration, and report it; returns all that were written."""
    counters, report = job.run.counters, job.report
    if job.log is not None:
        counts = {
            "health/env_faults": counters.env_faults,
            "health/skipped_updates": counters.skipped_updates,
            "health/rollbacks": counters.rollbacks,
            "health/log_errors": job.log.errors,
            "health/save_errors": job.saver.errors,
            "health/save_s": job.saver.seconds,
            "time/fps": report.speed(counters.steps),
            "time/iterations": counters.iterations,
            "time/time_elapsed": counters.seconds,
            "time/total_timesteps": counters.steps,
        }
        metrics = metrics | {name: float(count) for name, count in counts.items()}
        job.log.write(counters.steps, metrics)
    report.show(counters.steps, metrics.get("rollout/ep_rew_mean"))
    return metrics


def _save_first(job: Job) -> None:
    if not _save(job):
        raise Failure("the first checkpoint could not be written")
    if job.saver.newest is not None:
        check_space(job.saver.newest, job.config.checkpoint.keep)


def _save(job: Job) -> bool:
    """Save the run, or roll back a policy that is not finite; returns whether it is saved."""
    try:
        return job.saver.save()
    except NotFiniteError as error:
        _roll_back(job, str(error))
        job.saver.reached(job.run)
        return False


def _roll_back(job: Job, reason: str) -> None:
    """Reset the policy to the last checkpoint; the counters and random numbers go on.

    Raises:
        Failure: If that has been tried too often.
    """
    run, directory = job.run, job.saver.directory
    checkpoint = newest_checkpoint(directory, job.say)
    counters = run.counters.rolled_back(SOUND_ITERATIONS)
    if counters.tries > MAX_ROLLBACKS:
        raise Failure(f"{reason}; taken back {MAX_ROLLBACKS} times, it does not help")
    steps = counters_of(checkpoint).steps
    job.say(f"{directory}: {reason}; the policy is taken back to that of {steps:,} steps")
    load_learner(run.learner, checkpoint)
    seed = episodes_seed(job.config, counters.steps, counters.rollbacks)
    run.carry = start(run.envs, run.learner.policy, seed)
    run.episodes = EpisodeCounter(run.envs.num_envs)
    run.counters = counters
