"""The reference scan: one time after another. Every other kernel is tested against this one."""

from functools import partial

from jaxtyping import Float
from torch import Tensor

from fwrl.core import by_steps
from fwrl.state import FastWeights
from fwrl.update_rules import ScanInputs, UpdateRule, Write, read


def scan(rule: UpdateRule, inputs: ScanInputs) -> tuple[Float[Tensor, "B T H V"], FastWeights]:
    """At each time clear the rows that start, write, then read."""
    state, query, write, starts, _ = inputs
    advance = partial(_advance, rule)
    return by_steps(advance, (query, write), state, starts, inputs.fresh_or_zeros())


def _advance(
    rule: UpdateRule, now: tuple[Tensor, Write], weights: FastWeights
) -> tuple[Float[Tensor, "B H V"], FastWeights]:
    query, write = now
    weights = rule(weights, write)
    return read(weights, query), weights
