"""The recall map: what each past write contributes to each read of the fast weights, exactly.

Under most rules the weights after a write are linear in those before it, ``W <- A W + k b v``:
``A = a (I - b k k)`` for the gated delta rule. A read ``q W`` is therefore a sum over all writes:
that of time s gives ``q[t] A[t] ... A[s+1] k[s] b[s] v[s]`` to the read at time t. The sum is
exact, given the keys, queries, strengths and decays: how these came about is not taken apart.

The write of the delta rule can be understood in two ways: as ``b k (v - k W)`` beside a past that
stays as it is, or as ``b k v`` beside a past that loses what it held at the key. Here it is the
second, which is linear in the values: what was overwritten contributes nothing any more.

One more axis here: ``S`` times of writes, as many as there are times of reads.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from fwrl.core import Reads
from fwrl.kernels import scan
from fwrl.state import map_tensors
from fwrl.update_rules import rule_of

# A read shorter than this part of its contributions is a rounding error: it has no shares.
NOTHING = 1e-5


class RecallMap(NamedTuple):
    """The shares of the writes in the reads; those of one read, with ``before``, add up to 1.

    The share of a write is the length of its contribution along the whole read, in units of that
    read: negative where it works against what is read. All are 0 where nothing is read.
    """

    share: Float[Tensor, "B T H S"]
    # the share of the weights that an episode begins with, or that preceded the first time step
    before: Float[Tensor, "B T H"]


@torch.no_grad()
def values_of(reads: Reads) -> Float[Tensor, "B T H V"]:
    """The values that the queries read."""
    return scan(reads.rule, *reads.inputs)[0]


@torch.no_grad()
def contributions(reads: Reads) -> Iterator[tuple[int, Float[Tensor, "B R H V"]]]:
    """The contribution of each write to the reads at its own time step and after, newest first.

    The last, with -1 for its time step, is the contribution of the first weights to all reads.

    Raises:
        ValueError: If the rule is not linear in the weights.
    """
    state, query, write, starts, _ = reads.inputs
    rule = rule_of(reads.rule)
    if not rule.linear:
        raise ValueError(f"{rule.apply.__name__} is not linear: its reads are no sums over writes")
    times, size = query.shape[1], query.shape[-1]
    # queries of the weights before each time step: led back over the writes
    rest = query.transpose(1, 2).clone()
    nothing = torch.zeros_like(state)
    everything = torch.eye(size, dtype=state.dtype, device=state.device)
    everything = everything.expand(*state.shape[:2], -1, -1)
    begins = reads.inputs.fresh_or_zeros()
    before = state.new_zeros(*rest.shape[:-1], state.shape[-1])
    any_starts: list[bool] = starts.any(dim=0).tolist()
    for time in reversed(range(times)):
        written = map_tensors(partial(torch.select, dim=1, index=time), write)
        late = rest[:, :, time:]
        yield time, (late @ rule(nothing, written)).transpose(1, 2)
        # the rule itself, applied to each row of the weights, says what it keeps of them
        erased = written._replace(value=written.value.new_zeros(*written.value.shape[:-1], size))
        late = late @ rule(everything, erased)
        if any_starts[time]:
            opens = starts[:, time, None, None, None]
            before[:, :, time:] += torch.where(opens, late @ begins, 0.0)
            late = torch.where(opens, 0.0, late)
        rest[:, :, time:] = late
    carried = (starts.cumsum(dim=1) == 0)[:, None, :, None]
    yield -1, (before + torch.where(carried, rest @ state, 0.0)).transpose(1, 2)


@torch.no_grad()
def recall_map(reads: Reads) -> RecallMap:
    """The share of each write in each read, and in what all heads read together.

    One more head is returned than there are: the last one is all of them side by side.
    The writes of one time step are counted as one.
    """
    values = values_of(reads)
    batch, times, heads, _ = values.shape
    along = values.new_zeros(batch, times, heads, times + 1)
    size = torch.zeros_like(along[..., 0])
    for time, given in contributions(reads):
        since = max(time, 0)
        along[:, since:, :, time] = (given * values[:, since:]).sum(dim=-1)
        size[:, since:] += given.norm(dim=-1)
    writes = reads.writes
    along, size = along[:, writes - 1 :: writes], size[:, writes - 1 :: writes]
    squared = values[:, writes - 1 :: writes].square().sum(dim=-1)
    along = torch.cat([along, along.sum(dim=2, keepdim=True)], dim=2)
    squared = torch.cat([squared, squared.sum(dim=2, keepdim=True)], dim=2)
    size = torch.cat([size, size.square().sum(dim=2, keepdim=True).sqrt()], dim=2)
    something = squared > (NOTHING * size).square()
    share = torch.where(something.unsqueeze(-1), along / squared.unsqueeze(-1), 0.0)
    return RecallMap(share[..., :-1].unflatten(-1, (-1, writes)).sum(dim=-1), share[..., -1])


def influence(
    outcome: Callable[[Tensor], Tensor], x: Float[Tensor, "1 T D"], at_once: int = 8192
) -> Float[Tensor, "T S"]:
    """How much the outcome at each time step would change with the input at each: shares.

    The lengths of the gradients, those of one outcome divided by their sum. They hold for any way
    to compute the outcome, but only for small changes, and do not say what was stored when.

    Args:
        outcome: Maps copies of the first inputs, ``[R t D]``, to one number for each time step,
            ``[R t]``; causal.
        x: The inputs of one episode.
        at_once: Inputs of all copies that are computed at once; more take more memory.
    """
    times = x.shape[1]
    rows = max(1, at_once // times)
    found = x.new_zeros(times, times)
    for first in range(0, times, rows):
        end = min(first + rows, times)
        copies = x[:, :end].detach().repeat(end - first, 1, 1).requires_grad_()
        with torch.enable_grad():
            outcomes = outcome(copies)[:, first:end].diagonal().sum()
        (gradient,) = torch.autograd.grad(outcomes, copies)
        found[first:end, :end] = gradient.norm(dim=-1)
    return found / found.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(found.dtype).tiny)
