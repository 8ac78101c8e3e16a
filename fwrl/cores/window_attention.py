"""Softmax attention over the last times of the episode: the exact memory of a short past."""

from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from typing_extensions import override

from fwrl.config import Count, Size
from fwrl.core import About, MemoryCore, MemoryCoreConfig
from fwrl.cores.parts.attention import (
    KeysValues,
    Positions,
    WindowedAttention,
    extend,
    remember,
)
from fwrl.state import time_in_episode


class WindowAttentionConfig(MemoryCoreConfig):
    """Causal attention with a window, and so with a state of fixed size."""

    about: ClassVar[About] = About(
        update="the last keys K and values V are kept, y = softmax(q K^T) V",
        cost="4D^2 + 2 window D",
        parallel=True,
        source="Vaswani et al. 2017; Beltagy et al. 2020",
    )
    kind: Literal["window_attention"] = "window_attention"
    heads: Count = 4
    """Attention heads; a divisor of the input size."""
    window: Size = 64
    """Time steps that are seen, the present one included."""
    positions: Positions = "rotary"
    """How scores depend on the age of a key: rotations (Su et al. 2021), sinusoids with learned
    biases (Dai et al. 2019), or not at all."""

    @override
    def build(self, input_size: int) -> "WindowAttention":
        return WindowAttention(input_size, self)


class State(NamedTuple):
    """Keys without positions, which are relative to the query, and how many there are."""

    window: KeysValues
    held: Float[Tensor, " B"]


class WindowAttention(MemoryCore[State]):
    """Its state holds the ``window - 1`` time steps before the next one."""

    remark = "it attends to a window of keys by a softmax"

    def __init__(self, input_size: int, config: WindowAttentionConfig) -> None:
        super().__init__()
        self.input_size = self.output_size = input_size
        self.past = config.window - 1
        self.attention = WindowedAttention(
            input_size, config.heads, config.window, config.positions
        )

    @override
    def initial_state(self, batch_size: int, device: torch.device | None = None) -> State:
        shape = batch_size, self.past, self.attention.heads, self.attention.head_size
        key, value = torch.zeros(2, *shape, device=device).unbind(0)
        held = torch.zeros(batch_size, device=device)
        return State(KeysValues(key, value), held)

    @override
    def unroll(
        self, x: Float[Tensor, "B T D"], state: State, starts: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T E"], State]:
        seen = time_in_episode(starts, state.held)
        window = extend(state.window, KeysValues(*self.attention.keys_values(x)))
        y = self.attention.read(self.attention.queries(x), window.key, window.value, seen)
        return y, State(*remember(window, seen[:, -1], self.past))
