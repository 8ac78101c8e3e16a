"""A residual stack of memory cores. It is a memory core itself: nothing above can tell."""

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from pydantic import model_validator
from torch import Tensor, nn
from typing_extensions import override

from fwrl.config import Config, Count, Size
from fwrl.core import MemoryCore
from fwrl.cores import CoreConfig
from fwrl.cores.parts.layers import Gate

# Runs one step or a whole sequence of a core: ``(core, x, state) -> (y, state)``.
Advance = Callable[[MemoryCore[Any], Tensor, Any], tuple[Tensor, Any]]


class StackConfig(Config):
    """The layers around a memory core."""

    width: Size = 128
    """Size of the residual stream, which is the input size of every core."""
    layers: Count = 1
    """Number of layers, each with a core and a state of its own."""
    feed_forward: Size | None = None
    """Hidden units after each core; None: twice the width."""
    gate: bool = False
    """Gates in place of additions, as in GTrXL."""
    bare: bool = False
    """The cores alone, each reading what the one before puts out: no norms, no feed-forward
    networks, nothing added. The output then has the size of the last core's. A policy whose
    features have this width puts no linear map before it either."""

    @model_validator(mode="after")
    def _nothing_is_around_a_bare_core(self) -> "StackConfig":
        if self.bare and (self.gate or self.feed_forward is not None):
            name = "gate" if self.gate else "feed_forward"
            raise ValueError(f"bare is true, which leaves no place for {name}; leave one out")
        return self


class ResidualStack(MemoryCore[tuple[Any, ...]]):
    """State: one core's state per layer. Inputs and outputs have the stack's width.

    A bare one's outputs have the size of the last core's.
    """

    def __init__(self, config: StackConfig, core: CoreConfig, dropout: float = 0.0) -> None:
        """Random slow weights, from torch's global generator.

        Args:
            config: The layers.
            core: The memory in each of them.
            dropout: The share of hidden units and of additions to the stream that is dropped in
                training. Not a setting of agents: a policy has to give its actions the same
                probability again.
        """
        super().__init__()
        self.input_size = self.output_size = config.width
        self.blocks = nn.ModuleList()
        for _ in range(config.layers):
            block: Block | BareBlock
            if config.bare:
                block = BareBlock(self.output_size, core)
            else:
                block = Block(config, core, dropout)
            self.blocks.append(block)
            self.output_size = block.output_size
        self.norm = nn.Identity() if config.bare else nn.LayerNorm(config.width)

    @override
    def initial_state(self, batch_size: int, device: torch.device | None = None) -> tuple[Any, ...]:
        return tuple(block.core.initial_state(batch_size, device) for block in self._blocks())

    @override
    def step(
        self, x: Float[Tensor, "B D"], state: tuple[Any, ...]
    ) -> tuple[Float[Tensor, "B E"], tuple[Any, ...]]:
        return self.through(x, state, lambda core, y, before: core.step(y, before))

    @override
    def unroll(
        self, x: Float[Tensor, "B T D"], state: tuple[Any, ...], starts: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T E"], tuple[Any, ...]]:
        return self.through(x, state, lambda core, y, before: core.unroll(y, before, starts))

    def through(
        self, x: Float[Tensor, "*BT D"], state: tuple[Any, ...], advance: Advance
    ) -> tuple[Float[Tensor, "*BT E"], tuple[Any, ...]]:
        """Lead the stream through all layers; ``advance`` is called with the core of each."""
        states: list[Any] = []
        for block, before in zip(self._blocks(), state, strict=True):
            y, after = advance(block.core, block.core_norm(x), before)
            x = block.combine(x, y)
            states.append(after)
        return self.norm(x), tuple(states)

    def _blocks(self) -> "Iterable[Block]":
        return cast("Iterable[Block]", self.blocks)


class Block(nn.Module):
    """One layer: memory, then a feed-forward network, both normed first and added to the stream."""

    def __init__(self, config: StackConfig, core: CoreConfig, dropout: float) -> None:
        super().__init__()
        width = self.output_size = config.width
        hidden = config.feed_forward or 2 * width
        self.core: MemoryCore[Any] = core.build(width)
        self.core_norm = nn.LayerNorm(width)
        fits = self.core.output_size == width
        self.resize = nn.Identity() if fits else nn.Linear(self.core.output_size, width)
        self.join_core = Gate(width) if config.gate else torch.add
        self.dropout = nn.Dropout(dropout)
        # one place in the sequence, whose numbers name the parameters
        activation = nn.Sequential(nn.GELU(), self.dropout)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, hidden), activation, nn.Linear(hidden, width)
        )
        self.join_feed_forward = Gate(width) if config.gate else torch.add

    def combine(self, x: Float[Tensor, "*BT D"], y: Float[Tensor, "*BT E"]) -> Tensor:
        """The stream after this layer, given what its core made of the stream ``x``."""
        x = self.join_core(x, self.dropout(self.resize(y)))
        return self.join_feed_forward(x, self.dropout(self.feed_forward(x)))


class BareBlock(nn.Module):
    """One layer that is a memory and nothing else."""

    def __init__(self, input_size: int, core: CoreConfig) -> None:
        super().__init__()
        self.core: MemoryCore[Any] = core.build(input_size)
        self.output_size = self.core.output_size
        self.core_norm = nn.Identity()

    def combine(self, _: Float[Tensor, "*BT D"], y: Float[Tensor, "*BT E"]) -> Tensor:
        """The output of the core."""
        return y
