"""The training run: collect, update, log; every so often evaluate and save."""

import signal
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from torch import Tensor
from torch.optim import Optimizer

from agents.evaluation import Summary, evaluate, summarise
from agents.policy import RecurrentPolicy
from agents.ppo import make_optimizer, ppo_update
from agents.rollout import EpisodeCounter, Episodes, collect, start
from agents.saving import CHECKPOINTS, describe_policy, find_checkpoint, list_checkpoints
from envs import EnvConfigError, VectorEnv, make_envs
from fwrl.checkpoint import load_checkpoint, load_tensors, save_checkpoint
from fwrl.cli.progress import ProgressReport
from fwrl.cli.run_config import RunConfig
from fwrl.cli.run_directory import prune_checkpoints
from fwrl.cli.run_log import RunLog
from fwrl.config import ConfigError
from fwrl.state import tensors_in

FINISHED, STOPPED = 0, 75


class Counters(NamedTuple):
    """How far a run has come."""

    steps: int = 0
    iterations: int = 0
    seconds: float = 0.0


class Learner(NamedTuple):
    """What a checkpoint saves of a run."""

    policy: RecurrentPolicy
    optimizer: Optimizer


def choose_device(name: str) -> torch.device:
    """The device that a configuration means.

    Raises:
        ConfigError: If it is not there.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is 'cuda'; this machine has no CUDA device, use auto or cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def open_environments(config: RunConfig, evaluation: bool) -> VectorEnv:
    """The environments of a run, for training or for evaluation."""
    count = config.evaluation.num_envs if evaluation else config.env.num_envs
    if evaluation:
        count = min(count, config.evaluation.episodes)
    try:
        return make_envs(config.env, count, evaluation=evaluation)
    except EnvConfigError as error:
        raise ConfigError(str(error)) from None


def train(config: RunConfig, directory: Path, continued: bool, console: Console) -> int:
    """Train until ``total_steps``, or until asked to stop; returns the exit code."""
    torch.set_num_threads(config.num_threads)
    torch.manual_seed(config.seed)
    envs, evaluation_envs = (open_environments(config, evaluation) for evaluation in (False, True))
    policy = RecurrentPolicy(envs.observation_space, envs.action_space, config.policy)
    policy = policy.to(choose_device(config.device))
    learner = Learner(policy, make_optimizer(policy, config.ppo))
    counters = restore(learner, directory) if continued else Counters()
    if counters.steps >= config.total_steps:
        console.print(f"{directory}: finished, {counters.steps:,} steps", highlight=False)
        return FINISHED
    log = RunLog(directory, config, counters.steps)
    report = ProgressReport(console, config.total_steps, counters.steps)
    report.say(f"{directory}: {describe(policy)}")
    try:
        with stop_signals() as stopped:
            _loop(config, directory, learner, (envs, evaluation_envs), counters, log, report, stopped)
    finally:
        report.close()
        log.close()
        envs.close()
        evaluation_envs.close()
    return STOPPED if stopped else FINISHED


def _loop(
    config: RunConfig,
    directory: Path,
    learner: Learner,
    both_envs: tuple[VectorEnv, VectorEnv],
    counters: Counters,
    log: RunLog,
    report: ProgressReport,
    stopped: list[int],
) -> None:
    envs, evaluation_envs = both_envs
    policy, ppo = learner.policy, config.ppo
    carry = start(envs, policy, _stream_seed(config.seed, counters.steps))
    counter = EpisodeCounter(envs.num_envs)
    recent = Episodes(deque(maxlen=100), deque(maxlen=100), deque(maxlen=100))
    steps, iterations, seconds = counters
    evaluated = steps // config.evaluation.every_steps
    while steps < config.total_steps and not stopped:
        began = time.perf_counter()
        rollout, carry, episodes = collect(
            envs, policy, carry, ppo.num_steps, ppo.discount, ppo.gae_lambda, counter,
            ppo.sequence_length,
        )
        acted = time.perf_counter()
        metrics = ppo_update(policy, learner.optimizer, rollout, ppo, 1 - steps / config.total_steps)
        updated = time.perf_counter()

        steps += ppo.num_steps * envs.num_envs
        iterations += 1
        seconds += updated - began
        for all_of_them, new in zip(recent, episodes, strict=True):
            all_of_them.extend(new)
        metrics |= _rollout_metrics(recent) | {
            "time/fps": report.speed(steps),
            "time/iterations": iterations,
            "time/time_elapsed": seconds,
            "time/total_timesteps": steps,
            "time/rollout_s": acted - began,
            "time/update_s": updated - acted,
            "memory/state_norm": _root_mean_square(carry.memory),
        }
        due = steps // config.evaluation.every_steps > evaluated or steps >= config.total_steps
        score = None
        if due and not stopped:
            evaluated = steps // config.evaluation.every_steps
            summary = _evaluate(config, policy, evaluation_envs)
            metrics |= _evaluation_metrics(summary)
            score = summary.return_mean
            report.say(f"{steps:,} steps: evaluated return {score:.4g}")
        log.write(steps, metrics)
        if due or stopped:
            log.flush()
            save(learner, directory, Counters(steps, iterations, seconds), score)
            prune_checkpoints(directory, config.checkpoint.keep)
        report.show(steps, metrics.get("rollout/ep_rew_mean"))


@contextmanager
def stop_signals() -> Iterator[list[int]]:
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


def save(learner: Learner, directory: Path, counters: Counters, score: float | None) -> None:
    """Write ``checkpoints/<step>``."""
    state = learner.optimizer.state_dict()
    moments = {
        f"{index}.{name}": torch.as_tensor(value)
        for index, entry in state["state"].items()
        for name, value in entry.items()
    }
    generators = {"torch": torch.get_rng_state()}
    tensors = {
        "policy": learner.policy.state_dict(),
        "optimizer": moments,
        "generators": generators,
    }
    document = {
        "policy": describe_policy(learner.policy),
        "counters": counters._asdict(),
        "score": score,
    }
    save_checkpoint(directory / CHECKPOINTS / str(counters.steps), tensors, document)


def restore(learner: Learner, directory: Path) -> Counters:
    """Load the newest checkpoint into the learner."""
    folder = find_checkpoint(directory, "last")
    content = load_checkpoint(folder)
    load_tensors(learner.policy, content.tensors["policy"], str(folder))
    entries: dict[int, dict[str, Tensor]] = {}
    for key, tensor in content.tensors["optimizer"].items():
        index, _, name = key.partition(".")
        entries.setdefault(int(index), {})[name] = tensor
    groups = learner.optimizer.state_dict()["param_groups"]
    learner.optimizer.load_state_dict({"state": entries, "param_groups": groups})
    torch.set_rng_state(content.tensors["generators"]["torch"])
    return Counters(**content.document["counters"])


def describe(policy: RecurrentPolicy) -> str:
    """One line on what is trained."""
    numbers = sum(parameter.numel() for parameter in policy.parameters())
    remembered = sum(leaf.numel() for leaf in tensors_in(policy.initial_state(1)))
    return (
        f"{policy.config.core.kind} memory of {remembered:,} numbers, {numbers:,} parameters, "
        f"on {policy.device}"
    )


def _stream_seed(seed: int, steps: int) -> int:
    """Another part of the environments' episodes each time that a run is continued."""
    return int(np.random.SeedSequence((seed, steps)).generate_state(1)[0] >> 1)


