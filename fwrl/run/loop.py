"""The training run: collect, update, log; every so often evaluate and save."""

import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console

from agents import distributed
from agents.evaluation import EvaluationError, evaluate, summarise
from agents.ppo import ppo_update
from agents.rollout import EpisodeCounter, collect, start
from envs import EnvFailure, VectorEnv, make_envs
from fwrl.files.checkpoint import Checkpoint, pack, unpack
from fwrl.run.build import Setup, episodes_seed
from fwrl.run.config import RunConfig
from fwrl.run.log import RunLog, evaluation_metrics, gather_episodes, state_norm
from fwrl.run.memory_log import memory_metrics, state_pictures
from fwrl.run.progress import ProgressReport, say
from fwrl.run.saver import Saver, check_space, newest_checkpoint, undefined_in
from fwrl.run.signals import Interrupted, interrupt_updates, interruptible
from fwrl.run.state import (
    Counters,
    Run,
    begin,
    capture,
    counters_of,
    describe,
    joined,
    load_learner,
    resume,
    surroundings_of,
)
from fwrl.run.video.filming import moments, pictures_of

FINISHED, FAILED, STOPPED = 0, 1, 75
# Iterations in a row with skipped updates, until the policy is taken back to the last checkpoint.
MAX_SKIPPING = 3
# Times that it is taken back with fewer than so many iterations in between, until training ends.
MAX_ROLLBACKS, SOUND_ITERATIONS = 3, 100


class Failure(Exception):
    """Why a training cannot go on. The message is one line."""


class Job(NamedTuple):
    """A run and all that it needs to go on."""

    config: RunConfig
    run: Run
    evaluation_envs: VectorEnv | None
    log: RunLog | None
    """None in all processes but the first."""
    saver: Saver
    report: ProgressReport
    received: list[int]
    """The signals so far."""


def train(
    config: RunConfig,
    setup: Setup,
    directory: Path,
    continued: bool,
    received: list[int],
    console: Console,
) -> int:
    """Train until ``total_steps``, or until asked to stop; returns the exit code.

    Args:
        config: Of the run.
        setup: Made of it by ``prepare``; closed at the end.
        directory: Of the run, opened by ``open_run``.
        continued: Whether it has checkpoints to go on from.
        received: Signals; the first one stops the training.
        console: Where to report.

    Raises:
        CheckpointError: If there are checkpoints and none of them can be used.
        ConfigError: If there is no space for checkpoints.
    """
    saver = Saver(directory, config.checkpoint, partial(say, console))
    try:
        run, positions = _open(config, setup, saver, continued)
        if run.unfinished is None and run.counters.steps >= config.total_steps:
            saver.say(f"{directory}: finished, {run.counters.steps:,} steps")
            return FINISHED
        run.envs = interruptible(run.envs, received)
        interrupt_updates(run.learner.optimizer, received)
        evaluation_envs = setup.evaluation_envs and interruptible(setup.evaluation_envs, received)
        saver.say(f"{directory}: {describe(setup.learner.policy)}{_processes()}")
        log = RunLog(directory, config, positions) if distributed.is_first() else None
        report = ProgressReport(console, config.total_steps, run.counters.steps)
        try:
            return _train(Job(config, run, evaluation_envs, log, saver, report, received))
        finally:
            report.close()
            if log is not None:
                log.close()
    finally:
        setup.envs.close()
        if setup.evaluation_envs is not None:
            setup.evaluation_envs.close()


def _processes() -> str:
    count = distributed.num_processes()
    return f", in {count} processes" if count > 1 else ""


def _open(
    config: RunConfig, setup: Setup, saver: Saver, continued: bool
) -> tuple[Run, dict[str, int] | None]:
    """The run at its beginning or where it was saved, and how far its logs had come by then."""
    if not continued:
        return begin(setup.learner, setup.envs, episodes_seed(config, 0)), None
    checkpoint = _newest(saver)
    steps = counters_of(checkpoint).steps
    exact = config.checkpoint.resume == "exact"
    seed = episodes_seed(config, steps)
    run, notes = resume(setup.learner, setup.envs, checkpoint, seed, exact)
    before = checkpoint.document.get("surroundings", {})
    for name, now in surroundings_of(setup.learner.policy, config.num_threads).items():
        if before.get(name) != now:
            notes.append(f"{name} was {before.get(name, 'not recorded')} and is {now}")
    how = f"but not bit for bit: {'; '.join(notes)}" if notes else "bit for bit"
    saver.say(f"{saver.run}: continues at {steps:,} steps, {how}")
    return run, checkpoint.document.get("log")


