"""Scans in C from the projections of a layer on: addresses, strengths and scan in one pass."""

from typing import NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor

from fwrl.feature_maps import EPSILON
from fwrl.kernels.native.loop import Loop
from fwrl.kernels.native.operators import register
from fwrl.state import FastWeights
from fwrl.update_rules import Rule


class ProjectedScan(NamedTuple):
    """The projections, the memory, and how they are read."""

    # P = 2 H K + H V + H: queries and keys before SiLU, values, beta before its bias and sigmoid
    projected: Float[Tensor, "B T P"]
    # None: no beta
    bias: Float[Tensor, " H"] | None
    decay: Float[Tensor, "B T H 1"] | None
    state: Float[Tensor, "B H K V"]
    # F is 1 or B
    fresh: Float[Tensor, "F H K V"] | None
    starts: Bool[Tensor, "B T"]
    # whether the error is written, not the value
    removes: bool
    epsilon: float
    # the factor of the sigmoid of beta
    max_beta: float


LOOP = Loop(
    name="projected_scan",
    inputs=ProjectedScan,
    sizes={"keys": "K", "values": "V", "row": "P", "fresh_streams": "F"},
    products="B T H K V",
    outputs={"output": "B T H V", "end": "B H K V"},
    saved={"error": "B T H V", "checkpoints": "B H N K V"},
    only_with={"error": "removes"},
    buffers={"fresh": "B H K V"},
    in_torch={
        # the last numbers of each time
        "bias": lambda inputs, _, found: found["projected"][..., -len(inputs.bias) :].sum((0, 1)),
        "fresh": lambda inputs, _, found: found["fresh"].sum_to_size(inputs.fresh.shape),
    },
)
_run = register(LOOP)


def projected_scan(
    rule: Rule,
    projected: Float[Tensor, "B T P"],
    bias: Float[Tensor, " H"] | None,
    decay: Float[Tensor, "B T H 1"] | None,
    state: FastWeights,
    fresh: Float[Tensor, "#B H K V"] | None,
    starts: Bool[Tensor, "B T"],
    max_beta: int,
) -> tuple[Float[Tensor, "B T H V"], FastWeights]:
    """``scan`` of the reference up to rounding, with the addresses of ``unit_silu``.

    Args:
        rule: One whose beta is used as it is given: not ``longhorn``, ``efla`` or ``gated_sum``.
        projected: The queries of all heads before the feature map, then the keys, then the values,
            then beta before its bias and its sigmoid.
        bias: The bias of beta; None for a rule without beta.
        decay: If the rule has one.
        state: What was written before.
        fresh: What an episode begins with; None: zeros.
        starts: Where one does.
        max_beta: The factor of the sigmoid.
    """
    removes = rule.form == "error"
    factor = float(max_beta)
    values, end = _run(
        ProjectedScan(projected, bias, decay, state, fresh, starts, removes, EPSILON, factor)
    )
    return values, end
