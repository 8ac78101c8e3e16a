"""The one contract of all memories, and the two functions that tie its two forms together."""

from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fwrl.state import tensors_in, where_state

S = TypeVar("S")


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
    """What ``unroll`` means: all a recurrent core needs, and the other cores' test oracle."""
    fresh = core.initial_state(x.shape[0], x.device)
    outputs: list[Tensor] = []
    for x_t, starts_t in zip(x.unbind(1), starts.unbind(1), strict=True):
        y, state = core.step(x_t, where_state(starts_t, fresh, state))
        outputs.append(y)
    return torch.stack(outputs, dim=1), state


def state_size(core: MemoryCore[Any]) -> int:
    """How many numbers the core remembers of one stream."""
    return sum(leaf.numel() for leaf in tensors_in(core.initial_state(1)))
