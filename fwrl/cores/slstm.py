"""The scalar memory of xLSTM: an LSTM whose input gate is an exponential."""

from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from fwrl.config import Count, head_size
from fwrl.core import About, MemoryCore, MemoryCoreConfig, by_steps
from fwrl.cores.parts.layers import NormHeads
from fwrl.state import at_least_float32

# The forget gates of each head's units begin from the first to the second, before their sigmoid.
FORGET_BIASES = (3.0, 6.0)


class SLSTMConfig(MemoryCoreConfig):
    """The sLSTM of xLSTM (Beck et al. 2024).

    Note:
        Left out is what the published block has around its memory: the convolution before two of
        the gates, and the feed-forward network, which is that of the stack. Every gate sees the
        whole input, as in the equations; in the published program, the part of its head. Forget
        gates begin between 0.95 and 0.998, a choice of that program; by default most of its units
        begin by forgetting at once.
    """

    about: ClassVar[About] = About(
        update="c <- f * c + exp(i) * tanh(g), n <- f * n + exp(i), h <- o * c / n; y = norm(h)",
        cost="4DE + 4E^2 / H",
        parallel=False,
        source="Beck et al. 2024",
    )
    kind: Literal["slstm"] = "slstm"
    heads: Count = 4
    """Heads, whose units see the last units of their own head only; a divisor of the input size."""

    @override
    def build(self, input_size: int) -> "SLSTM":
        return SLSTM(input_size, self)


class State(NamedTuple):
    """The hidden units; cells and normalisers, divided by the exponential of the stabiliser."""

    hidden: Float[Tensor, "B H V"]
    cell: Float[Tensor, "B H V"]
    normaliser: Float[Tensor, "B H V"]
    stabiliser: Float[Tensor, "B H V"]


class SLSTM(MemoryCore[State]):
    """Only the recurrent projection and the gates are inside the loop over time.

    The stabiliser ``m <- max(log f + m, i)`` is the largest exponent with which anything is still
    held. Divided by its exponential, normalisers are 1 or more from the first input on. The hidden
    units are the same whatever it is, so it has no gradient.
    """

    remark = "its gates multiply what it remembers by functions of what it remembers"

    def __init__(self, input_size: int, config: SLSTMConfig) -> None:
        super().__init__()
        self.input_size = self.output_size = input_size
        self.heads, self.size = config.heads, head_size(config.kind, input_size, config.heads)
        # of each head: input gates, forget gates, candidates, output gates
        self.input = nn.Linear(input_size, 4 * input_size)
        self.recurrent = nn.Parameter(torch.zeros(self.heads, self.size, 4 * self.size))
        with torch.no_grad():
            biases = self.input.bias.view(self.heads, 4, self.size).zero_()
            biases[:, 1] = torch.linspace(*FORGET_BIASES, self.size)
        self.norm = NormHeads(config.kind, self.heads, self.size)

    @override
    def initial_state(self, batch_size: int, device: torch.device | None = None) -> State:
        zeros = torch.zeros(batch_size, self.heads, self.size, device=device)
        return State(zeros, zeros.clone(), zeros.clone(), zeros.clone())

    @override
    def step(self, x: Float[Tensor, "B D"], state: State) -> tuple[Float[Tensor, "B E"], State]:
        hidden, state = self._advance(self._projected(x), state)
        return self.norm(hidden), state

    @override
    def unroll(
        self, x: Float[Tensor, "B T D"], state: State, starts: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T E"], State]:
        fresh = self.initial_state(x.shape[0], x.device)
        hidden, state = by_steps(self._advance, self._projected(x), state, starts, fresh)
        return self.norm(hidden), state

    def _projected(self, x: Float[Tensor, "*BT D"]) -> Float[Tensor, "*BT H P"]:
        return self.input(x).unflatten(-1, (self.heads, -1))

    def _advance(
        self, projected: Float[Tensor, "B H P"], state: State
    ) -> tuple[Float[Tensor, "B H V"], State]:
        hidden = state.hidden.to(self.recurrent.dtype)
        recurrent = torch.bmm(hidden.transpose(0, 1), self.recurrent).transpose(0, 1)
        gates = at_least_float32(projected) + at_least_float32(recurrent)
        entry, forget, candidate, output = gates.chunk(4, dim=-1)
        # nothing is kept by a unit that has seen nothing, whose stabiliser means nothing
        kept = F.logsigmoid(forget) + state.stabiliser
        kept = torch.where(state.normaliser > 0, kept, -torch.inf)
        stabiliser = torch.maximum(kept, entry).detach()
        keep, write = (kept - stabiliser).exp(), (entry - stabiliser).exp()
        cell = keep * state.cell + write * candidate.tanh()
        normaliser = keep * state.normaliser + write
        hidden = output.sigmoid() * cell / normaliser
        return hidden, State(hidden, cell, normaliser, stabiliser)
