"""An LSTM over time: in C, where the library is there, else one time after another."""

from jaxtyping import Bool, Float
from torch import Tensor

from fwrl.cells import LSTMCell, LSTMState
from fwrl.kernels import lstm, recurs_natively
from fwrl.precision import at_least_float32, without_autocast
from fwrl.recurrence import by_steps


def unroll_lstm(
    cell: LSTMCell, x: Float[Tensor, "B T D"], state: LSTMState, starts: Bool[Tensor, "B T"]
) -> tuple[Float[Tensor, "B T E"], LSTMState]:
    """The hidden units of all times, and the last state; episodes begin with zeros."""
    projected, recurrent = cell.input(x), cell.recurrent.weight
    hidden, kept = state
    inputs = lstm.Inputs(
        at_least_float32(projected),
        at_least_float32(recurrent),
        hidden,
        kept,
        starts,
        cell.forget_bias,
    )
    # for one time the weights are not worth the order in which C reads them
    if x.shape[1] == 1 or not recurs_natively(*inputs[:4]):
        fresh = cell.initial_state(x.shape[0], x.device)
        return by_steps(cell.advance, projected, state, starts, fresh)
    with without_autocast(x.device):
        hidden, kept = lstm.unroll(inputs)
    return hidden, LSTMState(hidden[:, -1].clone(), kept)
