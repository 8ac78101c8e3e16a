"""An LSTM over time: in C, where the library is there, else one time step after another."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from fwrl.core import by_steps
from fwrl.kernels import recurs_natively
from fwrl.kernels.native import recurrences
from fwrl.state import at_least_float32, without_autocast


class LSTMState(NamedTuple):
    """Hidden units and cells."""

    hidden: Float[Tensor, "B E"]
    cell: Float[Tensor, "B E"]


class LSTMCell(nn.Module):
    """Long short-term memory (Hochreiter and Schmidhuber 1997), the gates of ``torch.nn.LSTM``.

    ``input`` is applied to all times at once; only the recurrent projection waits for the state.
    """

    def __init__(self, input_size: int, hidden_size: int, forget_bias: float = 1.0) -> None:
        super().__init__()
        self.hidden_size, self.forget_bias = hidden_size, forget_bias
        self.input = nn.Linear(input_size, 4 * hidden_size)
        self.recurrent = nn.Linear(hidden_size, 4 * hidden_size, bias=False)

    def initial_state(self, batch_size: int, device: torch.device | None = None) -> LSTMState:
        """The state of streams that have seen nothing: zeros."""
        zeros = torch.zeros(batch_size, self.hidden_size, device=device)
        return LSTMState(zeros, zeros.clone())

    def advance(
        self, projected: Float[Tensor, "B E4"], state: LSTMState
    ) -> tuple[Float[Tensor, "B E"], LSTMState]:
        """One time step, given the projected input: the new hidden units, and the new state."""
        hidden = state.hidden.to(self.recurrent.weight.dtype)
        gates = projected + F.linear(hidden, self.recurrent.weight)
        # the state stays float32 where autocast made the gates smaller
        input_gate, forget, update, output = at_least_float32(gates).chunk(4, dim=-1)
        kept = (forget + self.forget_bias).sigmoid() * state.cell
        cell = kept + input_gate.sigmoid() * update.tanh()
        hidden = output.sigmoid() * cell.tanh()
        return hidden, LSTMState(hidden, cell)


def unroll_lstm(
    cell: LSTMCell, x: Float[Tensor, "B T D"], state: LSTMState, starts: Bool[Tensor, "B T"]
) -> tuple[Float[Tensor, "B T E"], LSTMState]:
    """The hidden units at all time steps, and the last state; episodes begin with zeros."""
    projected, recurrent = cell.input(x), cell.recurrent.weight
    hidden, kept = state
    inputs = recurrences.LSTM(
        at_least_float32(projected),
        at_least_float32(recurrent),
        hidden,
        kept,
        starts,
        cell.forget_bias,
    )
    # for one time step it does not pay to bring the weights into the order that C reads
    if x.shape[1] == 1 or not recurs_natively(*inputs[:4]):
        fresh = cell.initial_state(x.shape[0], x.device)
        return by_steps(cell.advance, projected, state, starts, fresh)
    with without_autocast(x.device):
        hidden, kept = recurrences.lstm(inputs)
    return hidden, LSTMState(hidden[:, -1].clone(), kept)
