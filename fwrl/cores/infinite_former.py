"""Attention over a short window, and over a continuous memory of all that has left it."""

from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from pydantic import Field, PositiveFloat, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from fwrl.config import Count, Size
from fwrl.core import About, MemoryCore, MemoryCoreConfig, by_spans
from fwrl.cores.parts.attention import WindowedAttention, extend, remember
from fwrl.cores.parts.continuous_memory import ContinuousMemory, mass_in_bins
from fwrl.state import (
    at_least_float32,
    map_tensors,
    may_look,
    take_rows,
    time_in_episode,
    where_state,
    without_autocast,
)

# The narrowest attention density.
MIN_VARIANCE = 1e-6


class InfiniteFormerConfig(MemoryCoreConfig):
    """The infinite-former (Martins et al. 2022), sized for reinforcement learning.

    Note:
        The published code cuts the gradient at every segment; here it flows through all fits that
        the caller keeps. Left out: the regulariser of the attention densities. The short-term part
        has rotary positions, and the long-term memory takes in the inputs of this core.
    """

    about: ClassVar[About] = About(
        update="B <- C B + G X each time a segment X leaves the window, y = V(E[psi]^T B) + short",
        cost="7D^2 + 2 window D + (2H + N / segment) N D with N basis functions",
        parallel=False,
        source="Martins et al. 2022",
    )
    kind: Literal["infinite_former"] = "infinite_former"
    heads: Count = 4
    """Attention heads; a divisor of the input size."""
    window: Size = 32
    """Time steps that stay in the short-term memory when a segment leaves it."""
    segment: Size = 16
    """Time steps that leave together."""
    basis_functions: int = Field(default=64, ge=4, le=2**14)
    """Basis functions of the long-term memory; half of them narrow, half wide."""
    widths: tuple[PositiveFloat, PositiveFloat] | None = None
    """Standard deviations of the two halves; None: 0.01 and 0.05 as published for 512 functions,
    or one and two spacings of the grid where that is more."""
    samples: Size = 64
    """Points at which the old signal is read before it is fitted again."""
    contraction: float = Field(default=0.75, gt=0, lt=1)
    """The part of the long-term memory that the past keeps when a segment is added."""
    ridge: PositiveFloat = 0.5
    """The penalty of the regression: larger is smoother."""
    sticky: bool = False
    """Whether the parts of the signal that were attended to keep more room. The samples are evenly
    spaced quantiles of the attention, with a hundredth of uniform density, in place of random
    draws."""
    bins: Size = 128
    """Bins of the histogram of attention, if sticky."""
    input_gate: bool = False
    """Whether a convolution over a segment gates it before it is added."""

    @model_validator(mode="after")
    def _consistent(self) -> "InfiniteFormerConfig":
        if self.basis_functions % 2:
            raise ValueError(
                f"basis_functions is {self.basis_functions}; half are narrow, half wide: use "
                f"{self.basis_functions + 1}"
            )
        return self

    @override
    def build(self, input_size: int) -> "InfiniteFormer":
        return InfiniteFormer(input_size, self)


class LongTerm(NamedTuple):
    """The continuous memory of one stream, of constant size."""

    coefficients: Float[Tensor, "B N D"]
    # whether anything has been folded in: 0 or 1
    holds: Float[Tensor, " B"]
    # where attention has been since the last fold, which empties it; no bins if not sticky
    histogram: Float[Tensor, "B Q"]


class State(NamedTuple):
    """Inputs of the last time steps, the newest last, their number, and the long-term memory."""

    inputs: Float[Tensor, "B P D"]
    held: Float[Tensor, " B"]
    long: LongTerm


class Inputs(NamedTuple):
    """The inputs of the long-term memory at each time step."""

    # its products with the coefficients are scores
    query: Float[Tensor, "B T H D"]
    # the oldest vectors of the window
    segment: Float[Tensor, "B T D S"]
    # whether these leave after this time step
    full: Bool[Tensor, "B T"]


