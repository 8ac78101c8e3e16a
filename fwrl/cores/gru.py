"""Gated recurrent unit (Cho et al. 2014): the strongest simple baseline on memory tasks."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from fwrl.config import Size
from fwrl.core import About, MemoryCore, MemoryCoreConfig, by_steps
from fwrl.kernels import recurs_natively
from fwrl.kernels.native import recurrences
from fwrl.state import at_least_float32, without_autocast


class GRUConfig(MemoryCoreConfig):
    """A baseline with the gates of ``torch.nn.GRU``."""

    about: ClassVar[About] = About(
        update="h <- z * h + (1 - z) * tanh(g); z, g and a reset gate inside g from x and h",
        cost="3DE + 3E^2",
        parallel=False,
        source="Cho et al. 2014",
    )
    kind: Literal["gru"] = "gru"
    hidden_size: Size | None = None
    """Hidden units, the size of state and output; None: the input size."""

    @override
    def build(self, input_size: int) -> "GRU":
        return GRU(input_size, self)


class GRU(MemoryCore[Tensor]):
    """State: ``[B, E]``. Only the recurrent projection is inside the loop over time."""

    remark = "its gates multiply what it remembers by functions of what it remembers"

    def __init__(self, input_size: int, config: GRUConfig) -> None:
        super().__init__()
        self.input_size = input_size
        self.output_size = config.hidden_size or input_size
        self.input = nn.Linear(input_size, 3 * self.output_size)
        self.recurrent = nn.Linear(self.output_size, 3 * self.output_size)

    @override
    def initial_state(self, batch_size: int, device: torch.device | None = None) -> Tensor:
        return torch.zeros(batch_size, self.output_size, device=device)

    @override
    def step(self, x: Float[Tensor, "B D"], state: Tensor) -> tuple[Float[Tensor, "B E"], Tensor]:
        return self._advance(self.input(x), state)

    @override
    def unroll(
        self, x: Float[Tensor, "B T D"], state: Tensor, starts: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T E"], Tensor]:
        projected, recurrent = self.input(x), self.recurrent
        weights = at_least_float32(recurrent.weight), at_least_float32(recurrent.bias)
        inputs = recurrences.GRU(at_least_float32(projected), *weights, state, starts)
        # for one time step it does not pay to bring the weights into the order that C reads
        if x.shape[1] == 1 or not recurs_natively(*inputs[:4]):
            fresh = self.initial_state(x.shape[0], x.device)
            return by_steps(self._advance, projected, state, starts, fresh)
        with without_autocast(x.device):
            (hidden,) = recurrences.gru(inputs)
        return hidden, hidden[:, -1].clone()

    def _advance(
        self, projected: Float[Tensor, "B E3"], state: Float[Tensor, "B E"]
    ) -> tuple[Float[Tensor, "B E"], Tensor]:
        hidden = state.to(self.recurrent.weight.dtype)
        recurrent = F.linear(hidden, self.recurrent.weight, self.recurrent.bias)
        # the state stays float32 where autocast made the projections smaller
        reset, update, candidate = at_least_float32(projected).chunk(3, dim=-1)
        from_state = at_least_float32(recurrent).chunk(3, dim=-1)
        reset, update = (reset + from_state[0]).sigmoid(), (update + from_state[1]).sigmoid()
        candidate = (candidate + reset * from_state[2]).tanh()
        state = torch.lerp(candidate, state.to(candidate.dtype), update)
        return state, state