def _newest(saver: Saver) -> Checkpoint:
    """The newest checkpoint that is whole; the first process reads it for all."""
    if distributed.num_processes() == 1:
        return newest_checkpoint(saver.run, saver.say)
    read = distributed.from_first(lambda: pack(newest_checkpoint(saver.run, saver.say)))
    return unpack(read)


def _train(job: Job) -> int:
    """The exit code. Whatever ends the training, what it had reached is saved."""
    saver, alone = job.saver, distributed.num_processes() == 1
    try:
        code = _loop(job)
    except Interrupted:
        code = STOPPED
    except Failure as error:
        saver.say(f"{saver.run}: {error}")
        return FAILED
    except Exception as error:
        # of several processes the others go on waiting and cannot be asked for their part
        if alone:
            _save(job, at_last=True)
        if not alone or not isinstance(error, EnvFailure | EvaluationError):
            raise
        saver.say(f"{saver.run}: {error}")
        return FAILED
    return code if _save(job, at_last=True) else FAILED


def _loop(job: Job) -> int:
    run, saver = job.run, job.saver
    saver.reached(capture(run))
    if run.counters.iterations == 0:
        if not _save(job):
            raise Failure("the first checkpoint could not be written")
        if distributed.is_first():
            check_space(saver.run, job.config.checkpoint.keep)
    while run.unfinished is not None or run.counters.steps < job.config.total_steps:
        if run.unfinished is None:
            _iterate(job)
        due = _evaluation_is_due(job)
        if due:
            # an evaluation can be long, and is made once more if it is interrupted
            saver.reached(capture(run))
            _evaluate(job)
        _write(job)
        saver.reached(capture(run))
        # only the first process knows when something was saved
        late = distributed.is_first() and saver.due()
        late, stop, lost = distributed.any_process(late, bool(job.received), saver.lost)
        if lost:
            raise Failure(f"checkpoints could not be written {saver.failures} times in a row")
        if stop:
            return STOPPED
        if due or late:
            _save(job)
    return FINISHED


def _iterate(job: Job) -> None:
    """Collect a rollout and update on it."""
    run, ppo = job.run, job.config.ppo
    began = time.perf_counter()
    rollout, run.carry, episodes = collect(
        run.envs,
        run.learner.policy,
        run.carry,
        ppo.num_steps,
        ppo.discount,
        ppo.gae_lambda,
        run.episodes,
        ppo.sequence_length,
    )
    acted = time.perf_counter()
    remaining = 1 - run.counters.steps / job.config.total_steps
    metrics = ppo_update(run.learner.policy, run.learner.optimizer, rollout, ppo, remaining)
    updated = time.perf_counter()
    metrics |= {
        "time/rollout_s": acted - began,
        "time/update_s": updated - acted,
        "memory/state_norm": state_norm(run.carry.memory),
    }
    episodes = gather_episodes(episodes)
    run.recent.add(episodes)
    for fault in episodes.faults:
        job.saver.say(fault)
    run.unfinished = distributed.average_metrics(metrics) | run.recent.metrics()
    run.score = None
    steps = ppo.num_steps * run.envs.num_envs * distributed.num_processes()
    skipped = int(metrics["health/skipped_updates"])
    run.counters = run.counters.after(steps, updated - began, len(episodes.faults), skipped)
    if _evaluation_is_due(job):
        run.unfinished |= memory_metrics(run.learner.policy, rollout)
    if run.counters.skipping >= MAX_SKIPPING:
        _roll_back(job, f"the gradient was not finite in {MAX_SKIPPING} iterations in a row")


def _evaluation_is_due(job: Job) -> bool:
    counters, every = job.run.counters, job.config.evaluation.every_steps
    at_the_end = counters.steps >= job.config.total_steps
    return at_the_end or counters.steps // every > counters.evaluated_at // every


