"""An iteration of a training, as a user's program sees it."""

import signal
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch

from agents.policy import RecurrentPolicy


class Iteration(NamedTuple):
    """A rollout and an update that were made."""

    steps: int
    """Environment steps since the training began."""
    metrics: dict[str, float]
    """As in ``metrics.csv``."""
    policy: RecurrentPolicy
    """After the update, to be looked at and not changed."""


# Called after each iteration; where it returns False, the training is saved and stops.
OnIteration: TypeAlias = Callable[[Iteration], object]


def look_at(iteration: Iteration, on_iteration: OnIteration | None, received: list[int]) -> None:
    """Show an iteration to the user's program; what that draws from PyTorch changes nothing."""
    if on_iteration is None:
        return
    with torch.random.fork_rng():
        wanted = on_iteration(iteration)
    if wanted is False:
        received.append(signal.SIGINT)
