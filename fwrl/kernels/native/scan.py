"""The delta family in C, where the package could compile it: sequential in time, on CPUs.

A processor has no matrix units that would reward working in chunks; the plain recurrence, with the
fast weights in cache, needs the least arithmetic. One thread scans one head of one stream after
another. A start replaces the state, so an undefined past is forgotten.

For the backward pass the state is kept at every ``INTERVAL`` times; those between are computed once
more. The library itself is found by ``fwrl.kernels.native.library``.
"""

from collections.abc import Sequence
from ctypes import byref
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fwrl.feature_maps import EPSILON
from fwrl.kernels.chunked.scan import computes, prepared
from fwrl.kernels.native.library import (
    Scan,
    check,
    library,
    place,
    place_one,
    run,
    served,
    threads_for,
)
from fwrl.kernels.native.operators import Operator, register
from fwrl.state import FastWeights
from fwrl.update_rules import Rule, Write

# Times between two states that are kept: with more of them less is kept, and no less computed.
INTERVAL = 16
# of a forward pass; a backward pass is given the gradients of the first two in their place
RESULTS = ("output", "end", "error", "kept")


class Inputs(NamedTuple):
    """Of a scan; beta and decay as the recurrence sees them."""

    query: Float[Tensor, "B T H K"]
    key: Float[Tensor, "B T H K"]
    value: Float[Tensor, "B T H V"]
    beta: Float[Tensor, "B T H 1"] | None
    decay: Float[Tensor, "B T H 1"] | None
    state: FastWeights
    fresh: Float[Tensor, "#B H K V"] | None
    starts: Bool[Tensor, "B T"]
    # the error is written, not the value
    removes: bool


def serves(rule: Rule, query: Tensor) -> bool:
    """Whether the library is there and can scan such tensors under this rule."""
    return computes(rule) and served(query)


def scan(
    rule: Rule,
    state: FastWeights,
    query: Float[Tensor, "B T H K"],
    write: Write,
    starts: Bool[Tensor, "B T"],
    fresh: Float[Tensor, "#B H K V"] | None,
) -> tuple[Float[Tensor, "B T H V"], FastWeights]:
    """The reference scan up to rounding, in float32."""
    write = prepared(rule, write)
    given = (query, write.key, write.value, write.beta, write.decay, state, fresh)
    values, end, *_ = _scan(Inputs(*given, starts, rule.form == "error"))
    return values, end


def step(
    rule: Rule, state: FastWeights, query: Float[Tensor, "B H K"], write: Write
) -> tuple[Float[Tensor, "B H V"], FastWeights]:
    """One time that starts nothing, without gradients; the given state is left as it is."""
    write = prepared(rule, write)
    call = Scan(query.shape[0], 1, *query.shape[1:], write.value.shape[-1], rule.form == "error", 1)
    call.threads = threads_for(state.numel())
    rows = ((call.query, query), (call.key, write.key), (call.value, write.value))
    held = [place_one(to, x) for to, x in rows]
    output, end = write.value.new_empty(write.value.shape), state.new_empty(state.shape)
    names = ("beta", "decay", "state", "output", "end")
    run("fwrl_scan_forward", call, (names, (write.beta, write.decay, state, output, end)))
    del held
    return output, end


