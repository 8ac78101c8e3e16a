"""The LSTM in C: its loop over time and the way back, where the library is there."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fwrl.kernels.native.library import LSTM, run, threads_for
from fwrl.kernels.native.operators import Operator, register
from fwrl.state import one_before


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
    names = ("output", "end_cell", "gates", "cells")
    run("fwrl_lstm_forward", _sizes(inputs), _tensors(inputs), (names, results))
    return results


def run_backward(
    inputs: Inputs,
    saved: Sequence[Tensor],
    to_results: Sequence[Tensor],
) -> list[Tensor]:
    """The gradients of the first four inputs; saved: the output, the gates and the cells."""
    gradients = _gradients(inputs)
    to_projected, to_recurrent, to_hidden, to_cell = gradients
    run(
        "fwrl_lstm_backward",
        _sizes(inputs),
        _tensors(inputs),
        (("output", "gates", "cells"), saved),
        (("from_output", "from_cell"), to_results),
        (("to_projected", "to_hidden", "to_cell"), (to_projected, to_hidden, to_cell)),
    )
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


def _sizes(inputs: Inputs) -> LSTM:
    """The call without its tensors."""
    streams, times, _ = inputs.projected.shape
    size = inputs.cell.shape[1]
    threads = min(threads_for(inputs.projected.numel() * size), streams)
    return LSTM(streams, times, size, threads, inputs.forget_bias)


def _tensors(inputs: Inputs) -> tuple[Sequence[str], Sequence[Tensor]]:
    return Inputs._fields[:5], inputs[:5]


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
