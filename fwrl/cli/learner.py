"""What learns in a run, and how it is saved and taken up again."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch.optim import Optimizer

from agents.policy import RecurrentPolicy
from agents.saving import CHECKPOINTS, describe_policy, find_checkpoint
from fwrl.checkpoint import (
    load_checkpoint,
    load_optimizer,
    load_tensors,
    optimizer_tensors,
    save_checkpoint,
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
    """Write ``checkpoints/<step>``.

    Args:
        learner: Its tensors are copied.
        run: The run directory.
        counters: Where the run is.
        score: The mean return of an evaluation at this very step, if there was one.
    """
    tensors = {
        "policy": learner.policy.state_dict(),
        "optimizer": optimizer_tensors(learner.optimizer),
        "generators": {"torch": torch.get_rng_state()},
    }
    document = {
        "policy": describe_policy(learner.policy),
        "counters": counters._asdict(),
        "score": score,
    }
    save_checkpoint(run / CHECKPOINTS / str(counters.steps), tensors, document)


def restore(learner: Learner, run: Path) -> Counters:
    """Load the newest checkpoint into the learner.

    Raises:
        CheckpointError: If it is damaged or does not fit.
    """
    folder = find_checkpoint(run, "last")
    content = load_checkpoint(folder)
    load_tensors(learner.policy, content.tensors["policy"], str(folder))
    load_optimizer(learner.optimizer, content.tensors["optimizer"])
    torch.set_rng_state(content.tensors["generators"]["torch"])
    return Counters(**content.document["counters"])
