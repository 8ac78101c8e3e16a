"""The Delta RNN and the Delta LSTM in C: their loop over time and the way back."""

from ctypes import byref
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from fwrl.kernels.library import FastRecurrence, check, fill, library, or_zeros, threads_for
from fwrl.kernels.native import INTERVAL


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
    wanted = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)
    if wanted or torch.compiler.is_compiling():
        y, end, cell, *_ = torch.ops.fwrl.fast_recurrence(*inputs, wanted)
    else:
        y, end, cell, *_ = run_forward(inputs, False)
    return y, end, cell


def run_forward(inputs: Inputs, wanted: bool) -> tuple[Tensor, ...]:
    """What ``unroll`` returns, and what ``Saved`` has beside the output."""
    results = _results(inputs, wanted)
    call, held = _call(inputs)
    fill(call, ("output", "end", "end_cell", *Saved._fields[1:]), results)
    check(library().functions.fwrl_fast_recurrence_forward(byref(call)))
    del held
    return results


def run_backward(
    inputs: Inputs, saved: Saved, to_results: tuple[Tensor, Tensor, Tensor]
) -> list[Tensor]:
    """The gradients of the inputs but the starts; of what is None, empty."""
    call, held = _call(inputs)
    given = [x.contiguous() for x in to_results]
    fill(call, (*Saved._fields, "from_output", "from_end", "from_cell"), (*saved, *given))
    gradients = _gradients(inputs)
    fill(call, [f"to_{name}" for name in Inputs._fields[:7]], gradients)
    check(library().functions.fwrl_fast_recurrence_backward(byref(call)))
    del held
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


def _call(inputs: Inputs) -> tuple[FastRecurrence, list[Tensor]]:
    """The call without its results, and the tensors that must live as long as it runs."""
    streams, times, matrices, size = inputs.read.shape
    heads = inputs.y.shape[1]
    threads = threads_for(inputs.read.numel() * size)
    call = FastRecurrence(streams, times, heads, size, matrices // heads, INTERVAL, threads)
    held = [None if x is None else x.contiguous() for x in inputs]
    fill(call, Inputs._fields, held)
    return call, [x for x in held if x is not None]


# The operators: what autograd and torch.compile see of the library.

_INPUTS = (
    "Tensor read, Tensor key, Tensor value, Tensor beta, Tensor state, Tensor y, Tensor? cell, "
    "Tensor? starts"
)
_TENSORS = ", ".join(["Tensor"] * 7)
torch.library.define("fwrl::fast_recurrence", f"({_INPUTS}, bool wanted) -> ({_TENSORS})")
torch.library.define(
    "fwrl::fast_recurrence_backward",
    f"({_INPUTS}, Tensor output, Tensor error, Tensor made, Tensor cells, Tensor kept, "
    "Tensor to_output, Tensor to_end, Tensor to_cell) -> Tensor[]",
)


@torch.library.impl("fwrl::fast_recurrence", "CPU")
def _(*given: Any) -> tuple[Tensor, ...]:
    return run_forward(Inputs(*given[:8]), given[8])


def _fake(*given: Any) -> tuple[Tensor, ...]:
    return _results(Inputs(*given[:8]), given[8])


@torch.library.impl("fwrl::fast_recurrence_backward", "CPU")
def _(*given: Any) -> list[Tensor]:
    return run_backward(Inputs(*given[:8]), Saved(*given[8:13]), given[13:])


def _fake_backward(*given: Any) -> list[Tensor]:
    return _gradients(Inputs(*given[:8]))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    # those that are kept get none, and need no zeros
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:8], output[0], *output[3:])


@once_differentiable
def _back(
    ctx: Any, to_output: Tensor | None, to_end: Tensor | None, to_cell: Tensor | None, *_: Any
) -> tuple[Tensor | None, ...]:
    given = ctx.saved_tensors
    to_results = or_zeros(to_output, given[8]), or_zeros(to_end, given[4])
    to_cell = or_zeros(to_cell, given[5])
    gradients = torch.ops.fwrl.fast_recurrence_backward(*given, *to_results, to_cell)
    of_inputs = (None if x is None else g for x, g in zip(given[:7], gradients, strict=True))
    return (*of_inputs, None, None)


torch.library.register_fake("fwrl::fast_recurrence", _fake)
torch.library.register_fake("fwrl::fast_recurrence_backward", _fake_backward)
torch.library.register_autograd("fwrl::fast_recurrence", _back, setup_context=_keep)
