"""The one contract of all memories, what each says about itself, and what ``unroll`` means."""

from abc import ABC, abstractmethod
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fwrl.recurrence import by_steps
from fwrl.state import tensors_in

S = TypeVar("S")


class About(NamedTuple):
    """What the tables of memories say about a core."""

    # one line of mathematics: how the state of one head changes and is read in one time step
    update: str
    # multiplications per time step and stream; D input size, H heads, K key features, V value size
    cost: str
    # whether a sequence is computed in parallel over time
    parallel: bool
    # author and year, several parted by semicolons
    source: str


class MemoryCore(nn.Module, ABC, Generic[S]):
    """A causal map over time whose whole memory is an explicit state of type ``S``.

    Nothing is remembered in ``self`` between calls. ``starts[b, t]`` says that ``x[b, t]`` opens a
    new episode (or document): a fresh state replaces the old one before that input is read.
    """

    input_size: int
    output_size: int

    @abstractmethod
    def initial_state(self, batch_size: int, device: torch.device | None = None) -> S:
        """The state of streams that have seen nothing; leaves are float32, batch first."""

    @abstractmethod
    def step(self, x: Float[Tensor, "B D"], state: S) -> tuple[Float[Tensor, "B E"], S]:
        """Read one input per stream; the given state is left as it was."""

    @abstractmethod
    def unroll(
        self, x: Float[Tensor, "B T D"], state: S, starts: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T E"], S]:
        """Read T inputs per stream; equal, however computed, to T resets and steps."""


def unroll_by_steps(
    core: MemoryCore[S], x: Float[Tensor, "B T D"], state: S, starts: Bool[Tensor, "B T"]
) -> tuple[Float[Tensor, "B T E"], S]:
    """What ``unroll`` means: the other form of every core, and its test oracle."""
    return by_steps(core.step, x, state, starts, core.initial_state(x.shape[0], x.device))


def step_by_unroll(
    core: MemoryCore[S], x: Float[Tensor, "B D"], state: S
) -> tuple[Float[Tensor, "B E"], S]:
    """One time as a sequence that starts nothing: ``step`` of cores that are parallel over time."""
    starts = torch.zeros(x.shape[0], 1, dtype=torch.bool, device=x.device)
    y, state = core.unroll(x.unsqueeze(1), state, starts)
    return y.squeeze(1), state


def state_size(core: MemoryCore[Any]) -> int:
    """How many numbers the core remembers of one stream."""
    return sum(leaf.numel() for leaf in tensors_in(core.initial_state(1)))
