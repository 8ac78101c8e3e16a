"""Gated linear attention for reinforcement learning, with a matrix or with a few vector pairs."""

import math
from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from typing_extensions import override

from fwrl.config import Count, Size, head_size
from fwrl.core import About, MemoryCore, MemoryCoreConfig
from fwrl.kernels.associative_scan import linear_recurrence
from fwrl.kernels.chunked import outer_decay
from fwrl.state import at_least_float32, time_in_episode

# Divisors are at least this: all features of a key or of a query can be zero.
EPSILON = 1e-5


class AGaLiTeConfig(MemoryCoreConfig):
    """AGaLiTe and GaLiTe (Pramanik et al. 2023): the attention alone.

    The gated blocks around it are those of the stack, with ``gate`` on.

    Note:
        What the approximation reads is, as published, about a quarter of what the exact form
        reads. The published counter of times runs on from episode to episode; here it begins
        again, as everything else does.
    """

    about: ClassVar[About] = About(
        update="C <- (1 - g)(1 - b)^T * C + (g * k)(b * v)^T, or C = sum of r pairs of vectors",
        cost="6D^2 + 3DHn + 3Hr(K + V), exactly 4HKV; n features, K = nV",
        parallel=True,
        source="Pramanik et al. 2023",
    )
    kind: Literal["agalite"] = "agalite"
    heads: Count = 4
    """Heads, each with a memory of its own; a divisor of the input size unless ``head_size`` is
    given."""
    head_size: Size | None = None
    """Size V of keys, queries and values before the features; None: the input size divided by the
    heads."""
    features: Size = 8
    """Projections n; their outer product with a key of head size is a key of n times that size."""
    rank: Size = 2
    """Pairs of vectors r that approximate the matrix; more come nearer to the exact form."""
    exact: bool = False
    """GaLiTe: the matrix itself; ``rank`` is not used."""

    @override
    def build(self, input_size: int) -> "AGaLiTe":
        return AGaLiTe(input_size, self)


class ExactState(NamedTuple):
    """The sum of the keys, and the matrix."""

    key_sum: Float[Tensor, "B H K"]
    weights: Float[Tensor, "B H K V"]


class LowRankState(NamedTuple):
    """The sum of the keys, pairs of vectors, and the number of time steps seen in the episode."""

    key_sum: Float[Tensor, "B H K"]
    keys: Float[Tensor, "B R H K"]
    values: Float[Tensor, "B R H V"]
    seen: Float[Tensor, " B"]


State = ExactState | LowRankState


class AGaLiTe(MemoryCore[State]):
    """State: ``LowRankState``; in the exact form ``ExactState``."""

    frequencies: Tensor
    remark = "it forgets element by element in both directions of its matrix"

    def __init__(self, input_size: int, config: AGaLiTeConfig) -> None:
        super().__init__()
        self.input_size = self.output_size = input_size
        self.exact, self.heads, self.features = config.exact, config.heads, config.features
        self.head_size = config.head_size or head_size(
            config.kind, input_size, config.heads, ", or give head_size"
        )
        self.rank = config.rank
        # keys, queries, values, the gates of values and of keys; then what widens three of them
        self.project = nn.Linear(input_size, 5 * self.heads * self.head_size)
        self.widen = nn.Linear(input_size, 3 * self.heads * self.features)
        self.output = nn.Linear(self.heads * self.head_size, input_size)
        for layer in (self.project, self.widen, self.output):
            nn.init.orthogonal_(layer.weight, math.sqrt(2))
            nn.init.zeros_(layer.bias)
        self.register_buffer("frequencies", torch.linspace(-math.pi, math.pi, self.rank))

    @override
    def initial_state(self, batch_size: int, device: torch.device | None = None) -> State:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(batch_size, *shape, device=device)

        keys, values = self.features * self.head_size, self.head_size
        key_sum = zeros(self.heads, keys)
        if self.exact:
            return ExactState(key_sum, zeros(self.heads, keys, values))
        pairs = zeros(self.rank, self.heads, keys), zeros(self.rank, self.heads, values)
        return LowRankState(key_sum, *pairs, zeros())

    @override
    def unroll(
        self, x: Float[Tensor, "B T D"], state: State, starts: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T E"], State]:
        given = self._attend(x)
        key_sums = linear_recurrence(given.key_decay, given.key, state.key_sum, starts)
        divisor = (key_sums * given.query).sum(dim=-1, keepdim=True)
        key_sum = key_sums[:, -1].clone()
        if isinstance(state, ExactState):
            read, weights = outer_decay.scan(state.weights, given, starts)
            after = ExactState(key_sum, weights)
        else:
            read, after = self._low_rank(given, state, starts)
            after = after._replace(key_sum=key_sum)
            divisor = 2 * self.rank * divisor
        return self.output((read / (divisor + EPSILON)).flatten(start_dim=-2)), after

    def _attend(self, x: Float[Tensor, "B T D"]) -> outer_decay.Inputs:
        projected = at_least_float32(self.project(x)).unflatten(-1, (self.heads, -1))
        key, query, value, value_gate, key_gate = projected.chunk(5, dim=-1)
        widths = at_least_float32(self.widen(x)).unflatten(-1, (self.heads, -1)).chunk(3, dim=-1)
        value_gate = value_gate.sigmoid()
        key_gate = _outer(key_gate.sigmoid(), widths[2].sigmoid())
        key = key_gate * _outer(key.relu(), widths[0].relu())
        query = _outer(query.relu(), widths[1].relu())
        return outer_decay.Inputs(query, key, value_gate * value, 1.0 - key_gate, 1.0 - value_gate)

    def _low_rank(
        self, given: outer_decay.Inputs, state: LowRankState, starts: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T H V"], LowRankState]:
        seen = time_in_episode(starts, state.seen)
        # the published counter stands at 2 when the first input is read
        wave = ((seen.unsqueeze(-1) + 1.0) * self.frequencies).cos()[..., None, None]

        def pairs(decay: Tensor, addend: Tensor, before: Tensor) -> Tensor:
            return linear_recurrence(decay.unsqueeze(2), wave * addend.unsqueeze(2), before, starts)

        keys = pairs(given.key_decay, given.key, state.keys)
        values = pairs(given.value_decay, given.value, state.values)
        weight = (keys * given.query.unsqueeze(2)).sum(dim=-1, keepdim=True)
        after = state._replace(
            keys=keys[:, -1].clone(), values=values[:, -1].clone(), seen=seen[:, -1].clone()
        )
        return (weight * values).sum(dim=2), after


def _outer(x: Float[Tensor, "B T H V"], width: Float[Tensor, "B T H M"]) -> Tensor:
    return (width.unsqueeze(-1) * x.unsqueeze(-2)).flatten(start_dim=-2)
