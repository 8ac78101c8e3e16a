"""The self-referential weight matrix in C: its loop over time and the way back."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fwrl.kernels.native.library import SelfReferential, run, threads_for
from fwrl.kernels.native.operators import Operator, register
from fwrl.kernels.native.scan import INTERVAL
from fwrl.state import FastWeights


class Inputs(NamedTuple):
    """V = 3 K + 4: the columns that make the output, the query, the key and four strengths."""

    address: Float[Tensor, "B T H K"]
    state: FastWeights
    # what episodes begin with
    fresh: Float[Tensor, "H K V"]
    # None: nothing starts
    starts: Bool[Tensor, "B T"] | None


def unroll(inputs: Inputs) -> tuple[Float[Tensor, "B T H K"], FastWeights]:
    """What is read at each time before the write, and the last weights."""
    output, end, *_ = _self_referential(inputs)
    return output, end


def run_forward(inputs: Inputs, wanted: bool) -> tuple[Tensor, ...]:
    """What ``unroll`` returns; what was made and changed at each time, and states that are kept.

    The last three are empty where no backward pass is ``wanted``.
    """
    results = _results(inputs, wanted)
    names = ("output", "end", "made", "change", "kept")
    run("fwrl_self_referential_forward", _sizes(inputs), (Inputs._fields, inputs), (names, results))
    return results


def run_backward(
    inputs: Inputs,
    saved: Sequence[Tensor],
    to_results: Sequence[Tensor],
) -> list[Tensor]:
    """The gradients of the inputs but the starts; saved: made, change and kept."""
    to_address, to_state, to_fresh = (torch.empty(x.shape) for x in (*inputs[:2], inputs.state))
    run(
        "fwrl_self_referential_backward",
        _sizes(inputs),
        (Inputs._fields, inputs),
        (("made", "change", "kept"), saved),
        (("from_output", "from_end"), to_results),
        (("to_address", "to_state", "to_fresh"), (to_address, to_state, to_fresh)),
    )
    # each stream has its own
    return [to_address, to_state, to_fresh.sum(0)]


def _results(inputs: Inputs, wanted: bool) -> tuple[Tensor, ...]:
    address, state = inputs.address, inputs.state
    count = -(-address.shape[1] // INTERVAL)
    made = (*address.shape[:3], state.shape[3]) if wanted else (0,)
    return (
        address.new_empty(address.shape),
        state.new_empty(state.shape),
        address.new_empty(made),
        address.new_empty(made),
        state.new_empty((*state.shape[:2], count, *state.shape[2:]) if wanted else (0,)),
    )


def _gradients(inputs: Inputs) -> list[Tensor]:
    return [x.new_empty(x.shape) for x in inputs[:3]]


def _sizes(inputs: Inputs) -> SelfReferential:
    """The call without its tensors."""
    threads = threads_for(inputs.address.numel() * inputs.state.shape[3])
    return SelfReferential(*inputs.address.shape, INTERVAL, threads)


_self_referential = register(
    Operator(
        name="self_referential",
        inputs=Inputs,
        schema="Tensor address, Tensor state, Tensor fresh, Tensor? starts",
        results=5,
        outputs=2,
        saved=(2, 3, 4),
        forward=run_forward,
        empty=_results,
        backward=run_backward,
        gradients=_gradients,
    )
)
