"""Multi-query associative recall: the value of a key, wherever the key comes up again.

The task of Arora et al. (2023): a sequence opens with pairs of a key token and a value token; then
each key comes up once more, at a distance that follows a power law, and its value is asked for. All
tokens share one vocabulary: token 0 is the filler, then come the keys, the upper half are values.
Keys differ within a sequence, and so do values.
"""

from typing import Literal

import torch
from jaxtyping import Int
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from fwrl.bench.sequence_model import NOT_ASKED, Batch
from fwrl.config import Config


class MultiQueryConfig(Config):
    """The sequences to draw; a target is a token of the upper half of the vocabulary."""

    kind: Literal["multi_query"] = "multi_query"
    vocabulary_size: int = Field(default=8192, ge=4)
    """Number of tokens: the filler, the keys and the values together."""
    length: PositiveInt = 64
    """Time steps of a sequence: two or more for each showing of a pair and for each query."""
    num_pairs: PositiveInt = 4
    """Pairs that a sequence opens with, and queries after them."""
    passes: PositiveInt = 1
    """How many times all pairs are shown, always in the same order."""
    power: PositiveFloat = 0.01
    """Exponent of the law that places the queries: the g-th place (two time steps each) after the
    pairs is taken with a probability proportional to g ** (power - 1). At 1 all are equally
    likely."""
    filler: Literal["constant", "random"] = "constant"
    """Token at times with neither a pair nor a query: 0, or a random one."""

    @model_validator(mode="after")
    def _room(self) -> "MultiQueryConfig":
        least = self.context + 2 * self.num_pairs
        if self.length % 2 or self.length < least:
            raise ValueError(
                f"length is {self.length}, but {self.passes} showings of {self.num_pairs} pairs "
                f"and their queries take two times each; use an even number from {least}"
            )
        if self.num_pairs > self.num_keys:
            raise ValueError(
                f"num_pairs is {self.num_pairs}, but keys are not repeated; use at most "
                f"{self.num_keys} with a vocabulary_size of {self.vocabulary_size}"
            )
        return self

    @property
    def vocabulary(self) -> tuple[int, ...]:
        """How many tokens each field has; there is one."""
        return (self.vocabulary_size,)

    @property
    def num_classes(self) -> int:
        """The number of possible answers: all tokens."""
        return self.vocabulary_size

    @property
    def num_queries(self) -> int:
        """Queries in each sequence."""
        return self.num_pairs

    @property
    def context(self) -> int:
        """Time steps before the first place of a query."""
        return 2 * self.num_pairs * self.passes

    @property
    def num_keys(self) -> int:
        """Tokens that can be keys: the lower half but the filler."""
        return self.vocabulary_size // 2 - 1

    @property
    def num_values(self) -> int:
        """Tokens that can be values: the upper half."""
        return self.vocabulary_size - self.vocabulary_size // 2

    @property
    def chance(self) -> float:
        """The accuracy of the best answer without memory."""
        return 1 / self.num_values


def multi_query_batch(
    config: MultiQueryConfig, batch_size: int, generator: torch.Generator
) -> Batch:
    """Independent sequences, each with its own pairs and places of queries.

    The target is the value of the queried key. The generator is the only source of randomness; its
    device is the batch's.
    """
    pairs, device = config.num_pairs, generator.device
    keys = 1 + _choose(torch.ones(config.num_keys, device=device), pairs, batch_size, generator)
    values = _choose(torch.ones(config.num_values, device=device), pairs, batch_size, generator)
    values = values + config.vocabulary_size // 2

    places = torch.arange(1, (config.length - config.context) // 2 + 1, device=device)
    shares = places.double() ** (config.power - 1)
    asked = config.context + 2 * _choose(shares, pairs, batch_size, generator)

    tokens = torch.zeros(batch_size, config.length, dtype=torch.long, device=device)
    if config.filler == "random":
        tokens.random_(0, config.vocabulary_size, generator=generator)
    shown = torch.stack([keys, values], dim=-1).flatten(start_dim=1)
    tokens[:, : config.context] = shown.repeat(1, config.passes)
    tokens.scatter_(1, asked, keys)
    targets = torch.full_like(tokens, NOT_ASKED).scatter_(1, asked, values)
    return Batch(tokens, targets)


def _choose(
    shares: Tensor, count: int, batch_size: int, generator: torch.Generator
) -> Int[Tensor, "B chosen"]:
    """Different indices of ``shares``, drawn in proportion to them without replacement."""
    return torch.multinomial(shares.expand(batch_size, -1), count, generator=generator)
