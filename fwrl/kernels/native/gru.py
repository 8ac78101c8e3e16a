"""The GRU in C: its loop over time and the way back, where the library is there."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fwrl.kernels.native.library import GRU, run, threads_for
from fwrl.kernels.native.operators import Operator, register
from fwrl.state import one_before


class Inputs(NamedTuple):
    """The gates, E of each after one another: reset, keep, new."""

    # what the slow weights make of the input
    projected: Float[Tensor, "B T E3"]
    recurrent: Float[Tensor, "E3 E"]
    bias: Float[Tensor, " E3"]
    hidden: Float[Tensor, "B E"]
    starts: Bool[Tensor, "B T"]


def unroll(inputs: Inputs) -> Float[Tensor, "B T E"]:
    """The hidden units at each time; an episode begins with zeros."""
    output, _ = _gru(inputs)
    return output


def run_forward(inputs: Inputs, wanted: bool) -> tuple[Tensor, Tensor]:
    """What ``unroll`` returns; the gates at each time, empty if not ``wanted``."""
    results = _results(inputs, wanted)
    names = ("output", "gates")
    run("fwrl_gru_forward", _sizes(inputs), (Inputs._fields, inputs), (names, results))
    return results


def run_backward(
    inputs: Inputs,
    saved: Sequence[Tensor],
    to_results: Sequence[Tensor],
) -> list[Tensor]:
    """The gradients of the inputs but the starts; saved: the output and the gates."""
    gradients = _gradients(inputs)
    to_projected, to_recurrent, to_bias, to_hidden = gradients
    # of what the recurrent weights make: as of the input's part, but for the part that is reset
    to_made = torch.empty_like(to_projected)
    run(
        "fwrl_gru_backward",
        _sizes(inputs),
        (Inputs._fields, inputs),
        (("output", "gates"), saved),
        (("from_output",), to_results),
        (("to_projected", "to_made", "to_hidden"), (to_projected, to_made, to_hidden)),
    )
    seen = one_before(inputs.hidden, saved[0], inputs.starts)
    to_made = to_made.flatten(0, 1)
    torch.mm(to_made.mT, seen.flatten(0, 1), out=to_recurrent)
    torch.sum(to_made, dim=0, out=to_bias)
    return gradients


def _results(inputs: Inputs, wanted: bool) -> tuple[Tensor, Tensor]:
    projected = inputs.projected
    streams, times, _ = projected.shape
    size = inputs.hidden.shape[1]
    return (
        projected.new_empty(streams, times, size),
        projected.new_empty((streams, times, 4 * size) if wanted else (0,)),
    )


def _gradients(inputs: Inputs) -> list[Tensor]:
    return [x.new_empty(x.shape) for x in inputs[:4]]


def _sizes(inputs: Inputs) -> GRU:
    """The call without its tensors."""
    streams, times, _ = inputs.projected.shape
    size = inputs.hidden.shape[1]
    threads = min(threads_for(inputs.projected.numel() * size), streams)
    return GRU(streams, times, size, threads)


_gru = register(
    Operator(
        name="gru",
        inputs=Inputs,
        schema="Tensor projected, Tensor recurrent, Tensor bias, Tensor hidden, Tensor starts",
        results=2,
        outputs=1,
        saved=(0, 1),
        forward=run_forward,
        empty=_results,
        backward=run_backward,
        gradients=_gradients,
    )
)
