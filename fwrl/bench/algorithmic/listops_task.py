"""Sequential ListOps: nested lists of digits with an operator each, to be evaluated at the end.

The task of Nangia and Bowman (2018) as Irie et al. (2021) generate it: a random tree, read from
left to right, of exactly one depth. Few random trees have it (the share is ``acceptance``), so
they are not drawn and rejected: each choice is drawn from its distribution given that the whole
tree will have the depth, which is the same distribution of trees. All trees of a batch grow at
once, level by level.

Axes: n nodes of one level of all trees. The height of a node is the number of levels below it.
"""

from typing import Annotated, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from fwrl.bench.sequence_model import ABSENT, NOT_ASKED, Batch
from fwrl.config import Config

NUM_DIGITS = 10
OPERATORS = ("[MIN", "[MAX", "[FIRST")
# The tokens, in the order of their numbers.
SYMBOLS = (*map(str, range(NUM_DIGITS)), *OPERATORS, "]")
_MIN, _MAX, _FIRST = range(NUM_DIGITS, NUM_DIGITS + len(OPERATORS))
_CLOSE = len(SYMBOLS) - 1
# The chance that a node below the root is an operator.
BRANCHING = 0.25


Depth = Annotated[int, Field(ge=1, le=18)]


class ListOpsConfig(Config):
    """The lists to draw; the defaults are the published ones of depth 10."""

    depth: Depth = 10
    """Levels below the root, exactly. Published: 10 and 15; the published generator cuts trees of
    19 levels and more."""
    max_arguments: int = Field(default=5, ge=2)
    """The most arguments of an operator, which has at least 2; all numbers are equally likely."""

    @property
    def vocabulary(self) -> tuple[int, ...]:
        """How many tokens the one field has."""
        return (len(SYMBOLS),)

    @property
    def acceptance(self) -> float:
        """The share of this depth among random trees whose root is an operator."""
        heights = _height_probabilities(self)
        powers = heights.unsqueeze(1) ** torch.arange(2, self.max_arguments + 1)
        # P(all arguments of the root are lower than ``depth``) - P(all are lower than one less)
        return (powers[self.depth] - powers[self.depth - 1]).mean().item()


class _Level(NamedTuple):
    """The nodes of one level, arguments of one operator side by side, in order."""

    # the index of the operator in the level above
    parent: Int[Tensor, " n"]
    # the position among the arguments of this operator, from 0
    argument: Int[Tensor, " n"]
    # an operator or a digit
    token: Int[Tensor, " n"]


class _Bounds(NamedTuple):
    """The heights that nodes may have, known before they are drawn."""

    # the largest height
    height: Int[Tensor, " n"]
    # whether the height is exactly this one, not lower
    exact: Bool[Tensor, " n"]


class _Arity(NamedTuple):
    """Distributions of the number of an operator's arguments; a row for each height, from 0."""

    # cumulative over 2, 3, ... arguments, for operators of at most this height
    at_most: Float[Tensor, "heights counts"]
    # cumulative over outcomes, for operators of exactly this height
    exact: Float[Tensor, "heights outcomes"]
    # an outcome: the number of arguments, and the first argument of the greatest height
    arguments: Int[Tensor, " outcomes"]
    highest: Int[Tensor, " outcomes"]


def listops_batch(config: ListOpsConfig, batch_size: int, generator: torch.Generator) -> Batch:
    """Independent lists; the target, at the last token, is the digit that the list evaluates to.

    The generator is the only source of randomness; its device is the batch's.
    """
    levels = _grow(config, batch_size, generator)
    lengths, values = _fold(levels)
    device = generator.device
    tokens = torch.full((batch_size, int(lengths[0].max())), ABSENT, device=device)
    # the place where each node begins: its row in the batch, and its time
    row = torch.arange(batch_size, device=device)
    time = torch.zeros_like(row)
    for number, (level, length) in enumerate(zip(levels, lengths, strict=True)):
        if number:
            before = length.cumsum(0) - length
            first = torch.where(level.argument == 0, before, 0)
            # the running maximum is the place where the arguments of the same operator begin
            offset = before - first.cummax(0).values
            row, time = row[level.parent], time[level.parent] + 1 + offset
        tokens[row, time] = level.token
        opens = level.token >= NUM_DIGITS
        tokens[row[opens], (time + length)[opens] - 1] = _CLOSE
    targets = torch.full_like(tokens, NOT_ASKED)
    targets.scatter_(1, lengths[0].unsqueeze(1) - 1, values[0].unsqueeze(1))
    return Batch(tokens, targets)


