"""Fast weights that fade by an outer product of decays, in chunks of time.

Every row of the fast weights has a decay ``a`` of its own and every column a decay ``b``::

    S  <- (a b^T) o S + k v^T
    y   = q S

What time ``i`` wrote has faded, by time ``t``, by a product of a factor per row and a factor per
column, so that inside a chunk that begins with the state ``S0``::

    A[t, i, k] = product of the row decays after i up to t, if both are in one episode and i <= t
    B[t, i, v] = the same of the column decays
    ra, rb     = products of t's episode up to t, counted from the start of the chunk
    W[t, i]    = sum over k of q[t, k] A[t, i, k] k[i, k]
    y[t, v]    = sum over i of W[t, i] B[t, i, v] v[i, v] + rb[t, v] ((q[t] o ra[t]) S0)[v]

Only states between chunks are kept, not one for each time. All the products are exponentials of
sums of logarithms that are at most 0: nothing is divided, nothing overflows.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from fwrl.kernels.chunked import MIN_DECAY
from fwrl.precision import without_autocast
from fwrl.recurrence import by_steps
from fwrl.shapes import FastWeights

# Times per chunk, at most. What is kept for the gradient grows with it as C (K + V) + K V / C.
CHUNK_SIZE = 4


class Inputs(NamedTuple):
    """What one scan reads: at all times, or at one of them without the axis for time."""

    query: Float[Tensor, "*B H K"]
    key: Float[Tensor, "*B H K"]
    value: Float[Tensor, "*B H V"]
    # how much of each row, and of each column, survives; in [0, 1]
    key_decay: Float[Tensor, "*B H K"]
    value_decay: Float[Tensor, "*B H V"]


class Faded(NamedTuple):
    """How much of the past is left along one side of the fast weights; F is K or V."""

    # what time i wrote, as seen by time t; 1 where i is not before t
    pair: Float[Tensor, "N B H C C F"]
    # of the state that entered the chunk, at time t
    entered: Float[Tensor, "N B H C F"]
    # what time i wrote, as left at the end of the chunk
    leaving: Float[Tensor, "N B H C F"]


def scan(
    state: FastWeights, inputs: Inputs, starts: Bool[Tensor, "B T"]
) -> tuple[Float[Tensor, "B T H V"], FastWeights]:
    """What the queries read, each after the write of its own time, and the last state.

    Episodes begin with zeros.
    """
    state = state.to(inputs.query.dtype)
    with without_autocast(state.device):
        values, end = _in_chunks(state, inputs, starts)
        if not values.detach().sum().isfinite():
            # starts are products with zero here, which keep a NaN
            values, end = scan_by_steps(state, inputs, starts)
    return values, end


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
    state: FastWeights, inputs: Inputs, starts: Bool[Tensor, "B T"]
) -> tuple[Float[Tensor, "B T H V"], FastWeights]:
    batch, times, heads = inputs.query.shape[:3]
    count = -(-times // CHUNK_SIZE)
    size = -(-times // count)
    missing = count * size - times

    def by_chunk(x: Float[Tensor, "B T H F"], filling: float = 0.0) -> Tensor:
        filled = F.pad(x, (0, 0, 0, 0, 0, missing), value=filling) if missing else x
        return filled.unflatten(1, (count, size)).permute(1, 0, 3, 2, 4)

    episode = F.pad(starts, (0, missing)).unflatten(1, (count, size)).transpose(0, 1).cumsum(-1)
    query, key, value = map(by_chunk, inputs[:3])
    together = (episode.unsqueeze(-1) == episode.unsqueeze(-2)).tril().unsqueeze(2)
    rows = _fade(by_chunk(inputs.key_decay, 1.0), episode)
    columns = _fade(by_chunk(inputs.value_decay, 1.0), episode)
    weight = ((rows.pair * key.unsqueeze(-3)) @ query.unsqueeze(-1)).squeeze(-1) * together
    inside = (weight.unsqueeze(-2) @ (columns.pair * value.unsqueeze(-3))).squeeze(-2)
    left_keys = rows.leaving * key * together[..., -1, :].unsqueeze(-1)
    written = (left_keys.mT @ (columns.leaving * value)).unbind(0)
    # from here on one chunk after the other
    query = (rows.entered * query).unbind(0)
    kept_rows = rows.entered[..., -1, :].unsqueeze(-1).unbind(0)
    kept_columns = columns.entered[..., -1, :].unsqueeze(-2).unbind(0)
    entering: list[Tensor] = []
    for n in range(count):
        entering.append(query[n] @ state)
        state = torch.addcmul(written[n], kept_rows[n] * kept_columns[n], state)
    values = inside + columns.entered * torch.stack(entering)
    values = values.permute(1, 0, 3, 2, 4).reshape(batch, -1, heads, values.shape[-1])
    return values[:, :times], state


def _fade(decay: Float[Tensor, "N B H C F"], episode: Tensor) -> Faded:
    size = decay.shape[-2]
    log_decay = decay.clamp_min(MIN_DECAY).log()
    inherits = (episode == 0)[:, :, None, :, None]
    # which times lie after i and up to t: sums over them, as differences of running sums would
    # lose digits after a strong decay
    every = torch.ones(size, size, dtype=decay.dtype, device=decay.device)
    to_time = every.tril()
    between = to_time.unsqueeze(1) * every.triu(1)
    left = (between.flatten(0, 1) @ log_decay).unflatten(-2, (size, size))
    entered = (to_time @ log_decay).exp() * inherits
    return Faded(left.exp(), entered, (every.triu(1) @ log_decay).exp())
