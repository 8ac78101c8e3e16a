"""The chunked scan for rules that let each key feature decay at its own speed.

As in ``chunked``, but what time ``i`` wrote reaches time ``t`` through a factor for each key
feature, ``exp(G[t] - G[i])``, with ``G`` the running sum of the logarithms of the decays. Around a
time ``m`` in the middle of the chunk it falls into two, so that attention stays one product of
matrices::

    (q[t] * exp(G[t] - G[m])) . (k[i] * exp(G[m] - G[i]))

Where a chunk forgets more than ``exp(-MAX_EXPONENT)`` one of them overflows or vanishes. The second
is then made infinite, the result is undefined, and the caller scans again by reference. On a GPU,
where to look would mean to wait, ``scan_apart`` bounds the decays instead.

The delta rule with such decays (``kda``) solves the same triangular system as with one decay; it is
scanned as the case of ``gated_delta_2`` in which all gates are beta. The generalised delta rule
(RWKV-7) looks up what it removes before the decay and at a key of its own::

    r  = p S                       p: removal key
    S <- a S - (rate p)^T r + k^T v

With ``D`` the decays after ``i`` up to ``t`` and ``D'`` those before ``t``, what is looked up in a
chunk solves::

    (I + lower(P (rate P)^T * D')) R = P S[before t] + lower(P K^T * D') V
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from fwrl.kernels.chunked.scan import Chunks, Passage, invert, pass_on, read_of, split, together
from fwrl.kernels.chunked.undefined import clean, lose, lost_by
from fwrl.state import FastWeights
from fwrl.update_rules import Rule, ScanInputs, Write

# Times per chunk, at most: fewer forget less, and then stay within the exponents.
CHUNK_SIZE = 16

# The largest exponent of either factor: beyond it single precision overflows in one factor and
# loses digits in the other.
MAX_EXPONENT = 80.0

# Where the result may not be looked at: times per chunk, and the decay that stronger ones count as.
# Five of them, from the first time to the middle, are within the exponents; what one leaves is lost
# in the rounding of what is written later.
SHORT_CHUNK = 8
STRONGEST = math.exp(-MAX_EXPONENT / 5)


def scan(rule: Rule, inputs: ScanInputs) -> tuple[Float[Tensor, "B T H V"], FastWeights]:
    """The reference scan up to rounding, in about ``T / CHUNK_SIZE`` sequential steps.

    Undefined numbers where the decays of a chunk are too strong.
    """
    return _scan(rule, inputs, CHUNK_SIZE)


def scan_apart(rule: Rule, inputs: ScanInputs) -> tuple[Float[Tensor, "B T H V"], FastWeights]:
    """``scan`` through which nothing undefined passes a start, and that no decay makes undefined.

    For devices whose numbers are not to be looked at. Its chunks are shorter.
    """
    given = clean(inputs)
    assert given.write.decay is not None, "these rules need decay"
    given = given._replace(write=given.write._replace(decay=weaker(given.write.decay)))
    return lose(lost_by(*inputs), *_scan(rule, given, SHORT_CHUNK))


def weaker(decay: Float[Tensor, "B T H F"]) -> Float[Tensor, "B T H F"]:
    """Decays that stay within the exponents over ``SHORT_CHUNK`` times, whatever they are."""
    return decay.clamp_min(STRONGEST)


def _scan(
    rule: Rule, inputs: ScanInputs, size: int
) -> tuple[Float[Tensor, "B T H V"], FastWeights]:
    state, query, write, starts, fresh = inputs
    errs = rule.form == "error"
    chunks = split(query, gated(rule, write) if errs else write, starts, size)
    passage = _error if errs else _removal
    fresh = torch.zeros_like(state[:1]) if fresh is None else fresh
    return read_of(pass_on(passage(chunks, fresh), state), query.shape[1])


def gated(rule: Rule, write: Write) -> Write:
    """The same write of an error with gates on the value and, as removal rates, on the key."""
    if rule.beta == "gates":
        return write
    assert write.beta is not None, "an error needs beta"
    return write._replace(value=write.beta * write.value, removal_rate=write.beta)


class Reach(NamedTuple):
    """The shares of earlier writes that are left at each time, for each key feature."""

    # the two factors of the share that a later time finds of an earlier time's write
    later: Float[Tensor, "N B H C K"]
    earlier: Float[Tensor, "N B H C K"]
    # the share of the fast weights that entered the chunk; 0 after the first start
    entered: Float[Tensor, "N B H C K"]
    # the share of the state that the time's episode began with; 0 before the first start
    fresh: Float[Tensor, "N B H C K"]


def reach_of(chunks: Chunks, *, before: bool = False) -> Reach:
    """The reach at each time, its own decay included, or ``before`` that."""
    decay = chunks.log_decay
    assert decay is not None, "these rules need decay"
    _, inherits = together(chunks)
    total, running = episode_decay(chunks), decay.cumsum(dim=-2)
    middle = running[..., running.shape[-2] // 2, None, :]
    # the same for all times of an episode, so that it cancels: it needs no gradient
    offset = (total - running + middle).detach()
    exponent = offset - total
    earlier = torch.where(exponent.abs() > MAX_EXPONENT, torch.inf, exponent).exp()
    if before:
        total = total - decay
    left = total.exp()
    entered, fresh = torch.where(inherits, left, 0.0), torch.where(inherits, 0.0, left)
    return Reach((total - offset).exp(), earlier, entered, fresh)


def episode_decay(chunks: Chunks) -> Float[Tensor, "N B H C K"]:
    """The logarithm of all decays of each time's episode up to it, inside the chunk.

    A sum that ran on from one episode to the next would let gradients cross by rounding.
    """
    assert chunks.log_decay is not None, "these rules need decay"
    return together(chunks)[0].to(chunks.log_decay.dtype) @ chunks.log_decay


def pairs(chunks: Chunks, reader: Tensor, written: Tensor) -> Float[Tensor, "N B H C C"]:
    """How strongly each time's reader meets what each time up to it wrote, both scaled."""
    return torch.where(together(chunks)[0], reader @ written.mT, 0.0)