def _evaluate(job: Job) -> None:
    """The same episodes every time, and a training that does not notice it was evaluated."""
    run, config = job.run, job.config
    run.counters = run.counters._replace(evaluated_at=run.counters.steps)
    if job.evaluation_envs is None:
        return
    chosen, policy = config.evaluation, run.learner.policy
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        episodes = evaluate(
            policy, job.evaluation_envs, chosen.episodes, config.seed, chosen.deterministic
        )
    for fault in episodes.faults:
        job.saver.say(fault)
    summary = summarise(episodes)
    run.score = summary.return_mean
    run.unfinished = (run.unfinished or {}) | evaluation_metrics(summary)
    job.saver.say(f"{run.counters.steps:,} steps: evaluated return {run.score:.4g}")
    _show(job)


def _show(job: Job) -> None:
    """What TensorBoard has to see at an evaluation: the memory, and the policy at work."""
    run, config, log = job.run, job.config, job.log
    if log is None:
        return
    log.show(run.counters.steps, state_pictures(run.carry.memory))
    longest = config.evaluation.film_steps
    if not longest:
        return
    envs = interruptible(make_envs(config.env, 1, evaluation=True, render=True), job.received)
    with closing(envs), torch.random.fork_rng():
        torch.manual_seed(config.seed)
        deterministic = config.evaluation.deterministic
        policy = run.learner.policy
        frames = list(pictures_of(moments(envs, policy, config.seed, longest, deterministic)))
    if frames:
        log.show_film(run.counters.steps, "eval/episode", frames)


def _write(job: Job) -> None:
    """Report the iteration, which is thereby finished."""
    counters, metrics = job.run.counters, job.run.unfinished or {}
    job.run.unfinished = None
    if job.log is not None:
        counts = {
            "health/env_faults": counters.env_faults,
            "health/skipped_updates": counters.skipped_updates,
            "health/rollbacks": counters.rollbacks,
            "health/log_errors": job.log.errors,
            "health/save_errors": job.saver.errors,
        }
        metrics |= {name: float(count) for name, count in counts.items()}
        metrics |= {"health/save_s": job.saver.seconds} | _progress(counters, job.report)
        job.log.write(counters.steps, metrics)
    job.report.show(counters.steps, metrics.get("rollout/ep_rew_mean"))


def _progress(counters: Counters, report: ProgressReport) -> dict[str, float]:
    return {
        "time/fps": report.speed(counters.steps),
        "time/iterations": float(counters.iterations),
        "time/time_elapsed": counters.seconds,
        "time/total_timesteps": float(counters.steps),
    }


def _save(job: Job, at_last: bool = False) -> bool:
    """Save what was reached last, if it is not saved; whether it is. All processes call it."""
    saver, policy = job.saver, job.run.learner.policy
    captured = saver.latest
    undefined = undefined_in(captured)
    spoilt, missing = distributed.any_process(undefined is not None, not saver.is_saved)
    if spoilt:
        reason = f"{undefined or 'a state of another process'} is not finite, it is not saved"
        if at_last:
            saver.say(f"{saver.run}: {reason}; the last checkpoint stays")
            return False
        _roll_back(job, reason)
        return False
    if not missing:
        return True
    checkpoint = joined(captured, policy, job.config)
    failed = False
    if job.log is not None:
        document = checkpoint.document | {"log": job.log.positions()}
        failed = not saver.save(checkpoint._replace(document=document), at_last)
    saver.is_saved = not distributed.any_process(failed)[0]
    return saver.is_saved


def _roll_back(job: Job, reason: str) -> None:
    """Take the policy back to the last checkpoint; the counters and random numbers go on.

    Raises:
        Failure: If that has been tried too often.
    """
    run, saver = job.run, job.saver
    checkpoint = _newest(saver)
    counters = run.counters.rolled_back(SOUND_ITERATIONS)
    if counters.tries > MAX_ROLLBACKS:
        raise Failure(f"{reason}; taken back {MAX_ROLLBACKS} times, it does not help")
    steps = counters_of(checkpoint).steps
    saver.say(f"{saver.run}: {reason}; the policy is taken back to that of {steps:,} steps")
    load_learner(run.learner, checkpoint)
    run.carry = start(
        run.envs, run.learner.policy, episodes_seed(job.config, counters.steps, counters.rollbacks)
    )
    run.episodes = EpisodeCounter(run.envs.num_envs)
    run.counters = counters
    saver.reached(capture(run))
