"""Softmax attention over the last times of an episode, at a cost linear in the sequence.

A sequence is cut into blocks; each block sees itself and the window before it, so that all blocks
are computed at once. How far back a query may see is one number: its last so many time steps, its
own included. So a start is a mask, never a factor.

All positions are relative: they depend on the age of a key, never on a clock that grows. Two more
axes here: ``P`` past time steps that a window holds, ``K`` features of a query or key.
"""

import math
from functools import partial
from typing import Literal, NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from fwrl.config import ConfigError, head_size
from fwrl.state import at_least_float32, map_tensors, may_look, without_autocast

# One sequence or a nesting of sequences, each ``[B, T, ...]``.
Sequences = TypeVar("Sequences")

Positions = Literal["rotary", "relative", "none"]

# Time steps per block, at least: more than short windows need, and still faster.
MIN_BLOCK = 32

# The slowest angle turns once in about this many time steps, times 2 pi.
SLOWEST = 10000.0


class KeysValues(NamedTuple):
    """Keys and values of the last time steps, the newest last; keys without positions."""

    key: Float[Tensor, "B P H K"]
    value: Float[Tensor, "B P H V"]


class WindowedAttention(nn.Module):
    """Attention with several heads; the caller keeps the window.

    Args:
        input_size: Size of queries, keys and values over all heads.
        heads: Heads; a divisor of the input size.
        window: Time steps that a query sees at most, its own included.
        positions: How scores depend on the age of a key.

    Raises:
        ConfigError: If the sizes do not fit.
    """

    def __init__(self, input_size: int, heads: int, window: int, positions: Positions) -> None:
        super().__init__()
        self.heads, self.head_size = heads, head_size("attention", input_size, heads)
        self.query = nn.Linear(input_size, input_size, bias=False)
        self.key_value = nn.Linear(input_size, 2 * input_size, bias=False)
        self.output = nn.Linear(input_size, input_size, bias=False)
        self.scores = scores_of(positions, heads, self.head_size, window)

    def queries(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T H K"]:
        """The queries of the inputs."""
        return at_least_float32(self.query(x)).unflatten(-1, (self.heads, self.head_size))

    def keys_values(
        self, x: Float[Tensor, "B T D"]
    ) -> tuple[Float[Tensor, "B T H K"], Float[Tensor, "B T H K"]]:
        """The keys and values of the inputs."""
        both = at_least_float32(self.key_value(x))
        key, value = both.unflatten(-1, (2, self.heads, self.head_size)).unbind(-3)
        return key, value

    def read(
        self,
        query: Float[Tensor, "B T H K"],
        key: Float[Tensor, "B PT H K"],
        value: Float[Tensor, "B PT H K"],
        seen: Float[Tensor, "B T"],
    ) -> Float[Tensor, "B T D"]:
        """The values that the queries attend to, in float32 at least until the last product.

        Args:
            query: At the last T of ``P + T`` time steps.
            key: At all time steps, P of them before the first query.
            value: At all time steps.
            seen: How many time steps each query sees, its own included, from 1 to ``P + 1``; more
                counts as ``P + 1``.
        """
        with without_autocast(query.device):
            found = attend(self.scores, query, key, value, seen)
        return self.output(found.flatten(start_dim=-2))


def attend(
    scores: nn.Module,
    query: Float[Tensor, "B T H K"],
    key: Float[Tensor, "B PT H K"],
    value: Float[Tensor, "B PT H V"],
    seen: Float[Tensor, "B T"],
) -> Float[Tensor, "B T H V"]:
    """Means of the values that each query sees, weighted by the softmax of its scores.

    A NaN at one time step reaches the queries that see this time step, and no others.

    Args:
        scores: Turns blocks of queries and keys into a score for each pair.
        query: At the last T time steps.
        key: At P past time steps and T more.
        value: Like ``key``.
        seen: As in ``WindowedAttention.read``.
    """
    times, past = query.shape[1], key.shape[1] - query.shape[1]
    size = min(times, max(past + 1, MIN_BLOCK))
    missing = -times % size
    of_queries = partial(_blocks_of_queries, size, missing)
    of_keys = partial(_blocks_of_keys, past + size, size, missing)
    sums = key.sum(dim=(-2, -1)) + value.sum(dim=(-2, -1))
    sums = sums + F.pad(query.sum(dim=(-2, -1)), (past, 0))
    undefined = ~sums.isfinite()
    any_undefined = not may_look(undefined) or bool(undefined.any())
    if any_undefined:
        # a product with a weight of zero would keep them
        hidden = undefined[..., None, None]
        query = torch.where(hidden[:, past:], 0.0, query)
        key, value = torch.where(hidden, 0.0, key), torch.where(hidden, 0.0, value)
    visible = _visible(of_queries(seen), past)
    pairs = scores(of_queries(query).transpose(2, 3), of_keys(key).mT) / math.sqrt(key.shape[-1])
    weights = pairs.masked_fill(~visible.unsqueeze(2), -math.inf).softmax(dim=-1)
    found = (weights @ of_keys(value).mT).transpose(2, 3)
    if any_undefined:
        hit = (visible & of_keys(undefined).unsqueeze(2)).any(dim=-1)
        found = torch.where(hit[..., None, None], math.nan, found)
    return found.flatten(1, 2)[:, :times]


def _blocks_of_queries(size: int, missing: int, x: Tensor) -> Tensor:
    """Blocks ``[B N C ...]``."""
    filled = F.pad(x, (0, 0) * (x.dim() - 2) + (0, missing), value=1.0)
    return filled.unflatten(1, (-1, size))


def _blocks_of_keys(span: int, size: int, missing: int, x: Tensor) -> Tensor:
    """Blocks ``[B N ... PC]``, each with the window before it: ``span`` keys."""
    filled = F.pad(x, (0, 0) * (x.dim() - 2) + (0, missing))
    return filled.unfold(1, span, size)


def _visible(seen: Float[Tensor, "B N C"], past: int) -> Bool[Tensor, "B N C PC"]:
    """Which of the keys of its block each query sees."""
    size = seen.shape[-1]
    index = torch.arange(past + size, device=seen.device)
    age = index[past:].unsqueeze(-1) - index
    return (age >= 0) & (age < seen.clamp(max=past + 1).unsqueeze(-1))


def scores_of(positions: Positions, heads: int, head_size: int, window: int) -> nn.Module:
    """The scores of queries and keys for a window of so many time steps.

    Raises:
        ConfigError: If the sizes do not fit.
    """
    match positions:
        case "rotary":
            return RotaryScores(head_size)
        case "relative":
            return RelativeScores(heads, head_size, window)
        case "none":
            return ContentScores()


class ContentScores(nn.Module):
    """Products of queries and keys, blind to when a key was written."""

    @override
    def forward(
        self, query: Float[Tensor, "*B C K"], key: Float[Tensor, "*B PC K"]
    ) -> Float[Tensor, "*B C PC"]:
        return query @ key.mT


class RotaryScores(nn.Module):
    """Products of queries and keys, rotated according to their time steps (Su et al. 2021).

    Time steps count from the first key of a block: only differences matter, and the angles never
    grow, however long an episode is.
    """

    frequency: Tensor

    def __init__(self, head_size: int) -> None:
        super().__init__()
        if head_size % 2:
            raise ConfigError(
                f"attention: heads of size {head_size} cannot be rotated; use an even size, "
                f"or other positions"
            )
        self.register_buffer("frequency", frequencies(head_size), persistent=False)

    @override
    def forward(
        self, query: Float[Tensor, "*B C K"], key: Float[Tensor, "*B PC K"]
    ) -> Float[Tensor, "*B C PC"]:
        time = torch.arange(key.shape[-2], device=key.device, dtype=key.dtype)
        angle = time.unsqueeze(-1) * self.frequency
        sine, cosine = angle.sin(), angle.cos()
        first = -query.shape[-2]
        query = _rotate(query, sine[first:], cosine[first:])
        return query @ _rotate(key, sine, cosine).mT


class RelativeScores(nn.Module):
    """Scores of content and of age, each with a learned bias (Dai et al. 2019).

    The score of a key of age a is ``(q + u) k + (q + v) W r[a]`` with sinusoids ``r``.
    """

    sinusoids: Tensor

    def __init__(self, heads: int, head_size: int, window: int) -> None:
        super().__init__()
        width = heads * head_size
        age = torch.arange(window - 1, -1, -1.0)
        angle = age.unsqueeze(-1) * frequencies(width + width % 2)
        sinusoids = torch.cat([angle.sin(), angle.cos()], dim=-1)
        # from the oldest age to the present
        self.register_buffer("sinusoids", sinusoids[:, :width], persistent=False)
        self.position = nn.Linear(width, width, bias=False)
        self.content_bias = nn.Parameter(torch.zeros(heads, 1, head_size))
        self.position_bias = nn.Parameter(torch.zeros(heads, 1, head_size))

    @override
    def forward(
        self, query: Float[Tensor, "*B C K"], key: Float[Tensor, "*B PC K"]
    ) -> Float[Tensor, "*B C PC"]:
        heads, _, head_size = self.content_bias.shape
        position = self.position(self.sinusoids).unflatten(-1, (heads, head_size)).transpose(0, 1)
        by_age = (query + self.position_bias) @ position.mT
        return (query + self.content_bias) @ key.mT + _at_keys(by_age)


def _at_keys(by_age: Float[Tensor, "*B C W"]) -> Float[Tensor, "*B C PC"]:
    """Scores moved from columns of ages to columns of keys; zeros at keys of other ages.

    Row c is to move by c columns: rows that are one number too long, read as rows of right length.
    """
    rows, ages = by_age.shape[-2:]
    flat = F.pad(by_age, (0, rows)).flatten(start_dim=-2)
    return flat[..., :-rows].unflatten(-1, (rows, rows + ages - 1))


def frequencies(size: int) -> Tensor:
    """Angles per time step, from 1 down in equal ratios (Vaswani et al. 2017)."""
    return SLOWEST ** -(torch.arange(0, size, 2) / size)


def _rotate(
    x: Float[Tensor, "*B T K"], sine: Float[Tensor, "T K2"], cosine: Float[Tensor, "T K2"]
) -> Float[Tensor, "*B T K"]:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], dim=-1)


def extend(past: Sequences, new: Sequences) -> Sequences:
    """The window and the sequence after it as one sequence."""
    return map_tensors(lambda *parts: torch.cat(parts, dim=1), past, new)


def remember(
    sequences: Sequences, seen: Float[Tensor, " B"], size: int
) -> tuple[Sequences, Float[Tensor, " B"]]:
    """The last ``size`` time steps, zeros where the episode has fewer, and how many it has.

    Args:
        sequences: At least so many time steps long.
        seen: How many of the last time steps to keep, at most.
        size: Time steps of the window.
    """
    age = torch.arange(size - 1, -1, -1, device=seen.device)
    kept = age < seen.unsqueeze(-1)
    newest = map_tensors(partial(_or_zeros, kept), sequences)
    return newest, kept.sum(dim=1).to(seen.dtype)


def _or_zeros(kept: Bool[Tensor, "B T"], x: Float[Tensor, "B past *E"]) -> Tensor:
    """The last T times, zeros where they are not kept."""
    mask = kept.view(*kept.shape, *(1,) * (x.dim() - 2))
    return torch.where(mask, x[:, x.shape[1] - kept.shape[1] :], 0.0)
