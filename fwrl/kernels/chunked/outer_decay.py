"""Fast weights that fade by an outer product of decays, in chunks of time.

Every row of the fast weights has a decay ``a`` of its own and every column a decay ``b``::

    S  <- (a b^T) o S + k v^T
    y   = q S

What time ``i`` wrote has faded, by time ``t``, by a product of a factor per row and a factor per
column; each of these falls into two around the middle of the chunk, as in ``channelwise``. So what
is read inside a chunk are products of matrices, scaled by row before and by column after::

    W[t, i]  = sum over k of q'[t, k] k'[i, k], for i in t's episode and up to t
    y[t, v]  = b'[t, v] (W v')[t, v] + rb[t, v] ((q[t] o ra[t]) S0)[v]

with ``S0`` the state that the chunk began with, ``ra`` and ``rb`` what is left of its rows and
columns. Only states between chunks are kept, not one for each time.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fwrl.core import by_steps
from fwrl.kernels.chunked.channelwise import (
    CHUNK_SIZE,
    SHORT_CHUNK,
    leaving,
    pairs,
    reach_of,
    weaker,
)
from fwrl.kernels.chunked.scan import join, split
from fwrl.kernels.chunked.undefined import clean, lose, lost_by
from fwrl.state import FastWeights, may_look, without_autocast
from fwrl.update_rules import Write


class Inputs(NamedTuple):
    """The inputs of one scan: at all times, or at one of them without the axis for time."""

    query: Float[Tensor, "*B H K"]
    key: Float[Tensor, "*B H K"]
    value: Float[Tensor, "*B H V"]
    # how much of each row, and of each column, survives; in [0, 1]
    key_decay: Float[Tensor, "*B H K"]
    value_decay: Float[Tensor, "*B H V"]


def scan(
    state: FastWeights, inputs: Inputs, starts: Bool[Tensor, "B T"]
) -> tuple[Float[Tensor, "B T H V"], FastWeights]:
    """The values that the queries read, each after the write of its own time, and the last state.

    Episodes begin with zeros.
    """
    state = state.to(inputs.query.dtype)
    with without_autocast(state.device):
        if torch.compiler.is_exporting() or starts.shape[1] == 1:
            # acting: a chunk would gain nothing, and its result would have to be looked at
            return scan_by_steps(state, inputs, starts)
        if not may_look(starts):
            return scan_apart(state, inputs, starts)
        values, end = _in_chunks(state, inputs, starts, CHUNK_SIZE)
        if not values.detach().sum().isfinite():
            # an undefined past, or decays too strong for a chunk
            values, end = scan_by_steps(state, inputs, starts)
    return values, end


def scan_apart(
    state: FastWeights, inputs: Inputs, starts: Bool[Tensor, "B T"]
) -> tuple[Float[Tensor, "B T H V"], FastWeights]:
    """``scan`` for devices whose numbers are not to be looked at, as in ``channelwise``."""
    query, key, value, *decays = clean(inputs)
    given = Inputs(query, key, value, *map(weaker, decays))
    found = _in_chunks(clean(state), given, starts, SHORT_CHUNK)
    return lose(lost_by(state, inputs.query, inputs[1:], starts), *found)


def scan_by_steps(
    state: FastWeights, inputs: Inputs, starts: Bool[Tensor, "B T"]
) -> tuple[Float[Tensor, "B T H V"], FastWeights]:
    """The meaning of ``scan``: one time after another."""

    def advance(now: Inputs, weights: Tensor) -> tuple[Tensor, FastWeights]:
        decay = now.key_decay.unsqueeze(-1) * now.value_decay.unsqueeze(-2)
        weights = decay * weights + now.key.unsqueeze(-1) * now.value.unsqueeze(-2)
        return (now.query.unsqueeze(-2) @ weights).squeeze(-2), weights

    return by_steps(advance, inputs, state, starts, torch.zeros_like(state))


def _in_chunks(
    state: FastWeights, inputs: Inputs, starts: Bool[Tensor, "B T"], size: int
) -> tuple[Float[Tensor, "B T H V"], FastWeights]:
    query, key, value, key_decay, value_decay = inputs
    by_row = split(query, Write(key, value, decay=key_decay), starts, size)
    # the transpose: what is read and written along the columns are the values
    by_column = split(value, Write(value, key, decay=value_decay), starts, size)
    rows, columns = reach_of(by_row), reach_of(by_column)
    weight = pairs(by_row, rows.later * by_row.query, rows.earlier * by_row.key)
    inside = columns.later * (weight @ (columns.earlier * by_row.value))
    written = (leaving(by_row, by_row.key) @ leaving(by_column, by_row.value).mT).unbind(0)
    # from here on one chunk after the other
    query = (rows.entered * by_row.query).unbind(0)
    kept_rows = rows.entered[..., -1, :].unsqueeze(-1).unbind(0)
    kept_columns = columns.entered[..., -1, :].unsqueeze(-2).unbind(0)
    entering: list[Tensor] = []
    for n in range(len(written)):
        entering.append(query[n] @ state)
        state = torch.addcmul(written[n], kept_rows[n] * kept_columns[n], state)
    values = inside + columns.entered * torch.stack(entering)
    return join(values, inputs.query.shape[1]), state