class InfiniteFormer(MemoryCore[State]):
    """State: a window of inputs, and coefficients whose number does not grow with the episode.

    The window fills up to ``window + segment`` times; then its oldest ``segment`` are folded into
    the coefficients. When that happens depends on when the episode of a stream began.
    """

    edges: Tensor
    remark = "it attends to a window and to a curve through all that has left it"

    def __init__(self, input_size: int, config: InfiniteFormerConfig) -> None:
        super().__init__()
        self.input_size = self.output_size = input_size
        self.window, self.segment = config.window, config.segment
        self.past = config.window + config.segment - 1
        self.attention = WindowedAttention(input_size, config.heads, self.past + 1, "rotary")
        self.memory = ContinuousMemory(
            config.basis_functions,
            config.widths,
            config.segment,
            config.samples,
            config.contraction,
            config.ridge,
        )
        self.gate = nn.Conv1d(input_size, input_size, 3, padding=1) if config.input_gate else None
        self.key = nn.Linear(input_size, input_size, bias=False)
        self.value = nn.Linear(input_size, input_size, bias=False)
        self.output = nn.Linear(input_size, input_size, bias=False)
        self.density = nn.Linear(config.basis_functions, 2, bias=False)
        self.bins = config.bins if config.sticky else 0
        self.register_buffer("edges", torch.linspace(0, 1, self.bins + 1), persistent=False)

    @override
    def initial_state(self, batch_size: int, device: torch.device | None = None) -> State:
        inputs = torch.zeros(batch_size, self.past, self.input_size, device=device)
        held = torch.zeros(batch_size, device=device)
        return State(inputs, held, self._nothing(batch_size, device))

    def _nothing(self, batch_size: int, device: torch.device | None) -> LongTerm:
        basis_functions = self.density.in_features
        return LongTerm(
            torch.zeros(batch_size, basis_functions, self.input_size, device=device),
            torch.zeros(batch_size, device=device),
            torch.zeros(batch_size, self.bins, device=device),
        )

    @override
    def unroll(
        self, x: Float[Tensor, "B T D"], state: State, starts: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T E"], State]:
        inputs = extend(state.inputs, at_least_float32(x))
        seen = self._seen(time_in_episode(starts, state.held))
        full = seen == self.past + 1
        query = self.attention.queries(x)
        short = self.attention.read(query, *self.attention.keys_values(inputs), seen)
        with without_autocast(x.device):
            segments = inputs.unfold(1, self.segment, 1)[:, : x.shape[1]]
            columns = Inputs(self._long_queries(query), segments, full)
            fresh = self._nothing(x.shape[0], x.device)
            before = LongTerm(*(leaf.to(query.dtype) for leaf in state.long))
            read, long = by_spans(self._advance, columns, before, starts, fresh, full)
            found = torch.einsum("bthd,hvd->bthv", read, self._by_head(self.value))
        left = torch.where(full[:, -1], self.window, seen[:, -1])
        y = short + self.output(found.flatten(start_dim=-2))
        return y, State(*remember(inputs, left, self.past), long)

    def _seen(self, time: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        """Time steps that the window holds, given how many there would be if none ever left it."""
        beyond = time - self.window - 1
        return torch.where(beyond < 0, time, self.window + 1 + beyond % self.segment)

    def _long_queries(self, query: Float[Tensor, "B T H K"]) -> Float[Tensor, "B T H D"]:
        """Queries for the coefficients themselves, which so need no keys."""
        scaled = query * self.attention.head_size**-0.5
        return torch.einsum("bthk,hkd->bthd", scaled, self._by_head(self.key))

    def _by_head(self, layer: nn.Linear) -> Tensor:
        return layer.weight.unflatten(0, (self.attention.heads, self.attention.head_size))

    def _advance(
        self, inputs: Inputs, state: LongTerm
    ) -> tuple[Float[Tensor, "B T H D"], LongTerm]:
        """The reads of time steps that share one long-term memory, and the memory after them."""
        scores = torch.einsum("bthd,bnd->bthn", inputs.query, state.coefficients)
        mean, variance = self.density(scores).unbind(dim=-1)
        mean, variance = mean.sigmoid(), F.softplus(variance).clamp_min(MIN_VARIANCE)
        expected = self.memory.basis.expectation(mean, variance)
        read = torch.einsum("bthn,bnd->bthd", expected, state.coefficients)
        read = torch.where(state.holds[:, None, None, None] > 0, read, 0.0)
        if self.bins:
            mass = mass_in_bins(mean, variance, self.edges).sum(dim=(1, 2))
            state = state._replace(histogram=state.histogram + mass)
        return read, self._fold(inputs.segment[:, -1], inputs.full[:, -1], state)

    def _fold(
        self, segment: Float[Tensor, "B D S"], full: Bool[Tensor, " B"], state: LongTerm
    ) -> LongTerm:
        """The memory after the segments of those rows whose window is full."""
        if not may_look(full):
            # how many rows it is cannot be known
            return where_state(full, self._folded(segment, state), state)
        rows = full.nonzero().squeeze(1)
        if not len(rows):
            return state
        folded = self._folded(segment[rows], take_rows(state, rows))

        def put(old: Tensor, new: Tensor) -> Tensor:
            return old.index_copy(0, rows, new)

        return map_tensors(put, state, folded)

    def _folded(self, segment: Float[Tensor, "B D S"], state: LongTerm) -> LongTerm:
        """The memory after segments of all these rows."""
        if self.gate is not None:
            segment = segment * self.gate(segment).sigmoid()
        histogram = state.histogram if self.bins else None
        coefficients = self.memory.fold(state.coefficients, segment.mT, state.holds > 0, histogram)
        empty = torch.zeros_like(state.histogram)
        return LongTerm(coefficients, torch.ones_like(state.holds), empty)
