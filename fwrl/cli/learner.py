"""What learns in a run, and how it is saved and taken up again."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch.optim import Optimizer

from agents.distributed import from_first, gather, is_first, num_processes, rank
from agents.policy import RecurrentPolicy
from agents.saving import CHECKPOINTS, describe_policy, find_checkpoint
from fwrl.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_optimizer,
    load_tensors,
    optimizer_tensors,
    pack,
    save_checkpoint,
    unpack,
)
from fwrl.state import tensors_in


class Counters(NamedTuple):
    """How far a run has come."""

    steps: int = 0
    iterations: int = 0
    seconds: float = 0.0

    def after(self, steps: int, seconds: float) -> "Counters":
        """One rollout and update later."""
        return Counters(self.steps + steps, self.iterations + 1, self.seconds + seconds)


class Learner(NamedTuple):
    """What an update changes."""

    policy: RecurrentPolicy
    optimizer: Optimizer


def describe(policy: RecurrentPolicy) -> str:
    """One line on what is trained."""
    parameters = sum(parameter.numel() for parameter in policy.parameters())
    remembered = sum(leaf.numel() for leaf in tensors_in(policy.initial_state(1)))
    return (
        f"{policy.config.core.kind} memory of {remembered:,} numbers, {parameters:,} parameters, "
        f"on {policy.device}"
    )


def save(learner: Learner, run: Path, counters: Counters, score: float | None) -> None:
    """Write ``checkpoints/<step>``; all processes of a training call it, the first one writes.

    Args:
        learner: Its tensors are copied.
        run: The run directory.
        counters: Where the run is.
        score: The mean return of an evaluation at this very step, if there was one.
    """
    generators = gather(torch.get_rng_state())
    if not is_first():
        return
    tensors = {
        "policy": learner.policy.state_dict(),
        "optimizer": optimizer_tensors(learner.optimizer),
        "generators": {_generator_of(i): state for i, state in enumerate(generators.unbind())},
    }
    document = {
        "policy": describe_policy(learner.policy),
        "counters": counters._asdict(),
        "score": score,
    }
    save_checkpoint(run / CHECKPOINTS / str(counters.steps), tensors, document)


def restore(learner: Learner, run: Path) -> Counters:
    """Load the newest checkpoint into the learner; the first process reads it for all.

    A process that the saved training did not have goes on with random numbers of its own.

    Raises:
        CheckpointError: If it is damaged or does not fit.
    """
    content = _newest(run)
    counters = Counters(**content.document["counters"])
    load_tensors(learner.policy, content.tensors["policy"], f"{run / CHECKPOINTS}/{counters.steps}")
    load_optimizer(learner.optimizer, content.tensors["optimizer"])
    generators = content.tensors["generators"]
    if _generator_of(rank()) in generators:
        torch.set_rng_state(generators[_generator_of(rank())])
    else:
        # not those of its last part in this training, if it ever had one
        torch.manual_seed(torch.initial_seed() + counters.steps)
    return counters


def _newest(run: Path) -> Checkpoint:
    if num_processes() == 1:
        return load_checkpoint(find_checkpoint(run, "last"))
    return unpack(from_first(lambda: pack(load_checkpoint(find_checkpoint(run, "last")))))


def _generator_of(number: int) -> str:
    """The name under which a process's random numbers are saved; a single one's is ``torch``."""
    return f"torch.{number}" if number else "torch"
