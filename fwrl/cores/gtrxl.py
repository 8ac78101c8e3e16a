"""One block of the gated Transformer-XL (Parisotto et al. 2020)."""

from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from typing_extensions import override

from fwrl.config import Count, Size
from fwrl.core import About, MemoryCore, MemoryCoreConfig
from fwrl.cores.parts.attention import Positions, WindowedAttention, extend, remember
from fwrl.cores.parts.layers import Gate
from fwrl.state import at_least_float32, time_in_episode


class GTrXLConfig(MemoryCoreConfig):
    """Attention over remembered inputs and a feed-forward network, both normed and gated.

    Note:
        The block has norms, gates and a feed-forward network of its own, and ``ResidualStack``
        adds another set around every core. The published network has the inner set alone; the
        outer one weighs least with ``feed_forward: 1``, and its gates (``gate: true``) then let
        the block's output in by a learned share.
    """

    about: ClassVar[About] = About(
        update="the last inputs M are kept, y = gate(x, softmax(q K(M)^T + ages) V(M))",
        cost="20D^2 + 3 window D; 3 window D^2 more for a single step",
        parallel=True,
        source="Parisotto et al. 2020; Dai et al. 2019",
    )
    kind: Literal["gtrxl"] = "gtrxl"
    heads: Count = 4
    """Attention heads; a divisor of the input size."""
    window: Size = 64
    """Time steps that are seen, the present one included."""
    positions: Positions = "relative"
    """How scores depend on the age of a remembered input."""
    feed_forward: Size | None = None
    """Hidden units of the feed-forward network; None: twice the input size."""
    gate_bias: float = 2.0
    """Bias of both gates: the larger, the less of a layer's output is let in at first."""

    @override
    def build(self, input_size: int) -> "GTrXL":
        return GTrXL(input_size, self)


class State(NamedTuple):
    """Inputs of the last time steps, the newest last, and how many there are."""

    inputs: Float[Tensor, "B P D"]
    held: Float[Tensor, " B"]


class GTrXL(MemoryCore[State]):
    """Keys and values are computed from the inputs in the state at every read.

    Note:
        Gradients flow into all of the window. Transformer-XL stops them at the border of a
        segment; here the caller does, by detaching the state.
    """

    remark = "it keeps its last inputs, and attends to them by a softmax inside a gated block"

    def __init__(self, input_size: int, config: GTrXLConfig) -> None:
        super().__init__()
        self.input_size = self.output_size = input_size
        self.past = config.window - 1
        hidden = config.feed_forward or 2 * input_size
        self.attention_norm = nn.LayerNorm(input_size)
        self.attention = WindowedAttention(
            input_size, config.heads, config.window, config.positions
        )
        self.attention_gate = Gate(input_size, config.gate_bias)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(input_size),
            nn.Linear(input_size, hidden),
            nn.ReLU(),
            nn.Linear(hidden, input_size),
        )
        self.feed_forward_gate = Gate(input_size, config.gate_bias)

    @override
    def initial_state(self, batch_size: int, device: torch.device | None = None) -> State:
        inputs = torch.zeros(batch_size, self.past, self.input_size, device=device)
        return State(inputs, torch.zeros(batch_size, device=device))

    @override
    def unroll(
        self, x: Float[Tensor, "B T D"], state: State, starts: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T E"], State]:
        seen = time_in_episode(starts, state.held)
        inputs = extend(state.inputs, at_least_float32(x))
        normed = self.attention_norm(inputs)
        query = self.attention.queries(normed[:, self.past :])
        found = self.attention.read(query, *self.attention.keys_values(normed), seen)
        x = self.attention_gate(x, found)
        y = self.feed_forward_gate(x, self.feed_forward(x))
        return y, State(*remember(inputs, seen[:, -1], self.past))
