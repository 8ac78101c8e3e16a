"""The LSTM in C: its loop over time and the way back, where the library is there."""

from collections.abc import Sequence
from ctypes import byref
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fwrl.kernels.library import LSTM, check, fill, library, threads_for
from fwrl.kernels.operators import Operator, register
from fwrl.recurrence import one_before


class Inputs(NamedTuple):
    """The gates, E of each after one another: write, keep, update, show."""

    # what the slow weights make of the input
    projected: Float[Tensor, "B T E4"]
    recurrent: Float[Tensor, "E4 E"]
    hidden: Float[Tensor, "B E"]
    cell: Float[Tensor, "B E"]
    starts: Bool[Tensor, "B T"]
    # added to what opens the forget gate
    forget_bias: float


def unroll(inputs: Inputs) -> tuple[Float[Tensor, "B T E"], Float[Tensor, "B E"]]:
    """The hidden units at each time, and the last cells; an episode begins with zeros."""
    output, cell, *_ = _lstm(inputs)
    return output, cell


def run_forward(inputs: Inputs, wanted: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What ``unroll`` returns; the gates and the cells at each time, empty if not ``wanted``."""
    results = _results(inputs, wanted)
    call, held = _call(inputs)
    fill(call, ("output", "end_cell", "gates", "cells"), results)
    check(library().functions.fwrl_lstm_forward(byref(call)))
    del held
    return results


def run_backward(
    inputs: Inputs,
    saved: Sequence[Tensor],
    to_results: Sequence[Tensor],
) -> list[Tensor]:
    """The gradients of the first four inputs; saved: the output, the gates and the cells."""
    call, held = _call(inputs)
    given = [x.contiguous() for x in to_results]
    fill(call, ("output", "gates", "cells", "from_output", "from_cell"), (*saved, *given))
    gradients = _gradients(inputs)
    to_projected, to_recurrent, to_hidden, to_cell = gradients
    fill(call, ("to_projected", "to_hidden", "to_cell"), (to_projected, to_hidden, to_cell))
    check(library().functions.fwrl_lstm_backward(byref(call)))
    del held
    seen = one_before(inputs.hidden, saved[0], inputs.starts)
    torch.mm(to_projected.flatten(0, 1).mT, seen.flatten(0, 1), out=to_recurrent)
    return gradients


def _results(inputs: Inputs, wanted: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    projected, cell = inputs.projected, inputs.cell
    output = (*projected.shape[:2], cell.shape[1])
    return (
        projected.new_empty(output),
        cell.new_empty(cell.shape),
        projected.new_empty(projected.shape if wanted else (0,)),
        projected.new_empty(output if wanted else (0,)),
    )


def _gradients(inputs: Inputs) -> list[Tensor]:
    return [x.new_empty(x.shape) for x in inputs[:4]]


def _call(inputs: Inputs) -> tuple[LSTM, list[Tensor]]:
    """The call without its results, and the tensors that must live as long as it runs."""
    streams, times, _ = inputs.projected.shape
    size = inputs.cell.shape[1]
    threads = min(threads_for(inputs.projected.numel() * size), streams)
    call = LSTM(streams, times, size, threads, inputs.forget_bias)
    held = [x.contiguous() for x in inputs[:5]]
    fill(call, Inputs._fields[:5], held)
    return call, held


_lstm = register(
    Operator(
        name="lstm",
        inputs=Inputs,
        schema="Tensor projected, Tensor recurrent, Tensor hidden, Tensor cell, Tensor starts, "
        "float forget_bias",
        results=4,
        outputs=2,
        saved=(0, 2, 3),
        forward=run_forward,
        empty=_results,
        backward=run_backward,
        gradients=_gradients,
    )
)
