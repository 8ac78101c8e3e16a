"""An LSTM over time: in C, where the library is there, else one time after another."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fwrl.cells import LSTMCell, LSTMState
from fwrl.kernels import lstm, recurs_natively, steps_natively
from fwrl.precision import at_least_float32, without_autocast
from fwrl.recurrence import by_steps


def step_lstm(
    cell: LSTMCell, x: Float[Tensor, "B D"], state: LSTMState
) -> tuple[Float[Tensor, "B E"], LSTMState]:
    """The hidden units of one time, and the new state."""
    projected, recurrent = cell.input(x), cell.recurrent.weight
    if not steps_natively(projected, recurrent, *state):
        return cell.advance(projected, state)
    gates = torch.addmm(projected, state.hidden, recurrent.mT)
    hidden, kept = lstm.step(gates, state.cell, cell.forget_bias)
    return hidden, LSTMState(hidden, kept)


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
    if not recurs_natively(*inputs[:4]):
        fresh = cell.initial_state(x.shape[0], x.device)
        return by_steps(cell.advance, projected, state, starts, fresh)
    with without_autocast(x.device):
        hidden, kept = lstm.unroll(inputs)
    return hidden, LSTMState(hidden[:, -1].clone(), kept)
