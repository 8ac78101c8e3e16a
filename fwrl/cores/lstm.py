"""Long short-term memory (Hochreiter and Schmidhuber 1997): the usual memory of recurrent PPO."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from fwrl.config import Config
from fwrl.core import MemoryCore
from fwrl.precision import at_least_float32
from fwrl.state import where_state


class LSTMConfig(Config):
    """A baseline with the gates of ``torch.nn.LSTM``."""

    kind: Literal["lstm"] = "lstm"
    hidden_size: PositiveInt | None = None
    """None: the input size."""
    forget_bias: float = 1.0
    """Added to the forget gate, which so begins open (Jozefowicz et al. 2015)."""

    def build(self, input_size: int) -> "LSTM":
        """The core for inputs of this size."""
        return LSTM(input_size, self)


class LSTMState(NamedTuple):
    """What the gates read, and what they keep."""

    hidden: Float[Tensor, "B E"]
    cell: Float[Tensor, "B E"]


class LSTM(MemoryCore[LSTMState]):
    """State: ``LSTMState``. Only the recurrent projection is inside the loop over time."""

    def __init__(self, input_size: int, config: LSTMConfig) -> None:
        super().__init__()
        self.input_size = input_size
        self.output_size = config.hidden_size or input_size
        self.forget_bias = config.forget_bias
        self.input = nn.Linear(input_size, 4 * self.output_size)
        self.recurrent = nn.Linear(self.output_size, 4 * self.output_size, bias=False)

    @override
    def initial_state(self, batch_size: int, device: torch.device | None = None) -> LSTMState:
        zeros = torch.zeros(batch_size, self.output_size, device=device)
        return LSTMState(zeros, zeros.clone())

    @override
    def step(
        self, x: Float[Tensor, "B D"], state: LSTMState
    ) -> tuple[Float[Tensor, "B E"], LSTMState]:
        state = self._advance(self.input(x), state)
        return state.hidden, state

    @override
    def unroll(
        self, x: Float[Tensor, "B T D"], state: LSTMState, starts: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T E"], LSTMState]:
        fresh = self.initial_state(x.shape[0], x.device)
        outputs: list[Tensor] = []
        projected = self.input(x).unbind(1)
        for projected_t, starts_t in zip(projected, starts.unbind(1), strict=True):
            state = self._advance(projected_t, where_state(starts_t, fresh, state))
            outputs.append(state.hidden)
        return torch.stack(outputs, dim=1), state

    def _advance(self, projected: Float[Tensor, "B E4"], state: LSTMState) -> LSTMState:
        hidden = state.hidden.to(self.recurrent.weight.dtype)
        gates = projected + F.linear(hidden, self.recurrent.weight)
        # the state stays float32 where autocast made the gates smaller
        write, keep, new, show = at_least_float32(gates).chunk(4, dim=-1)
        kept = (keep + self.forget_bias).sigmoid() * state.cell
        cell = kept + write.sigmoid() * new.tanh()
        return LSTMState(show.sigmoid() * cell.tanh(), cell)