def leaving(chunks: Chunks, written: Float[Tensor, "N B H C K"]) -> Float[Tensor, "N B H K C"]:
    """The keys of the last episode's writes, decayed until the chunk ends."""
    total = episode_decay(chunks)
    last = together(chunks)[0][..., -1, :].unsqueeze(-1)
    exponent = torch.where(last, total[..., -1:, :] - total, -torch.inf)
    return (written * exponent.exp()).mT


def _error(chunks: Chunks, fresh: FastWeights) -> Passage:
    assert chunks.removal_rate is not None, "an error needs gates"
    reach = reach_of(chunks)
    written, strong_key = reach.earlier * chunks.key, chunks.removal_rate * chunks.key
    return Passage(
        attention=pairs(chunks, reach.later * chunks.query, written),
        query=reach.entered * chunks.query,
        key=leaving(chunks, chunks.key),
        survives=reach.entered[..., -1:, :].mT,
        written=chunks.value - (reach.fresh * strong_key) @ fresh,
        inverse=invert(pairs(chunks, reach.later * strong_key, written)),
        strong_key=reach.entered * strong_key,
        beside=(reach.fresh * chunks.query) @ fresh,
        added=reach.fresh[..., -1:, :].mT * fresh,
    )


def _removal(chunks: Chunks, fresh: FastWeights) -> Passage:
    """The passage of the generalised delta rule; ``written`` are the removed values, negated."""
    removal_key, rate = chunks.removal_key, chunks.removal_rate
    assert removal_key is not None, "the generalised delta rule needs a removal key"
    assert rate is not None, "the generalised delta rule needs a removal rate"
    now, before = reach_of(chunks), reach_of(chunks, before=True)
    removed = rate * removal_key
    key, taken = now.earlier * chunks.key, now.earlier * removed
    query, looks = now.later * chunks.query, before.later * removal_key
    # a time does not yet see what it writes when it looks up what to remove
    old = pairs(chunks, looks, key).tril(-1) @ chunks.value
    seen = pairs(chunks, query, key) @ chunks.value
    return Passage(
        attention=pairs(chunks, query, taken),
        query=now.entered * chunks.query,
        key=leaving(chunks, removed),
        survives=now.entered[..., -1:, :].mT,
        written=-old - (before.fresh * removal_key) @ fresh,
        inverse=invert(pairs(chunks, looks, taken)),
        strong_key=before.entered * removal_key,
        beside=seen + (now.fresh * chunks.query) @ fresh,
        added=leaving(chunks, chunks.key) @ chunks.value + now.fresh[..., -1:, :].mT * fresh,
    )
