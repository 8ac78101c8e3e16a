"""The contract of all memories, their configurations, and ``unroll`` written as steps."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fwrl.config import Config
from fwrl.state import map_tensors, may_look, tensors_in, where_state
from fwrl.update_rules import ScanInputs, UpdateRule

S = TypeVar("S")


class About(NamedTuple):
    """The entry of a core in the tables of memories."""

    # one line of mathematics: how the state of one head changes and is read in one time step
    update: str
    # multiplications per time step and stream; D input size, H heads, K key features, V value size
    cost: str
    # whether a sequence is computed in parallel over time
    parallel: bool
    # author and year, several parted by semicolons
    source: str


class Reads(NamedTuple):
    """One memory of a core over a sequence: where it is written and read."""

    name: str
    rule: UpdateRule
    inputs: ScanInputs
    # how many of these times are one time step: the queries before the last of them read nothing
    writes: int = 1


class MemoryCore(nn.Module, ABC, Generic[S]):
    """A causal map over time whose whole memory is an explicit state of type ``S``.

    Nothing is remembered in ``self`` between calls. ``starts[b, t]`` says that ``x[b, t]`` opens a
    new episode (or document): a fresh state replaces the old one before that input is read.
    """

    input_size: int
    output_size: int
    # what a recall map of its reads leaves out, or why there is none
    remark: str = "it does not say what its output is read from"

    @abstractmethod
    def initial_state(self, batch_size: int, device: torch.device | None = None) -> S:
        """The state of streams that have seen nothing; leaves are float32, batch first."""

    def step(self, x: Float[Tensor, "B D"], state: S) -> tuple[Float[Tensor, "B E"], S]:
        """Read one input per stream; the given state is left as it was.

        Without a form of its own: a sequence of one time step that starts nothing.
        """
        starts = torch.zeros(x.shape[0], 1, dtype=torch.bool, device=x.device)
        y, state = self.unroll(x.unsqueeze(1), state, starts)
        return y.squeeze(1), state

    @abstractmethod
    def unroll(
        self, x: Float[Tensor, "B T D"], state: S, starts: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T E"], S]:
        """Read T inputs per stream; equal, however computed, to T resets and steps."""

    def reads(
        self, x: Float[Tensor, "B T D"], state: S, starts: Bool[Tensor, "B T"]
    ) -> list[Reads]:
        """The memories that ``unroll`` would read for its output, in the order of the reads.

        Computed beside ``unroll``, for inspection. Empty where the output is no linear read.
        """
        del x, state, starts
        return []


class MemoryCoreConfig(Config, ABC):
    """The base of the configurations of cores, which build them."""

    about: ClassVar[About]
    kind: Any = ""
    """The core's name in ``CORES``; each configuration has a literal of its own."""

    @abstractmethod
    def build(self, input_size: int) -> MemoryCore[Any]:
        """The core for inputs of this size."""


def unroll_by_steps(
    core: MemoryCore[S], x: Float[Tensor, "B T D"], state: S, starts: Bool[Tensor, "B T"]
) -> tuple[Float[Tensor, "B T E"], S]:
    """``unroll`` by its meaning, one step after another: the oracle of the tests of cores."""
    return by_steps(core.step, x, state, starts, core.initial_state(x.shape[0], x.device))


def state_size(core: MemoryCore[Any]) -> int:
    """The number of floats that the core remembers of one stream."""
    return sum(leaf.numel() for leaf in tensors_in(core.initial_state(1)))


# The inputs of one time, or those of all times with a second axis for time.
Inputs = TypeVar("Inputs")


def by_steps(
    advance: Callable[[Inputs, S], tuple[Tensor, S]],
    inputs: Inputs,
    state: S,
    starts: Bool[Tensor, "B T"],
    fresh: S,
) -> tuple[Float[Tensor, "B T *E"], S]:
    """The outputs of one time after another, and the last state.

    Compute all that does not depend on the state for all times at once, and pass it as ``inputs``.

    Args:
        advance: Takes the inputs of one time and the state; gives an output and the new state.
        inputs: A tensor or a nesting of them, each ``[B, T, ...]``.
        state: What the streams remember before the first time.
        starts: Where True, ``fresh`` replaces the state before the inputs are read.
        fresh: The state that an episode begins with, for every stream.
    """
    # unbinding once keeps the backward pass linear in T; indexing each time would not
    columns = [iter(leaf.unbind(1)) for leaf in tensors_in(inputs)]
    outputs: list[Tensor] = []
    for starts_t, any_start in zip(starts.unbind(1), _anywhere(starts), strict=True):
        if any_start:
            state = where_state(starts_t, fresh, state)
        y, state = advance(_next(inputs, columns), state)
        outputs.append(y)
    return torch.stack(outputs, dim=1), state


def by_spans(
    advance: Callable[[Inputs, S], tuple[Tensor, S]],
    inputs: Inputs,
    state: S,
    starts: Bool[Tensor, "B T"],
    fresh: S,
    changes: Bool[Tensor, "B T"],
) -> tuple[Float[Tensor, "B T *E"], S]:
    """``by_steps`` for a state that stays the same over many times, which then are one call.

    Args:
        advance: Takes the inputs of a span of times, and the state at all of them; gives outputs
            and the state after the last.
        inputs: A tensor or a nesting of them, each ``[B, T, ...]``.
        state: What the streams remember before the first time.
        starts: Where True, ``fresh`` replaces the state before the inputs are read.
        fresh: The state that an episode begins with, for every stream.
        changes: The times after which the state of a stream changes, where a span ends for all.
    """
    opens, closes = _anywhere(starts), _anywhere(changes)
    times = len(opens)
    firsts = [0] + [t for t in range(1, times) if opens[t] or closes[t - 1]]
    lengths = [end - first for first, end in pairwise([*firsts, times])]
    columns = [iter(leaf.split(lengths, dim=1)) for leaf in tensors_in(inputs)]
    outputs: list[Tensor] = []
    for first in firsts:
        if opens[first]:
            state = where_state(starts[:, first], fresh, state)
        y, state = advance(_next(inputs, columns), state)
        outputs.append(y)
    return torch.cat(outputs, dim=1), state


def _anywhere(marks: Bool[Tensor, "B T"]) -> list[bool]:
    """Whether any stream is marked, time by time: where none is, a reset is skipped.

    Everywhere, where the marks may not be looked at.
    """
    return marks.any(dim=0).tolist() if may_look(marks) else [True] * marks.shape[1]


def _next(inputs: Inputs, columns: list[Iterator[Tensor]]) -> Inputs:
    return map_tensors(partial(_take, iter(columns)), inputs)


def _take(leaves: Iterator[Iterator[Tensor]], _: Tensor) -> Tensor:
    return next(next(leaves))
