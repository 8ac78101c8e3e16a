"""The same scan in chunks of time: parallel inside a chunk, one step from chunk to chunk.

All rules that have a chunked form are cases of one recurrence; with decay ``a``, write strength
``b`` and row vectors ``q, k, v``, where ``S`` is the fresh state at a start::

    S  <- a S                      decay, if the rule has one
    u   = b (v - k S)              without "k S" if the rule does not remove what it overwrites
    S  <- S + k^T u
    y   = q S

Inside a chunk of C times that begins with state ``S0`` the ``u`` solve a unit triangular system
(the WY form of Bischof and Van Loan 1987, for the delta rule by Yang et al. 2024)::

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

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from fwrl.shapes import FastWeights
from fwrl.update_rules import (
    UpdateRule,
    Write,
    decayed_sum_rule,
    delta_rule,
    gated_delta_rule,
    gated_sum_rule,
    sum_rule,
)

# Times per chunk, at most. More is slower on CPUs, less has more sequential steps.
CHUNK_SIZE = 32

# Smaller decays count as this one: its logarithm is finite, and what survives it is lost in
# the rounding of anything written later.
MIN_DECAY = 1e-20


class Form(NamedTuple):
    """How a rule fills the recurrence."""

    # the error is written, not the value
    removes: bool
    # the value (or error) is multiplied by beta
    scaled: bool
    # none, given in the write, or the rest that beta leaves
    decay: Literal["none", "given", "rest"]


FORMS: dict[UpdateRule, Form] = {
    sum_rule: Form(removes=False, scaled=False, decay="none"),
    delta_rule: Form(removes=True, scaled=True, decay="none"),
    gated_sum_rule: Form(removes=False, scaled=True, decay="rest"),
    decayed_sum_rule: Form(removes=False, scaled=True, decay="given"),
    gated_delta_rule: Form(removes=True, scaled=True, decay="given"),
}


class Chunks(NamedTuple):
    """The inputs of one scan, by chunk; N chunks of C times."""

    query: Float[Tensor, "N B H C K"]
    key: Float[Tensor, "N B H C K"]
    value: Float[Tensor, "N B H C V"]
    beta: Float[Tensor, "N B H C 1"] | None
    log_decay: Float[Tensor, "N B H C 1"] | None
    starts: Bool[Tensor, "N B C"]


class Links(NamedTuple):
    """Which time sees what, and how much of it is left. H or 1 heads, as decays need."""

    # D: what time i wrote, as seen by time t
    pair: Float[Tensor, "N B #H C C"]
    # r for the rows that still see the state that entered the chunk, else 0
    entered: Float[Tensor, "N B #H C 1"]
    # r for the rows that see the fresh state, else 0
    fresh: Float[Tensor, "N B #H C 1"]


def scan(
    rule: UpdateRule,
    state: FastWeights,
    query: Float[Tensor, "B T H K"],
    write: Write,
    starts: Bool[Tensor, "B T"],
    fresh: Float[Tensor, "#B H K V"] | None,
) -> tuple[Float[Tensor, "B T H V"], FastWeights]:
    """The reference scan up to rounding, in about ``T / CHUNK_SIZE`` sequential steps."""
    form = FORMS[rule]
    chunks = _split(form, query, write, starts)
    links = _link(chunks)
    values, state = _pass_on(form, chunks, links, state, fresh)
    if fresh is not None:
        values = values + (links.fresh * chunks.query) @ fresh
    batch, times, heads = query.shape[:3]
    values = values.permute(1, 0, 3, 2, 4).reshape(batch, -1, heads, values.shape[-1])
    return values[:, :times], state


def _split(
    form: Form,
    query: Float[Tensor, "B T H K"],
    write: Write,
    starts: Bool[Tensor, "B T"],
) -> Chunks:
    """Chunks of equal size, filled up with times that neither start, write nor decay."""
    count = -(-query.shape[1] // CHUNK_SIZE)
    size = -(-query.shape[1] // count)
    missing = count * size - query.shape[1]

    def by_chunk(x: Float[Tensor, "B T H F"]) -> Float[Tensor, "N B H C F"]:
        filled = F.pad(x, (0, 0, 0, 0, 0, missing)) if missing else x
        parts = filled.unflatten(1, (count, size))
        return parts.permute(1, 0, 3, 2, 4).contiguous()

    decay = {"none": None, "given": write.decay, "rest": write.beta}[form.decay]
    log_decay = None
    if decay is not None:
        decay = 1.0 - decay if form.decay == "rest" else decay
        log_decay = by_chunk(decay.clamp_min(MIN_DECAY).log())
    beta = by_chunk(write.beta) if form.scaled and write.beta is not None else None
    starts = F.pad(starts, (0, missing)).unflatten(1, (count, size)).transpose(0, 1)
    return Chunks(
        by_chunk(query), by_chunk(write.key), by_chunk(write.value), beta, log_decay, starts
    )


def _link(chunks: Chunks) -> Links:
    dtype = chunks.query.dtype
    episode = chunks.starts.cumsum(dim=-1)
    together = episode.unsqueeze(-1) == episode.unsqueeze(-2)
    together = together.tril().unsqueeze(2).to(dtype)
    inherits = (episode == 0).unsqueeze(2).unsqueeze(-1).to(dtype)
    if chunks.log_decay is None:
        return Links(together, inherits, 1.0 - inherits)
    # sums of logarithms of one episode up to t; differences of running sums would lose digits
    # after a strong decay. All of them are at most 0, so that no exponential overflows.
    logs = together * chunks.log_decay.mT
    later = torch.ones_like(logs[0, 0, 0]).tril(-1)
    left = logs.sum(dim=-1, keepdim=True).exp()
    return Links((logs @ later).exp() * together, left * inherits, left * (1.0 - inherits))


def _writes(form: Form, chunks: Chunks, links: Links, fresh: Tensor | None) -> Tensor:
    """What would be written, b (V - r K S), if the state that enters the chunk were zero."""
    written = chunks.value
    if fresh is not None and form.removes:
        written = written - (links.fresh * chunks.key) @ fresh
    return written if chunks.beta is None else chunks.beta * written


def _removal(chunks: Chunks, links: Links) -> tuple[Tensor, Tensor]:
    """The inverse of I + lower(b K K^T * D), and b r K, by which S0 enters."""
    assert chunks.beta is not None, "what removes needs beta"
    strong_key = chunks.beta * chunks.key
    system = (strong_key @ chunks.key.mT) * links.pair
    unit = torch.eye(system.shape[-1], dtype=system.dtype, device=system.device)
    # only what is strictly below the diagonal is read
    inverse = torch.linalg.solve_triangular(
        system, unit.expand_as(system), upper=False, unitriangular=True
    )
    return inverse, links.entered * strong_key


def _pass_on(
    form: Form, chunks: Chunks, links: Links, state: FastWeights, fresh: Tensor | None
) -> tuple[Float[Tensor, "N B H C V"], FastWeights]:
    """What is read, and the last state: the state goes from chunk to chunk."""
    count, batch, heads = chunks.query.shape[:3]

    def merged(x: Float[Tensor, "N B #H R F"]) -> tuple[Tensor, ...]:
        return x.expand(count, batch, heads, -1, -1).flatten(1, 2).unbind(0)

    attention = merged((chunks.query @ chunks.key.mT) * links.pair)
    query = merged(links.entered * chunks.query)
    key = merged((links.pair[..., -1, :].unsqueeze(-1) * chunks.key).mT)
    survives = merged(links.entered[..., -1:, :])
    reborn = None if fresh is None else merged(links.fresh[..., -1:, :] * fresh)
    written = merged(_writes(form, chunks, links, fresh))
    inverse, strong_key = map(merged, _removal(chunks, links)) if form.removes else (None, None)
    weights = state.flatten(0, 1)
    values: list[Tensor] = []
    for n in range(count):
        write = written[n]
        if inverse is not None and strong_key is not None:
            write = inverse[n] @ torch.baddbmm(write, strong_key[n], weights, alpha=-1)
        values.append(torch.baddbmm(attention[n] @ write, query[n], weights))
        weights = torch.baddbmm(survives[n] * weights, key[n], write)
        if reborn is not None:
            weights = weights + reborn[n]
    return torch.stack(values).unflatten(1, (batch, heads)), weights.unflatten(0, (batch, heads))