def _grow(config: ListOpsConfig, batch_size: int, generator: torch.Generator) -> list[_Level]:
    """Random trees of the given depth, from the root to the lowest level."""
    device = generator.device
    heights = _height_probabilities(config).to(device)
    arity = _Arity(*(table.to(device) for table in _arity(config, heights.cpu())))
    nothing = torch.zeros(batch_size, dtype=torch.long, device=device)
    parent, argument = nothing, nothing
    bounds = _Bounds(nothing + config.depth, nothing == 0)
    levels: list[_Level] = []
    while len(parent):
        opens = bounds.exact & (bounds.height > 0)
        # an operator for certain, or by chance, given that the node is low enough
        free = ~bounds.exact & (bounds.height > 0)
        chance = 1 - (1 - BRANCHING) / heights[bounds.height + 1]
        opens = opens | (free & (_uniform(parent, generator) < chance))
        operator = torch.randint(_MIN, _CLOSE, parent.shape, generator=generator, device=device)
        digit = torch.randint(NUM_DIGITS, parent.shape, generator=generator, device=device)
        levels.append(_Level(parent, argument, torch.where(opens, operator, digit)))
        above = _Bounds(bounds.height[opens], bounds.exact[opens])
        among, argument, bounds = _arguments(arity, above, generator)
        parent = opens.nonzero().squeeze(1)[among]
    return levels


def _height_probabilities(config: ListOpsConfig) -> Float[Tensor, " heights"]:
    """P(height of a random node <= h), for h = -1 (never), 0, 1, ... ``depth``."""
    chances = [0.0, 1 - BRANCHING]
    counts = range(2, config.max_arguments + 1)
    while len(chances) < config.depth + 2:
        low = sum(chances[-1] ** count for count in counts) / len(counts)
        chances.append(1 - BRANCHING + BRANCHING * low)
    return torch.tensor(chances, dtype=torch.float64)


def _arity(config: ListOpsConfig, heights: Float[Tensor, " heights"]) -> _Arity:
    """Distributions of the number of arguments, given the height of the operator.

    If the j-th of c arguments is the first of height h - 1, then the j - 1 before it are lower than
    h - 1, and the c - j after it are lower than h.
    """
    counts = torch.arange(2, config.max_arguments + 1)
    pairs = [(count, j) for count in counts.tolist() for j in range(count)]
    count, highest = torch.tensor(pairs).unbind(1)
    # P(an argument is lower than h), for h = 0, 1, ...; no operator has height 0
    lower = heights[:-1].unsqueeze(1)
    still_lower = torch.cat([lower[:1], lower[:-1]])
    exact = still_lower**highest * (lower - still_lower) * lower ** (count - highest - 1)
    return _Arity(_cumulative(lower**counts), _cumulative(exact), count, highest)


def _cumulative(weights: Float[Tensor, "heights choices"]) -> Float[Tensor, "heights choices"]:
    sums = weights.cumsum(dim=1)
    # the row of height 0, which has no operators, is never used
    return sums / sums[:, -1:].clamp_min(1e-300)


def _arguments(
    arity: _Arity, above: _Bounds, generator: torch.Generator
) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"], _Bounds]:
    """The nodes below some operators: their operator, their position under it, their bounds."""
    chance = _uniform(above.height, generator).unsqueeze(1)
    few = torch.searchsorted(arity.at_most[above.height], chance, right=True).squeeze(1)
    outcome = torch.searchsorted(arity.exact[above.height], chance, right=True).squeeze(1)
    count = torch.where(above.exact, arity.arguments[outcome], few + 2)
    parent = torch.arange(len(count), device=count.device).repeat_interleave(count)
    begin = (count.cumsum(0) - count)[parent]
    argument = torch.arange(len(parent), device=count.device) - begin
    height, exact = above.height[parent] - 1, above.exact[parent]
    highest = arity.highest[outcome][parent]
    height = torch.where(exact & (argument < highest), height - 1, height)
    return parent, argument, _Bounds(height, exact & (argument == highest))


def _fold(levels: list[_Level]) -> tuple[list[Tensor], list[Tensor]]:
    """The number of tokens of each node and its value, level by level, from the root on."""
    lengths: list[Tensor] = []
    values: list[Tensor] = []
    for number in reversed(range(len(levels))):
        token = levels[number].token
        length, value = torch.ones_like(token), token
        if number + 1 < len(levels):
            below = levels[number + 1]
            length = (token >= NUM_DIGITS) + length.index_add(0, below.parent, lengths[-1])
            value = _evaluate(token, below, values[-1])
        lengths.append(length)
        values.append(value)
    return lengths[::-1], values[::-1]


def _evaluate(
    token: Int[Tensor, " n"], below: _Level, values: Int[Tensor, " m"]
) -> Int[Tensor, " n"]:
    least, most = (
        torch.zeros_like(token).scatter_reduce(0, below.parent, values, how, include_self=False)
        for how in ("amin", "amax")
    )
    leading = below.argument == 0
    first = torch.zeros_like(token).scatter(0, below.parent[leading], values[leading])
    value = torch.where(token == _MIN, least, token)
    value = torch.where(token == _MAX, most, value)
    return torch.where(token == _FIRST, first, value)


def _uniform(like: Int[Tensor, " n"], generator: torch.Generator) -> Float[Tensor, " n"]:
    return torch.rand(like.shape, generator=generator, device=like.device, dtype=torch.float64)
