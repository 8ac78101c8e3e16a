"""All of a training that goes on from one iteration to the next, as a checkpoint and back.

What is the same in all processes of a training (the policy, the optimiser, the counters) is saved
once; what each has of its own (its environments, what its streams remember, its random numbers) in
a file for each. A training that is continued with the same versions, threads and processes goes on
bit for bit as if it had never stopped.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from agents.distributed import gather_bytes, num_processes, rank
from agents.policy import RecurrentPolicy
from agents.rollout import Carry, EpisodeCounter, start, to_tensors
from agents.saving import describe_policy
from envs import VectorEnv
from fwrl.files.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_optimizer,
    load_tensors,
    optimizer_tensors,
    pack,
    unpack,
)
from fwrl.run.config import RunConfig
from fwrl.run.directory import package_versions
from fwrl.run.log import RecentEpisodes
from fwrl.run.process import generator_states, load_generators
from fwrl.state import map_tensors, tensors_in, where_state

# Of the file of one process; the number is its rank.
PROCESS = "process.{}"


class Counters(NamedTuple):
    """How far a run has come, and what it has met with."""

    steps: int = 0
    iterations: int = 0
    seconds: float = 0.0
    evaluated_at: int = 0
    """The steps at the last evaluation."""
    env_faults: int = 0
    skipped_updates: int = 0
    skipping: int = 0
    """Iterations in a row, until now, in which an update was skipped."""
    rollbacks: int = 0
    tries: int = 0
    """Of these, how many in a row, with few iterations in between."""
    rolled_back_at: int = 0
    """The iterations at the last one."""

    def after(self, steps: int, seconds: float, faults: int, skipped: int) -> "Counters":
        """One rollout and update later."""
        return self._replace(
            steps=self.steps + steps,
            iterations=self.iterations + 1,
            seconds=self.seconds + seconds,
            env_faults=self.env_faults + faults,
            skipped_updates=self.skipped_updates + skipped,
            skipping=self.skipping + 1 if skipped else 0,
        )

    def rolled_back(self, sound: int) -> "Counters":
        """After another rollback; ``sound`` iterations end a row of them."""
        again = self.tries > 0 and self.iterations - self.rolled_back_at < sound
        return self._replace(
            skipping=0,
            rollbacks=self.rollbacks + 1,
            tries=self.tries + 1 if again else 1,
            rolled_back_at=self.iterations,
        )


class Learner(NamedTuple):
    """What an update changes."""

    policy: RecurrentPolicy
    optimizer: Optimizer


@dataclass
class Run:
    """A training between two iterations."""

    learner: Learner
    envs: VectorEnv
    carry: Carry
    episodes: EpisodeCounter
    """Those under way."""
    recent: RecentEpisodes = field(default_factory=RecentEpisodes)
    counters: Counters = field(default_factory=Counters)
    unfinished: dict[str, float] | None = None
    """What the last iteration measured, as long as its evaluation is still to come."""
    score: float | None = None
    """The mean return of an evaluation at this very step, if there was one."""


def begin(learner: Learner, envs: VectorEnv, seed: int) -> Run:
    """A training whose streams open their first episodes."""
    return Run(learner, envs, start(envs, learner.policy, seed), EpisodeCounter(envs.num_envs))


def capture(run: Run) -> Checkpoint:
    """A copy of all of it, of this process; no later step changes it."""
    tensors = {
        "policy": run.learner.policy.state_dict(),
        "optimizer": optimizer_tensors(run.learner.optimizer),
        "metrics": _metrics(run),
        "process": _own(run),
    }
    copies = {
        file: {name: leaf.detach().clone() for name, leaf in group.items()}
        for file, group in tensors.items()
    }
    return Checkpoint(copies, {"counters": run.counters._asdict(), "score": run.score})


def joined(captured: Checkpoint, policy: RecurrentPolicy, config: RunConfig) -> Checkpoint:
    """What is saved of the captures of all processes, which must all call this."""
    own = Checkpoint({"process": captured.tensors["process"]}, {})
    shared = {file: group for file, group in captured.tensors.items() if file != "process"}
    parts = [unpack(data) for data in gather_bytes(pack(own))] if num_processes() > 1 else [own]
    each = {PROCESS.format(i): part.tensors["process"] for i, part in enumerate(parts)}
    document = {"policy": describe_policy(policy), **captured.document}
    surroundings = surroundings_of(policy, config.num_threads)
    return Checkpoint(shared | each, document | {"surroundings": surroundings})


def surroundings_of(policy: RecurrentPolicy, threads: int) -> dict[str, Any]:
    """What must be the same for a continued training to compute the same bits."""
    return package_versions() | {
        "device": policy.device.type,
        "threads": threads,
        "processes": num_processes(),
    }


def resume(
    learner: Learner, envs: VectorEnv, checkpoint: Checkpoint, seed: int, exact: bool
) -> tuple[Run, list[str]]:
    """The training that a checkpoint holds.

    Args:
        learner: Built by the same configuration; gets what was saved.
        envs: Built by the same configuration; continued where that is possible.
        checkpoint: Of a training.
        seed: Of the episodes that begin anew.
        exact: Continue the episodes that were under way; otherwise all begin anew.

    Returns:
        The run, and in what it differs from one that never stopped.

    Raises:
        CheckpointError: If it does not fit.
    """
    load_learner(learner, checkpoint)
    run = begin(learner, envs, seed)
    own = checkpoint.tensors.get(PROCESS.format(rank()))
    try:
        run.counters, run.score = counters_of(checkpoint), checkpoint.document["score"]
        _load_metrics(run, checkpoint.tensors.get("metrics", {}))
        if own is None:
            # not those of its last part in this training, if it ever had one
            torch.manual_seed(torch.initial_seed() + run.counters.steps)
            return run, ["the episodes under way were not saved"]
        notes = _load_streams(run, own) if exact else ["checkpoint.resume is 'fast'"]
        # last, so that nothing that was built or played again has used any of them
        load_generators(own, learner.policy.device)
    except CheckpointError:
        raise
    except KeyError as error:
        raise CheckpointError(f"{error} is missing; it was saved by something else") from None
    except (TypeError, ValueError, RuntimeError, OverflowError, IndexError) as error:
        raise CheckpointError(f"it cannot be continued: {' '.join(str(error).split())}") from None
    return run, notes


def counters_of(checkpoint: Checkpoint) -> Counters:
    """How far the training had come that a checkpoint holds.

    Raises:
        CheckpointError: If it does not say.
    """
    try:
        counters = Counters(**checkpoint.document["counters"])
        # what is no number cannot be compared
        if all(number >= 0 for number in counters):
            return counters
    except (KeyError, TypeError):
        pass
    raise CheckpointError("its counters are not those of a training")


def load_learner(learner: Learner, checkpoint: Checkpoint) -> None:
    """Give the learner what was saved of it.

    Raises:
        CheckpointError: If it does not fit.
    """
    try:
        load_tensors(learner.policy, checkpoint.tensors["policy"], "policy")
        # before the first update there is nothing
        load_optimizer(learner.optimizer, checkpoint.tensors.get("optimizer", {}))
    except (KeyError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"not what this configuration trains: {error}") from None


def describe(policy: RecurrentPolicy) -> str:
    """One line on what is trained."""
    parameters = sum(parameter.numel() for parameter in policy.parameters())
    remembered = sum(leaf.numel() for leaf in tensors_in(policy.initial_state(1)))
    return (
        f"{policy.config.core.kind} memory of {remembered:,} numbers, {parameters:,} parameters, "
        f"on {policy.device}"
    )


def _own(run: Run) -> dict[str, Tensor]:
    """What this process has for itself."""
    carried = {f"carry.{i}": leaf for i, leaf in enumerate(tensors_in(run.carry))}
    arrays = {f"envs.{name}": array for name, array in (run.envs.state() or {}).items()}
    arrays |= {"returns": run.episodes.returns, "lengths": run.episodes.lengths}
    numbers = {name: torch.as_tensor(array) for name, array in arrays.items()}
    return carried | numbers | generator_states(run.learner.policy.device)


def _load_streams(run: Run, own: Mapping[str, Tensor]) -> list[str]:
    """Continue the episodes under way, as far as the environments can; what they cannot."""
    state = {n.removeprefix("envs."): own[n].numpy() for n in own if n.startswith("envs.")}
    if not state:
        return ["these environments cannot say where they are: all episodes begin anew"]
    fresh = run.carry
    saved = [own[f"carry.{i}"] for i in range(sum(name.startswith("carry.") for name in own))]
    alike = [(leaf.shape, leaf.dtype) for leaf in tensors_in(fresh)]
    if [(leaf.shape, leaf.dtype) for leaf in saved] != alike:
        raise CheckpointError("what its streams remember is not what this policy remembers")
    leaves = iter(saved)

    def take(leaf: Tensor) -> Tensor:
        return next(leaves).to(leaf.device)

    carry = map_tensors(take, fresh)
    anew, observation = run.envs.restore(state)
    returns, lengths = own["returns"].numpy().copy(), own["lengths"].numpy().copy()
    if anew.any():
        device = run.learner.policy.device
        inputs = fresh.inputs._replace(observation=to_tensors(observation, device))
        rows = torch.as_tensor(anew, device=device)
        carry = where_state(rows, fresh._replace(inputs=inputs), carry)
        returns[anew], lengths[anew] = 0.0, 0
    run.carry, run.episodes.returns, run.episodes.lengths = carry, returns, lengths
    count = int(anew.sum())
    return [f"{count} episodes were too long to be played again and begin anew"] if count else []


def _metrics(run: Run) -> dict[str, Tensor]:
    """Numbers that may be NaN, which JSON cannot say."""
    numbers: dict[str, list[float]] = {
        f"recent.{name}": [math.nan if value is None else value for value in column]
        for name, column in vars(run.recent).items()
    }
    numbers |= {f"unfinished.{name}": [value] for name, value in (run.unfinished or {}).items()}
    return {name: torch.tensor(each, dtype=torch.float64) for name, each in numbers.items()}


def _load_metrics(run: Run, saved: Mapping[str, Tensor]) -> None:
    columns = {name: saved.get(f"recent.{name}", torch.zeros(0)) for name in vars(run.recent)}
    run.recent.returns.extend(columns["returns"].tolist())
    run.recent.lengths.extend(map(int, columns["lengths"].tolist()))
    run.recent.successes.extend(
        None if math.isnan(value) else bool(value) for value in columns["successes"].tolist()
    )
    waiting = {
        name.removeprefix("unfinished."): value.item()
        for name, value in saved.items()
        if name.startswith("unfinished.")
    }
    run.unfinished = waiting or None
