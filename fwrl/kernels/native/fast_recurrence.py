"""The Delta RNN and the Delta LSTM in C: their loop over time and the way back."""

from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor

from fwrl.kernels.native.library import FastRecurrence, run, threads_for
from fwrl.kernels.native.operators import Operator, register
from fwrl.kernels.native.scan import INTERVAL


class Inputs(NamedTuple):
    """G H heads of matrices: those of the first gate, then those of the next; G is 1 or 3."""

    # what is added to what the recurrent weights read, and what is written there
    read: Float[Tensor, "B T GH K"]
    key: Float[Tensor, "B T GH K"]
    value: Float[Tensor, "B T GH K"]
    beta: Float[Tensor, "B T GH 1"]
    state: Float[Tensor, "B GH K K"]
    y: Float[Tensor, "B H K"]
    # of the LSTM
    cell: Float[Tensor, "B H K"] | None
    # None: nothing starts
    starts: Bool[Tensor, "B T"] | None


class Saved(NamedTuple):
    """For the way back; empty where none is wanted, ``made`` and ``cells`` also for the RNN."""

    output: Float[Tensor, "B T H K"]
    # what was written before beta; the gates; the cells; states at some times
    error: Tensor
    made: Tensor
    cells: Tensor
    kept: Tensor


def unroll(inputs: Inputs) -> tuple[Float[Tensor, "B T H K"], Float[Tensor, "B GH K K"], Tensor]:
    """The outputs, the last weights and the last cells, empty for the RNN.

    An episode begins with zeros.
    """
    y, end, cell, *_ = _fast_recurrence(inputs)
    return y, end, cell


def run_forward(inputs: Inputs, wanted: bool) -> tuple[Tensor, ...]:
    """What ``unroll`` returns, and what ``Saved`` has beside the output."""
    results = _results(inputs, wanted)
    run(
        "fwrl_fast_recurrence_forward",
        _sizes(inputs),
        (Inputs._fields, inputs),
        (("output", "end", "end_cell", *Saved._fields[1:]), results),
    )
    return results


def run_backward(
    inputs: Inputs, saved: Sequence[Tensor], to_results: Sequence[Tensor]
) -> list[Tensor]:
    """The gradients of the inputs but the starts; of what is None, empty."""
    gradients = _gradients(inputs)
    run(
        "fwrl_fast_recurrence_backward",
        _sizes(inputs),
        (Inputs._fields, inputs),
        (Saved._fields, saved),
        (("from_output", "from_end", "from_cell"), to_results),
        ([f"to_{name}" for name in Inputs._fields[:7]], gradients),
    )
    return gradients


def _results(inputs: Inputs, wanted: bool) -> tuple[Tensor, ...]:
    read, state, y, cell = inputs.read, inputs.state, inputs.y, inputs.cell
    count = -(-read.shape[1] // INTERVAL)
    output = (*read.shape[:2], *y.shape[1:])
    has_cell = wanted and cell is not None
    return (
        read.new_empty(output),
        state.new_empty(state.shape),
        y.new_empty((0,) if cell is None else cell.shape),
        read.new_empty(read.shape if wanted else (0,)),
        read.new_empty(read.shape if has_cell else (0,)),
        read.new_empty(output if has_cell else (0,)),
        read.new_empty((*state.shape[:2], count, *state.shape[2:]) if wanted else (0,)),
    )


def _gradients(inputs: Inputs) -> list[Tensor]:
    return [inputs.y.new_empty((0,) if x is None else x.shape) for x in inputs[:7]]


def _sizes(inputs: Inputs) -> FastRecurrence:
    """The call without its tensors."""
    streams, times, matrices, size = inputs.read.shape
    heads = inputs.y.shape[1]
    threads = threads_for(inputs.read.numel() * size)
    return FastRecurrence(streams, times, heads, size, matrices // heads, INTERVAL, threads)


_fast_recurrence = register(
    Operator(
        name="fast_recurrence",
        inputs=Inputs,
        schema="Tensor read, Tensor key, Tensor value, Tensor beta, Tensor state, Tensor y, "
        "Tensor? cell, Tensor? starts",
        results=7,
        outputs=3,
        saved=(0, 3, 4, 5, 6),
        forward=run_forward,
        empty=_results,
        backward=run_backward,
        gradients=_gradients,
    )
)
