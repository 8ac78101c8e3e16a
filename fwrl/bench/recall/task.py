"""Associative recall: pairs of a key and a value are written, then values are asked for by key.

The retrieval of Schlag et al. (2021a), learned from tokens as in the multi-query associative recall
of Arora et al. (2023). Unlike in the latter (``fwrl.bench.recall.multi_query``) queries follow one
another, and with ``rewrites`` a memory must replace what it wrote.
"""

from typing import Literal

import torch
from jaxtyping import Int
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor

from fwrl.bench.sequence_model import ABSENT, NOT_ASKED, Batch
from fwrl.config import Config


class RecallConfig(Config):
    """The sequences to draw; a target is a value, from 0 to ``num_values - 1``."""

    kind: Literal["latest_value"] = "latest_value"
    num_keys: PositiveInt = 16
    """Keys from which those of a sequence are chosen."""
    num_values: int = Field(default=16, ge=2)
    """Values from which the one of each write is chosen."""
    num_pairs: PositiveInt = 8
    """Different keys written in each sequence."""
    num_queries: PositiveInt = 8
    """Different keys asked for at the end of each sequence, all of them written before."""
    rewrites: NonNegativeInt = 0
    """Keys that are written twice, with different values; the later one counts."""
    joined: bool = True
    """Whether a pair takes one time step with a key and a value, ``[B, T, 2]``, and a query one
    without a value. Else keys and values share one vocabulary, keys first, and a pair takes two."""

    @model_validator(mode="after")
    def _enough_of_each(self) -> "RecallConfig":
        for few, many in (
            ("num_pairs", "num_keys"),
            ("num_queries", "num_pairs"),
            ("rewrites", "num_pairs"),
        ):
            if getattr(self, few) > getattr(self, many):
                raise ValueError(
                    f"{few} is {getattr(self, few)}, but keys are not repeated; "
                    f"use at most {many}, {getattr(self, many)}"
                )
        return self

    @property
    def vocabulary(self) -> tuple[int, ...]:
        """How many tokens each field has."""
        if self.joined:
            return self.num_keys, self.num_values
        return (self.num_keys + self.num_values,)

    @property
    def num_classes(self) -> int:
        """The number of possible answers."""
        return self.num_values

    @property
    def length(self) -> int:
        """Time steps of a sequence."""
        writes = self.num_pairs + self.rewrites
        return (writes if self.joined else 2 * writes) + self.num_queries

    @property
    def chance(self) -> float:
        """The accuracy of the best answer without memory: values are uniform given their keys."""
        return 1 / self.num_values


def recall_batch(config: RecallConfig, batch_size: int, generator: torch.Generator) -> Batch:
    """Independent sequences, each with its own keys, values, order and queries.

    The target is the latest value of the queried key. The generator is the only source of
    randomness; its device is the batch's.
    """
    again = config.rewrites
    keys = _choose(config.num_keys, config.num_pairs, batch_size, generator)
    values = _uniform(0, config.num_values, keys, generator)
    change = _uniform(1, config.num_values, keys[:, :again], generator)
    others = (values[:, :again] + change) % config.num_values

    writes = config.num_pairs + again
    # both values of a key are alike in distribution, so any order of all writes will do
    order = _choose(writes, writes, batch_size, generator)
    times = order.argsort(dim=1)
    replaced = times[:, config.num_pairs :] > times[:, :again]
    latest = torch.cat([torch.where(replaced, others, values[:, :again]), values[:, again:]], dim=1)

    written_keys = torch.cat([keys, keys[:, :again]], dim=1).gather(1, order)
    written_values = torch.cat([values, others], dim=1).gather(1, order)
    asked = _choose(config.num_pairs, config.num_queries, batch_size, generator)
    tokens = _tokens(config, written_keys, written_values, keys.gather(1, asked))
    targets = torch.full(tokens.shape[:2], NOT_ASKED, device=tokens.device)
    targets[:, -config.num_queries :] = latest.gather(1, asked)
    return Batch(tokens, targets)


def _tokens(
    config: RecallConfig,
    keys: Int[Tensor, "B writes"],
    values: Int[Tensor, "B writes"],
    queries: Int[Tensor, "B queries"],
) -> Int[Tensor, "B T *F"]:
    """The pairs, then the queries: joined in one time step, or one token after the other."""
    if config.joined:
        questions = torch.stack([queries, torch.full_like(queries, ABSENT)], dim=-1)
        return torch.cat([torch.stack([keys, values], dim=-1), questions], dim=1)
    pairs = torch.stack([keys, config.num_keys + values], dim=-1)
    return torch.cat([pairs.flatten(start_dim=1), queries], dim=1)


def _choose(
    among: int, count: int, batch_size: int, generator: torch.Generator
) -> Int[Tensor, "B chosen"]:
    """Different numbers below ``among`` in random order, drawn anew for each row."""
    ranks = torch.rand(batch_size, among, generator=generator, device=generator.device)
    return ranks.argsort(dim=1)[:, :count]


def _uniform(low: int, high: int, like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randint(low, high, like.shape, generator=generator, device=like.device)
