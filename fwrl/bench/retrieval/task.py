"""Retrieval (Schlag et al. 2021a): pairs of a key and a value are written, then one is asked for.

In setting 1 each key and each value occurs once, so the number of pairs is what a memory must hold.
In setting 2 both are drawn with replacement: the latest value of a key counts, and what was written
before has to be replaced.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor


class RetrievalBatch(NamedTuple):
    """Sequences of pairs, and the queries after the last of them."""

    keys: Int[Tensor, "B L"]
    values: Int[Tensor, "B L"]
    queries: Int[Tensor, "B Q"]
    # the value written last with the key of each query
    targets: Int[Tensor, "B Q"]
    # False where a query is padding: its key was never written
    asked: Bool[Tensor, "B Q"]


def training_batch(
    num_keys: int, replacement: bool, batch_size: int, generator: torch.Generator
) -> RetrievalBatch:
    """Sequences with one query each.

    Args:
        num_keys: S, the number of keys and of values.
        replacement: False: each is written once, L = S. True: L = 2 S independent draws, and the
            key at a random position is asked for, so that frequent keys are asked for more often.
        batch_size: Number of sequences.
        generator: The only source of randomness; its device is the batch's.
    """
    keys, values = _pairs(num_keys, replacement, 2 * num_keys, batch_size, generator)
    position = _uniform(keys.shape[1], (batch_size, 1), generator)
    queries = keys.gather(1, position)
    targets, asked = _latest(keys, values, num_keys, queries)
    return RetrievalBatch(keys, values, queries, targets, asked)


def evaluation_batch(
    num_keys: int,
    replacement: bool,
    length: int,
    num_sequences: int,
    max_queries: int,
    generator: torch.Generator,
) -> RetrievalBatch:
    """Sequences that are asked for all keys they hold, up to ``max_queries`` in the keys' order.

    The arguments are as in training; ``length`` has an effect with replacement only.
    """
    keys, values = _pairs(num_keys, replacement, length, num_sequences, generator)
    every = torch.arange(num_keys, device=keys.device).expand(num_sequences, -1)
    targets, asked = _latest(keys, values, num_keys, every)
    asked = asked & (asked.cumsum(dim=1) <= max_queries)
    return RetrievalBatch(keys, values, every, targets, asked)


def _pairs(
    num_keys: int, replacement: bool, length: int, batch_size: int, generator: torch.Generator
) -> tuple[Int[Tensor, "B L"], Int[Tensor, "B L"]]:
    if replacement:
        shape = (batch_size, length)
        return _uniform(num_keys, shape, generator), _uniform(num_keys, shape, generator)
    order = torch.rand(2, batch_size, num_keys, generator=generator, device=generator.device)
    keys, values = order.argsort(dim=-1)
    return keys, values


def _latest(
    keys: Int[Tensor, "B L"], values: Int[Tensor, "B L"], num_keys: int, queries: Int[Tensor, "B Q"]
) -> tuple[Int[Tensor, "B Q"], Bool[Tensor, "B Q"]]:
    """The value that each query was written with last, and whether it was written at all."""
    times = torch.arange(keys.shape[1], device=keys.device).expand_as(keys)
    never = torch.full((keys.shape[0], num_keys), -1, device=keys.device)
    last = never.scatter_reduce(1, keys, times, reduce="amax").gather(1, queries)
    return values.gather(1, last.clamp_min(0)), last >= 0


def _uniform(high: int, shape: tuple[int, int], generator: torch.Generator) -> Int[Tensor, "B N"]:
    return torch.randint(high, shape, generator=generator, device=generator.device)
