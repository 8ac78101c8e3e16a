"""The fast weight memory in C: its loop over time and the way back, where the library is there."""

from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor

from fwrl.kernels.native.library import FastWeightMemory, run, threads_for
from fwrl.kernels.native.operators import Operator, register
from fwrl.kernels.native.scan import INTERVAL


class Inputs(NamedTuple):
    """Of one head. K = V V: a key is the tensor product of its two parts."""

    # both parts of the key, and the value
    triple: Float[Tensor, "B T 3 V"]
    beta: Float[Tensor, "B T 1"]
    # where the chain of reads begins, and the edge that each takes
    path: Float[Tensor, "B T P V"]
    state: Float[Tensor, "B K V"]
    # None: nothing starts
    starts: Bool[Tensor, "B T"] | None


class Saved(NamedTuple):
    """For the way back; empty where none is wanted."""

    # what was written before beta; what was read before it was normalised
    error: Tensor
    found: Tensor
    # what the weights are scaled by after each write; weights at some times
    scale: Tensor
    kept: Tensor


def unroll(inputs: Inputs) -> tuple[Float[Tensor, "B T V"], Float[Tensor, "B K V"]]:
    """The node at which each time's chain ends, and the last weights; episodes begin with zeros."""
    node, end, *_ = _fast_weight_memory(inputs)
    return node, end


def run_forward(inputs: Inputs, wanted: bool) -> tuple[Tensor, ...]:
    """What ``unroll`` returns, and what is ``Saved``."""
    results = _results(inputs, wanted)
    run(
        "fwrl_fast_weight_memory_forward",
        _sizes(inputs),
        (Inputs._fields, inputs),
        (("output", "end", *Saved._fields), results),
    )
    return results


def run_backward(
    inputs: Inputs, saved: Sequence[Tensor], to_results: Sequence[Tensor]
) -> list[Tensor]:
    """The gradients of the inputs but the starts."""
    gradients = _gradients(inputs)
    run(
        "fwrl_fast_weight_memory_backward",
        _sizes(inputs),
        (Inputs._fields, inputs),
        (Saved._fields, saved),
        (("from_output", "from_end"), to_results),
        ([f"to_{name}" for name in Inputs._fields[:4]], gradients),
    )
    return gradients


def _results(inputs: Inputs, wanted: bool) -> tuple[Tensor, ...]:
    path, state = inputs.path, inputs.state
    streams, times, places, size = path.shape
    found = (streams, times, places - 1, size)
    kept = (streams, -(-times // INTERVAL), *state.shape[1:])
    shapes = ((streams, times, size), found, (streams, times), kept)
    return (
        path.new_empty(streams, times, size),
        state.new_empty(state.shape),
        *(path.new_empty(shape if wanted else (0,)) for shape in shapes),
    )


def _gradients(inputs: Inputs) -> list[Tensor]:
    return [x.new_empty(x.shape) for x in inputs[:4]]


def _sizes(inputs: Inputs) -> FastWeightMemory:
    """The call without its tensors."""
    streams, times, places, size = inputs.path.shape
    threads = threads_for(inputs.state.numel() * times * places)
    return FastWeightMemory(streams, times, size, places - 1, INTERVAL, threads)


_fast_weight_memory = register(
    Operator(
        name="fast_weight_memory",
        inputs=Inputs,
        schema="Tensor triple, Tensor beta, Tensor path, Tensor state, Tensor? starts",
        results=6,
        outputs=2,
        saved=(2, 3, 4, 5),
        forward=run_forward,
        empty=_results,
        backward=run_backward,
        gradients=_gradients,
    )
)
