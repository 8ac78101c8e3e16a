"""The delta family in C, where the package could compile it: sequential in time, on CPUs.

A processor has no matrix units that would reward working in chunks; the plain recurrence, with the
fast weights in cache, needs the least arithmetic. One thread scans one head of one stream after
another. A start replaces the state, so an undefined past is forgotten.
"""

from ctypes import c_double, c_int64, c_void_p
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fwrl.feature_maps import EPSILON
from fwrl.kernels.chunked.scan import prepared
from fwrl.kernels.native import library as c
from fwrl.kernels.native.channel_scan import channel_scan
from fwrl.kernels.native.loop import Kernel, Loop
from fwrl.kernels.native.operators import register
from fwrl.state import FastWeights, map_tensors
from fwrl.update_rules import Rule, ScanInputs, Write


class Scan(NamedTuple):
    """Beta and decay are those that the recurrence sees."""

    query: Float[Tensor, "B T H K"]
    key: Float[Tensor, "B T H K"]
    value: Float[Tensor, "B T H V"]
    beta: Float[Tensor, "B T H 1"] | None
    decay: Float[Tensor, "B T H 1"] | None
    state: Float[Tensor, "B H K V"]
    # F is 1 or B
    fresh: Float[Tensor, "F H K V"] | None
    starts: Bool[Tensor, "B T"]
    # whether the error is written, not the value
    removes: bool


LOOP = Loop(
    name="scan",
    inputs=Scan,
    sizes={"keys": "K", "values": "V", "fresh_streams": "F"},
    products="B T H K V",
    outputs={"output": "B T H V", "end": "B H K V"},
    # the error is what was written before beta
    saved={"error": "B T H V", "checkpoints": "B H N K V"},
    only_with={"error": "removes"},
    # C fills one for each stream, whoever shares a fresh state
    buffers={"fresh": "B H K V"},
    in_torch={"fresh": lambda inputs, _, found: found["fresh"].sum_to_size(inputs.fresh.shape)},
    strided=("query", "key", "value"),
)
_scan = register(LOOP)
_Scan = Kernel(LOOP).structure

ACT = c.structure(
    "Act",
    {
        **c.LOOP,
        **dict.fromkeys(("keys", "values", "row", "removes"), c_int64),
        **dict.fromkeys(("epsilon", "max_beta"), c_double),
        **dict.fromkeys(("projected", "logit", "decay", "state", "output", "end"), c_void_p),
    },
)


def serves(rule: Rule, query: Tensor) -> bool:
    """Whether the library is there and can scan such tensors under this rule."""
    return rule.form is not None and c.served(query)


def scan(rule: Rule, inputs: ScanInputs) -> tuple[Float[Tensor, "B T H V"], FastWeights]:
    """The reference scan up to rounding, in float32."""
    state, query, write, starts, fresh = inputs
    if rule.decay == "feature":
        return channel_scan(rule, *inputs)
    key, value, beta, decay, *_ = prepared(rule, write)
    removes = rule.form == "error"
    values, end = _scan(Scan(query, key, value, beta, decay, state, fresh, starts, removes))
    return values, end


def step(
    rule: Rule, state: FastWeights, query: Float[Tensor, "B H K"], write: Write
) -> tuple[Float[Tensor, "B H V"], FastWeights]:
    """One time that starts nothing, without gradients; the given state is left as it is."""
    if rule.decay == "feature":
        one, write = map_tensors(partial(torch.unsqueeze, dim=1), (query, write))
        values, end = channel_scan(rule, state, one, write)
        return values.squeeze(1), end
    write = prepared(rule, write)
    output, end = write.value.new_empty(write.value.shape), state.new_empty(state.shape)
    call: Any = _Scan(times=1, interval=1, threads=c.threads_for(state.numel()))
    call.streams, call.heads, call.keys, call.values = state.shape
    call.removes = rule.form == "error"
    rows = ((call.query, query), (call.key, write.key), (call.value, write.value))
    held = [c.place(to, x) for to, x in rows]
    names = ("beta", "decay", "state", "output", "end")
    c.fill(call, held, names, (write.beta, write.decay, state, output, end))
    c.run("fwrl_scan_forward", call)
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
        rule: One whose beta is used as it is given: not ``longhorn``, ``efla`` or ``gated_sum``.
        state: What was written before.
        projected: The queries of all heads before the feature map, then the keys, then the values.
        logit: Beta before its sigmoid.
        decay: If the rule has one.
        max_beta: The factor of the sigmoid.
    """
    streams, heads, keys, values = state.shape
    state, projected = state.contiguous(), projected.contiguous()
    output, end = projected.new_empty(streams, heads * values), torch.empty_like(state)
    call = ACT(
        streams=streams,
        heads=heads,
        keys=keys,
        values=values,
        row=projected.shape[1],
        removes=rule.form == "error",
        threads=c.threads_for(state.numel()),
        epsilon=EPSILON,
        max_beta=max_beta,
        projected=projected.data_ptr(),
        logit=None if logit is None else logit.data_ptr(),
        decay=None if decay is None else decay.data_ptr(),
        state=state.data_ptr(),
        output=output.data_ptr(),
        end=end.data_ptr(),
    )
    c.run("fwrl_act", call)
    return output, end
