"""The Recurrent Delta Net in C: its loop over time and the way back, where the library is there."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fwrl.kernels.native.library import Recurrent, run, threads_for
from fwrl.kernels.native.operators import Operator, register
from fwrl.kernels.native.scan import INTERVAL
from fwrl.state import FastWeights, one_before


class Inputs(NamedTuple):
    """P = 3 K + 1: query, key and value, and the strength of the write."""

    # what the slow network makes of the input
    projected: Float[Tensor, "B T H P"]
    # what is added for tanh of the last output
    recurrent: Float[Tensor, "H K P"]
    state: FastWeights
    y: Float[Tensor, "B H K"]
    # None: nothing starts
    starts: Bool[Tensor, "B T"] | None


def unroll(inputs: Inputs) -> tuple[Float[Tensor, "B T H K"], FastWeights]:
    """What is read at each time, and the last weights; an episode begins with zeros."""
    output, end, *_ = _recurrent_delta(inputs)
    return output, end


def run_forward(inputs: Inputs, wanted: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What ``unroll`` returns; what was made at each time, and the states that are kept.

    The last two are empty where no backward pass is ``wanted``.
    """
    results = _results(inputs, wanted)
    names = ("output", "end", "made", "kept")
    run("fwrl_recurrent_forward", _sizes(inputs), (Inputs._fields, inputs), (names, results))
    return results


def run_backward(
    inputs: Inputs,
    saved: Sequence[Tensor],
    to_results: Sequence[Tensor],
) -> list[Tensor]:
    """The gradients of the inputs but the starts; saved: the output, made and kept."""
    gradients = _gradients(inputs)
    to_projected, to_recurrent, to_state, to_y = gradients
    run(
        "fwrl_recurrent_backward",
        _sizes(inputs),
        (Inputs._fields, inputs),
        (("output", "made", "kept"), saved),
        (("from_output", "from_end"), to_results),
        (("to_projected", "to_state", "to_y"), (to_projected, to_state, to_y)),
    )
    seen = one_before(inputs.y, saved[0], inputs.starts).tanh()
    seen, made = (x.flatten(0, 1).transpose(0, 1) for x in (seen, to_projected))
    torch.bmm(seen.mT, made, out=to_recurrent)
    return gradients


def _results(inputs: Inputs, wanted: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    projected, state = inputs.projected, inputs.state
    streams, times, *_ = projected.shape
    count = -(-times // INTERVAL)
    kept = (*state.shape[:2], count, *state.shape[2:]) if wanted else (0,)
    return (
        state.new_empty(streams, times, *state.shape[1:3]),
        state.new_empty(state.shape),
        projected.new_empty(projected.shape if wanted else (0,)),
        state.new_empty(kept),
    )


def _gradients(inputs: Inputs) -> list[Tensor]:
    return [x.new_empty(x.shape) for x in inputs[:4]]


def _sizes(inputs: Inputs) -> Recurrent:
    """The call without its tensors."""
    streams, times, heads, _ = inputs.projected.shape
    size = inputs.y.shape[-1]
    threads = threads_for(inputs.projected.numel() * size)
    return Recurrent(streams, times, heads, size, INTERVAL, threads)


_recurrent_delta = register(
    Operator(
        name="recurrent_delta",
        inputs=Inputs,
        schema="Tensor projected, Tensor recurrent, Tensor state, Tensor y, Tensor? starts",
        results=4,
        outputs=2,
        saved=(0, 2, 3),
        forward=run_forward,
        empty=_results,
        backward=run_backward,
        gradients=_gradients,
    )
)