def _evaluate(config: RunConfig, policy: RecurrentPolicy, envs: VectorEnv) -> Summary:
    chosen = config.evaluation
    # the same episodes every time, and a training that does not notice whether it was evaluated
    generator = torch.get_rng_state()
    episodes = evaluate(policy, envs, chosen.episodes, config.seed, chosen.deterministic)
    torch.set_rng_state(generator)
    return summarise(episodes)


def _rollout_metrics(recent: Episodes) -> dict[str, float]:
    if not recent.returns:
        return {}
    metrics = {
        "rollout/ep_rew_mean": float(np.mean(recent.returns)),
        "rollout/ep_len_mean": float(np.mean(recent.lengths)),
    }
    if recent.successes:
        metrics["rollout/success_rate"] = float(np.mean(recent.successes))
    return metrics


def _evaluation_metrics(summary: Summary) -> dict[str, float]:
    metrics = {
        "eval/mean_reward": summary.return_mean,
        "eval/mean_ep_length": summary.length_mean,
        "eval/iqm": summary.return_iqm,
        "eval/ci_low": summary.return_ci95[0],
        "eval/ci_high": summary.return_ci95[1],
    }
    if summary.success_rate is not None:
        metrics["eval/success_rate"] = summary.success_rate
    return metrics


def _root_mean_square(memory: Any) -> float:
    leaves = tensors_in(memory)
    count = sum(leaf.numel() for leaf in leaves)
    if count == 0:
        return 0.0
    return float((sum(leaf.square().sum() for leaf in leaves) / count) ** 0.5)