def act(
    rule: Rule,
    state: FastWeights,
    projected: Float[Tensor, "B P"],
    logit: Float[Tensor, "B H"] | None,
    decay: Float[Tensor, "B H 1"] | None,
    max_beta: int,
) -> tuple[Float[Tensor, "B E"], FastWeights]:
    """As ``step``, with the addresses of ``unit_silu`` and the sigmoid of beta in the same pass.

    Args:
        rule: One whose beta is used as it is given: not ``longhorn`` and not ``gated_sum``.
        state: What was written before.
        projected: Of all heads the queries before the feature map, then the keys, then the values.
        logit: Of beta, before the sigmoid.
        decay: If the rule has one.
        max_beta: What the sigmoid is multiplied by.
    """
    streams, heads, keys, values = state.shape
    state, projected = state.contiguous(), projected.contiguous()
    output, end = projected.new_empty(streams, heads * values), torch.empty_like(state)
    row = projected.shape[1]
    first = projected.data_ptr()
    later = [first + projected.element_size() * heads * keys * n for n in (1, 2)]
    call = Scan(
        *(streams, 1, heads, keys, values, rule.form == "error", 1, 0),
        *(threads_for(state.numel()), 1, EPSILON, max_beta),
        *((first, row, 0, keys), (later[0], row, 0, keys), (later[1], row, 0, values)),
        None if logit is None else logit.data_ptr(),
        None if decay is None else decay.data_ptr(),
        *(state.data_ptr(), None, None, output.data_ptr(), end.data_ptr()),
    )
    check(library().functions.fwrl_scan_forward(byref(call)))
    return output, end


def run_forward(inputs: Inputs, wanted: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What is read and the last state; what was written before beta, and the states that are kept.

    The last two are empty where no backward pass is ``wanted``.
    """
    results = _results(inputs, wanted)
    call, held = _call(inputs)
    run("fwrl_scan_forward", call, _rest(inputs), (RESULTS, results))
    del held
    return results


def run_backward(
    inputs: Inputs,
    saved: Sequence[Tensor],
    to_results: Sequence[Tensor],
) -> list[Tensor]:
    """The gradients of the first seven inputs; of what is None, empty. Saved: error and kept."""
    call, held = _call(inputs)
    gradients = _gradients(inputs)
    # each stream's own gradient of the fresh state, whoever shares it
    to_fresh = gradients[6] if inputs.fresh is None else torch.empty_like(inputs.state)
    names = tuple(f"to_{name}" for name in Inputs._fields[:7])
    results = (names, [*gradients[:6], to_fresh])
    run("fwrl_scan_backward", call, _rest(inputs), (RESULTS, (*to_results, *saved)), results)
    del held
    if inputs.fresh is not None:
        gradients[6] = to_fresh.sum_to_size(inputs.fresh.shape)
    return gradients


def _gradients(inputs: Inputs) -> list[Tensor]:
    return [inputs.query.new_empty((0,) if x is None else x.shape) for x in inputs[:7]]


def _results(inputs: Inputs, wanted: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    value, state = inputs.value, inputs.state
    count = -(-value.shape[1] // INTERVAL)
    error = value.shape if wanted and inputs.removes else (0,)
    kept = (*state.shape[:2], count, *state.shape[2:]) if wanted else (0,)
    return (
        value.new_empty(value.shape),
        value.new_empty(state.shape),
        value.new_empty(error),
        value.new_empty(kept),
    )


def _call(inputs: Inputs) -> tuple[Scan, list[Tensor]]:
    """The call with queries, keys and values, and what must live as long as it runs."""
    streams, times, heads, keys = inputs.query.shape
    values = inputs.value.shape[-1]
    fresh_streams = 0 if inputs.fresh is None else inputs.fresh.shape[0]
    threads = threads_for(inputs.query.numel() * values)
    sizes = (streams, times, heads, keys, values)
    call = Scan(*sizes, inputs.removes, INTERVAL, fresh_streams, threads)
    held = [place(getattr(call, name), getattr(inputs, name)) for name in Inputs._fields[:3]]
    return call, held


def _rest(inputs: Inputs) -> tuple[Sequence[str], Sequence[Tensor | None]]:
    """The other tensors, which the library wants without gaps."""
    return Inputs._fields[3:8], inputs[3:8]


_scan = register(
    Operator(
        name="scan",
        inputs=Inputs,
        schema="Tensor query, Tensor key, Tensor value, Tensor? beta, Tensor? decay, Tensor state, "
        "Tensor? fresh, Tensor starts, bool removes",
        results=4,
        outputs=2,
        saved=(2, 3),
        forward=run_forward,
        empty=_results,
        backward=run_backward,
        gradients=_gradients,
    )
)
