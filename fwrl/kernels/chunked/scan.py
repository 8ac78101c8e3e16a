"""The scan in chunks of time: parallel inside a chunk, one step from chunk to chunk.

All rules that have a chunked form are cases of one recurrence; with decay ``a``, write strength
``b`` and row vectors ``q, k, v``, where ``S`` is the fresh state at a start::

    S  <- a S                      decay, if the rule has one
    u   = b (v - k S)              without "k S" if the rule does not remove what it overwrites
    S  <- S + k^T u
    y   = q S

Inside a chunk of C times that begins with state ``S0`` the ``u`` solve a unit triangular system
(the WY form of Bischof and Van Loan 1987, for the delta rule by Yang et al. 2024a)::

    D[t, i] = product of the decays after i up to t, if i and t are in one episode and i <= t
    r[t]    = product of the decays of t's episode up to t, counted from the start of the chunk
    (I + lower(b K K^T * D)) U = b (V - r K S[start of t])
    Y       = r Q S[start of t] + (Q K^T * D) U
    S1      = r[C] S[start of C] + (D[C] K)^T U

``S[start of t]`` is ``S0`` for the rows before the first start in the chunk and the fresh state for
the rows after it. So a start is a mask, never a factor, and costs nothing.

Note:
    The inverse is forward substitution. A series of products (Neumann) is wrong by orders of
    magnitude in float32 when keys repeat, as those of a resting agent do.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from fwrl.state import FastWeights
from fwrl.update_rules import Rule, ScanInputs, Write, beta_of

# Times per chunk, at most. More is slower on CPUs, less has more sequential steps.
CHUNK_SIZE = 32

# Smaller decays count as this one: its logarithm is finite, and what survives it is lost in
# the rounding of anything written later.
MIN_DECAY = 1e-20


class Chunks(NamedTuple):
    """The inputs of one scan, by chunk; N chunks of C times."""

    query: Float[Tensor, "N B H C K"]
    key: Float[Tensor, "N B H C K"]
    value: Float[Tensor, "N B H C V"]
    beta: Float[Tensor, "N B H C 1"] | None
    log_decay: Float[Tensor, "N B H C #K"] | None
    removal_key: Float[Tensor, "N B H C K"] | None
    removal_rate: Float[Tensor, "N B H C #K"] | None
    starts: Bool[Tensor, "N B C"]


class Links(NamedTuple):
    """The share of each write that is left at each later time; one head if nothing decays."""

    # D: what time i wrote, as seen by time t
    pair: Float[Tensor, "N B #H C C"]
    # r for the rows that still see the state that entered the chunk, else 0
    entered: Float[Tensor, "N B #H C 1"]
    # r for the rows that see the fresh state, else 0
    fresh: Float[Tensor, "N B #H C 1"]


class Passage(NamedTuple):
    """The intra-chunk results that the recurrence from chunk to chunk needs.

    With ``W`` the fast weights that enter a chunk, and without what is None::

        written = inverse (written - strong_key W)
        values  = attention written + query W + beside
        W      <- survives W + key written + added
    """

    attention: Float[Tensor, "N B #H C C"]
    query: Float[Tensor, "N B #H C K"]
    key: Float[Tensor, "N B #H K C"]
    survives: Float[Tensor, "N B #H #K 1"]
    written: Float[Tensor, "N B #H C V"]
    inverse: Float[Tensor, "N B #H C C"] | None
    strong_key: Float[Tensor, "N B #H C K"] | None
    beside: Float[Tensor, "N B #H C V"] | None
    added: Float[Tensor, "N B #H K V"] | None


def scan(removes: bool, inputs: ScanInputs) -> tuple[Float[Tensor, "B T H V"], FastWeights]:
    """The reference scan up to rounding, in about ``T / CHUNK_SIZE`` sequential steps.

    Args:
        removes: Whether errors are written, not values.
        inputs: The sequence, its write ``prepared`` for its rule.
    """
    state, query, write, starts, fresh = inputs
    chunks = split(query, write, starts, CHUNK_SIZE)
    passage = passage_of(removes, chunks, link(chunks), fresh)
    return read_of(pass_on(passage, state), query.shape[1])


def computes(rule: Rule) -> bool:
    """Whether this recurrence, with one decay per head or none, is that of the rule."""
    return rule.form is not None and rule.decay != "feature"


def prepared(rule: Rule, write: Write) -> Write:
    """The write with what the recurrence is to see: another beta, another decay, no removal."""
    beta, decay = beta_of(rule, write), None if rule.decay == "none" else write.decay
    if rule.decay == "rest":
        assert beta is not None, "what beta leaves needs beta"
        decay = 1.0 - beta
    return Write(write.key, write.value, beta, decay)


def split(
    query: Float[Tensor, "B T H K"], write: Write, starts: Bool[Tensor, "B T"], chunk_size: int
) -> Chunks:
    """Chunks of equal size, filled up with times that neither start, write nor decay."""
    count, size, missing = _sizes(query.shape[1], chunk_size)
    log_decay = None if write.decay is None else write.decay.clamp_min(MIN_DECAY).log()
    beta, log_decay, removal_key, removal_rate = (
        None if x is None else by_chunk(x, chunk_size)
        for x in (write.beta, log_decay, write.removal_key, write.removal_rate)
    )
    return Chunks(
        by_chunk(query, chunk_size),
        by_chunk(write.key, chunk_size),
        by_chunk(write.value, chunk_size),
        beta,
        log_decay,
        removal_key,
        removal_rate,
        F.pad(starts, (0, missing)).unflatten(1, (count, size)).transpose(0, 1),
    )


def by_chunk(x: Float[Tensor, "B T H F"], chunk_size: int) -> Float[Tensor, "N B H C F"]:
    """The times by chunk, filled up with zeros."""
    count, size, missing = _sizes(x.shape[1], chunk_size)
    filled = F.pad(x, (0, 0, 0, 0, 0, missing)) if missing else x
    return filled.unflatten(1, (count, size)).permute(1, 0, 3, 2, 4).contiguous()


def _sizes(times: int, chunk_size: int) -> tuple[int, int, int]:
    """How many chunks, of how many times, and how many times are missing in the last."""
    count = -(-times // chunk_size)
    size = -(-times // count)
    return count, size, count * size - times


def join(values: Float[Tensor, "N B H C V"], times: int) -> Float[Tensor, "B T H V"]:
    """The chunks after one another, without the times that filled up the last one."""
    return values.permute(1, 0, 3, 2, 4).flatten(1, 2)[:, :times]


def together(chunks: Chunks) -> tuple[Bool[Tensor, "N B 1 C C"], Bool[Tensor, "N B 1 C 1"]]:
    """Which times up to each are of its episode; which times still see the entering state."""
    episode = chunks.starts.cumsum(dim=-1)
    same = episode.unsqueeze(-1) == episode.unsqueeze(-2)
    return same.tril().unsqueeze(2), (episode == 0).unsqueeze(2).unsqueeze(-1)


def link(chunks: Chunks) -> Links:
    """Masks that all heads share if nothing decays, else factors of each head."""
    dtype = chunks.query.dtype
    same, inherits = (mask.to(dtype) for mask in together(chunks))
    if chunks.log_decay is None:
        return Links(same, inherits, 1.0 - inherits)
    # sums of logarithms of one episode up to t; differences of running sums would lose digits
    # after a strong decay. All of them are at most 0, so that no exponential overflows.
    logs = same * chunks.log_decay.mT
    later = torch.ones_like(logs[0, 0, 0]).tril(-1)
    left = logs.sum(dim=-1, keepdim=True).exp()
    return Links((logs @ later).exp() * same, left * inherits, left * (1.0 - inherits))


def _writes(removes: bool, chunks: Chunks, links: Links, fresh: Tensor | None) -> Tensor:
    """The writes ``b (V - r K S)`` of a chunk that a zero state enters."""
    written = chunks.value
    if fresh is not None and removes:
        written = written - (links.fresh * chunks.key) @ fresh
    return written if chunks.beta is None else chunks.beta * written


def strong_key_of(chunks: Chunks) -> Float[Tensor, "N B H C K"]:
    """``b K``: how strongly each time looks up what it removes."""
    assert chunks.beta is not None, "what removes needs beta"
    return chunks.beta * chunks.key


def system_of(
    chunks: Chunks, links: Links, strong_key: Float[Tensor, "N B H C K"]
) -> Float[Tensor, "N B H C C"]:
    """``b K K^T * D``, of which only what is below the diagonal counts."""
    return (strong_key @ chunks.key.mT) * links.pair


def invert(system: Float[Tensor, "*N C C"]) -> Float[Tensor, "*N C C"]:
    """The inverse of the unit triangle whose entries below the diagonal are those of ``system``."""
    unit = torch.eye(system.shape[-1], dtype=system.dtype, device=system.device)
    return torch.linalg.solve_triangular(
        system, unit.expand_as(system), upper=False, unitriangular=True
    )


def passage_of(removes: bool, chunks: Chunks, links: Links, fresh: Tensor | None) -> Passage:
    """The intra-chunk computations, which need no state."""
    inverse, strong_key = None, None
    if removes:
        strong_key = strong_key_of(chunks)
        inverse = invert(system_of(chunks, links, strong_key))
        strong_key = links.entered * strong_key
    beside = None if fresh is None else (links.fresh * chunks.query) @ fresh
    added = None if fresh is None else links.fresh[..., -1:, :] * fresh
    return Passage(
        attention=(chunks.query @ chunks.key.mT) * links.pair,
        query=links.entered * chunks.query,
        key=(links.pair[..., -1, :].unsqueeze(-1) * chunks.key).mT,
        survives=links.entered[..., -1:, :],
        written=_writes(removes, chunks, links, fresh),
        inverse=inverse,
        strong_key=strong_key,
        beside=beside,
        added=added,
    )


class Passed(NamedTuple):
    """The results of each chunk, streams and heads in one axis, and the last state."""

    values: list[Float[Tensor, "BH C V"]]
    # the ``written`` of ``Passage`` after its inverse
    written: list[Float[Tensor, "BH C V"]]
    # the fast weights that entered
    entering: list[Float[Tensor, "BH K V"]]
    end: FastWeights


def pass_on(passage: Passage, state: FastWeights) -> Passed:
    """The inter-chunk recurrence: the state goes from chunk to chunk."""
    batch, heads = state.shape[:2]
    count = passage.attention.shape[0]
    columns = [
        [None] * count
        if part is None
        else part.expand(count, batch, heads, -1, -1).flatten(1, 2).unbind(0)
        for part in passage
    ]
    weights = state.flatten(0, 1)
    passed = Passed([], [], [], state)
    for now in map(Passage, *columns):
        write = now.written
        if now.inverse is not None and now.strong_key is not None:
            write = now.inverse @ torch.baddbmm(write, now.strong_key, weights, alpha=-1)
        read = torch.baddbmm(now.attention @ write, now.query, weights)
        passed.values.append(read if now.beside is None else read + now.beside)
        passed.written.append(write)
        passed.entering.append(weights)
        weights = torch.baddbmm(now.survives * weights, now.key, write)
        if now.added is not None:
            weights = weights + now.added
    return passed._replace(end=weights.unflatten(0, (batch, heads)))


def read_of(passed: Passed, times: int) -> tuple[Float[Tensor, "B T H V"], FastWeights]:
    """All values and the last state, as a scan gives them."""
    values = torch.stack(passed.values).unflatten(1, passed.end.shape[:2])
    return join(values, times), passed.end
