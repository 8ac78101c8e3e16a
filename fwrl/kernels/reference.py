"""The reference scan: one time after another. Every other kernel is tested against this one."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fwrl.core import by_steps
from fwrl.state import FastWeights
from fwrl.update_rules import UpdateRule, Write, read


def scan(
    rule: UpdateRule,
    state: FastWeights,
    query: Float[Tensor, "B T H K"],
    write: Write,
    starts: Bool[Tensor, "B T"],
    fresh: Float[Tensor, "#B H K V"] | None,
) -> tuple[Float[Tensor, "B T H V"], FastWeights]:
    """At each time clear the rows that start, write, then read."""
    given = {name: field for name, field in write._asdict().items() if field is not None}

    def advance(
        now: tuple[Tensor, dict[str, Tensor]], weights: Tensor
    ) -> tuple[Tensor, FastWeights]:
        query_t, write_t = now
        weights = rule(weights, Write(**write_t))
        return read(weights, query_t), weights

    fresh = torch.zeros_like(state) if fresh is None else fresh
    return by_steps(advance, (query, given), state, starts, fresh)
