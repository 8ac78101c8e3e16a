"""The chunked scan for rules that let each key feature decay at its own speed.

As in ``chunked``, but what time ``i`` wrote reaches time ``t`` through a factor for each key
feature, ``D[t, i, k]``, so that attention inside a chunk is a sum over three factors. All exponents
are sums of logarithms of the decays between two times: never positive, so nothing overflows, and
never differences, so nothing is lost after a strong decay.

The delta rule with such decays (``kda``) solves the same triangular system as with one decay. The
generalised delta rule (RWKV-7) looks up what it removes before the decay and at a key of its own::

    r  = p S                       p: removal key
    S <- a S - (rate p)^T r + k^T v

With ``D'[t, i]`` the decays after ``i`` and before ``t``, what is looked up in a chunk solves::

    (I + lower(P D' (rate P)^T)) R = P S[before t] + lower(P D' K^T) V
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fwrl.kernels.chunked import Chunks, Passage, invert, join, pass_on, split, together
from fwrl.shapes import FastWeights
from fwrl.update_rules import UpdateRule, Write, generalised_delta_rule, kda_rule

# Times per chunk, at most: work and memory inside a chunk grow with it, for each key feature.
CHUNK_SIZE = 16

RULES: frozenset[UpdateRule] = frozenset({kda_rule, generalised_delta_rule})


def scan(
    rule: UpdateRule,
    state: FastWeights,
    query: Float[Tensor, "B T H K"],
    write: Write,
    starts: Bool[Tensor, "B T"],
    fresh: Float[Tensor, "#B H K V"] | None,
) -> tuple[Float[Tensor, "B T H V"], FastWeights]:
    """The reference scan up to rounding, in about ``T / CHUNK_SIZE`` sequential steps."""
    chunks = split(query, write, starts, CHUNK_SIZE)
    passage = _kda if rule is kda_rule else _generalised
    fresh = torch.zeros_like(state[:1]) if fresh is None else fresh
    values, end = pass_on(passage(chunks, fresh), state)
    return join(values, query.shape[1]), end


class Reach(NamedTuple):
    """How much of what was written is left, for each key feature."""

    # D[t, i]: of what time i wrote, at time t, from the same episode; 0 if there is none
    pair: Float[Tensor, "N B H C C K"]
    # of the fast weights that entered the chunk, at time t; 0 after the first start
    entered: Float[Tensor, "N B H C K"]
    # of the state that t's episode began with; 0 before the first start
    fresh: Float[Tensor, "N B H C K"]


def _reach(chunks: Chunks, *, before: bool) -> Reach:
    """The reach at each time, its own decay included, or ``before`` that."""
    assert chunks.log_decay is not None, "these rules need decay"
    same, inherits = together(chunks)
    later = same.tril(-1).unsqueeze(-1)
    # the decays that what time i wrote has met, one for each time after it
    met = torch.where(later, chunks.log_decay.unsqueeze(-2), 0.0)
    logs = met.cumsum(dim=-3)
    if before:
        # what was written one time ago has met nothing yet
        logs = torch.cat([torch.zeros_like(logs[..., :1, :, :]), logs[..., :-1, :, :]], dim=-3)
    seen = same.tril(-1) if before else same
    pair = torch.where(seen.unsqueeze(-1), logs.exp(), 0.0)
    left = (seen.to(logs.dtype) @ chunks.log_decay).exp()
    return Reach(pair, torch.where(inherits, left, 0.0), torch.where(inherits, 0.0, left))


def _kda(chunks: Chunks, fresh: FastWeights) -> Passage:
    assert chunks.beta is not None, "the kda rule needs beta"
    reach = _reach(chunks, before=False)
    reached = reach.pair * chunks.key.unsqueeze(-3)
    strong_key = chunks.beta * chunks.key
    return Passage(
        attention=_looks(chunks.query, reached),
        query=reach.entered * chunks.query,
        key=reached[..., -1, :, :].mT,
        survives=reach.entered[..., -1:, :].mT,
        written=chunks.beta * chunks.value - (reach.fresh * strong_key) @ fresh,
        inverse=invert(_looks(strong_key, reached)),
        strong_key=reach.entered * strong_key,
        beside=(reach.fresh * chunks.query) @ fresh,
        added=reach.fresh[..., -1:, :].mT * fresh,
    )


def _generalised(chunks: Chunks, fresh: FastWeights) -> Passage:
    """What is carried as ``written`` is minus what is looked up for removal."""
    removal_key, rate = chunks.removal_key, chunks.removal_rate
    assert removal_key is not None, "the generalised delta rule needs a removal key"
    assert rate is not None, "the generalised delta rule needs a removal rate"
    now, before = _reach(chunks, before=False), _reach(chunks, before=True)
    removed = (rate * removal_key).unsqueeze(-3)
    key = chunks.key.unsqueeze(-3)
    reached, reached_removal = now.pair * key, now.pair * removed
    old = _looks(removal_key, before.pair * key) @ chunks.value
    last = reached[..., -1, :, :].mT @ chunks.value
    return Passage(
        attention=_looks(chunks.query, reached_removal),
        query=now.entered * chunks.query,
        key=reached_removal[..., -1, :, :].mT,
        survives=now.entered[..., -1:, :].mT,
        written=-old - (before.fresh * removal_key) @ fresh,
        inverse=invert(_looks(removal_key, before.pair * removed)),
        strong_key=before.entered * removal_key,
        beside=_looks(chunks.query, reached) @ chunks.value + (now.fresh * chunks.query) @ fresh,
        added=last + now.fresh[..., -1:, :].mT * fresh,
    )


def _looks(
    address: Float[Tensor, "N B H C K"], reached: Float[Tensor, "N B H C C K"]
) -> Float[Tensor, "N B H C C"]:
    """How strongly each time's address meets what each earlier time wrote."""
    return (reached @ address.unsqueeze(-1)).squeeze(-1)
