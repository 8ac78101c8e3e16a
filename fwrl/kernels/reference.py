"""The truth: one time after another. Every other kernel is tested against this one."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fwrl.shapes import FastWeights
from fwrl.state import where_state
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
    fresh = torch.zeros_like(state) if fresh is None else fresh
    values: list[Tensor] = []
    times = zip(query.unbind(1), _times(write), starts.unbind(1), strict=True)
    for query_t, write_t, starts_t in times:
        state = rule(where_state(starts_t, fresh, state), write_t)
        values.append(read(state, query_t))
    return torch.stack(values, dim=1), state


def _times(write: Write) -> list[Write]:
    # unbinding once keeps the backward pass linear in T; indexing each time would not
    absent = [None] * write.key.shape[1]
    fields = [absent if field is None else field.unbind(1) for field in write]
    return [Write(*at_one_time) for at_one_time in zip(*fields, strict=True)]
