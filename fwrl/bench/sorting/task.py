"""Sorting by frequency: a long sequence is read, then its symbols are named from the most frequent.

The task by which Martins et al. (2022) test long memories: the distribution of the symbols drifts,
so that the end of the sequence does not tell what all of it holds.
"""

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, PositiveInt
from torch import Tensor

from fwrl.bench.sequence_model import NOT_ASKED, Batch
from fwrl.config import Config

# A symbol's probability is proportional to a random whole number from 1 to this one.
MOST_LIKELY = 9


class SortingConfig(Config):
    """The sequences to draw; the separator is the token after the last symbol."""

    symbols: int = Field(default=20, ge=2)
    """Number of different symbols; all of them are asked for."""
    length: PositiveInt = 4000
    """Symbols before the separator."""

    @property
    def vocabulary(self) -> int:
        """The symbols and the separator."""
        return self.symbols + 1

    @property
    def times(self) -> int:
        """Time steps of a whole sequence: all answers but the last are read as well."""
        return self.length + self.symbols

    @property
    def chance(self) -> float:
        """The mean accuracy of naming a random symbol that was not named before."""
        return sum(1 / left for left in range(1, self.symbols + 1)) / self.symbols


def sorting_batch(config: SortingConfig, batch_size: int, generator: torch.Generator) -> Batch:
    """Independent sequences, each with its own two distributions.

    A model reads the symbols, the separator and the right answers so far; the target is the next
    symbol by decreasing frequency. The generator is the only source of randomness; its device is
    the batch's.
    """
    symbols = drifting(config, batch_size, generator)
    answers = by_frequency(symbols, config.symbols)
    separator = torch.full_like(answers[:, :1], config.symbols)
    tokens = torch.cat([symbols, separator, answers[:, :-1]], dim=1)
    targets = torch.full_like(tokens, NOT_ASKED)
    targets[:, config.length :] = answers
    return Batch(tokens, targets)


def drifting(
    config: SortingConfig, batch_size: int, generator: torch.Generator
) -> Int[Tensor, "B T"]:
    """Symbols drawn one by one from a mixture of two distributions.

    The share of the second grows from nothing to all, in equal steps.
    """
    device, length = generator.device, config.length
    shape = 2, batch_size, config.symbols
    likely = torch.randint(1, MOST_LIKELY + 1, shape, generator=generator, device=device).float()
    first, second = (
        torch.multinomial(each, length, replacement=True, generator=generator) for each in likely
    )
    share = torch.arange(1, length + 1, device=device) / length
    drawn = torch.rand(batch_size, length, generator=generator, device=device)
    return torch.where(drawn < share, second, first)


def by_frequency(symbols: Int[Tensor, "B T"], count: int) -> Int[Tensor, "B symbols"]:
    """All symbols below ``count``, the most frequent first.

    Of equally frequent ones the first to occur comes first; those that do not occur come last, in
    their own order.
    """
    length = symbols.shape[1]
    times = torch.arange(length, device=symbols.device).expand_as(symbols)
    nothing = torch.zeros(len(symbols), count, dtype=torch.long, device=symbols.device)
    frequency = nothing.scatter_add(1, symbols, torch.ones_like(symbols))
    first = (nothing + length).scatter_reduce(1, symbols, times, "amin")
    rank = frequency * (length + 1) - first
    return rank.argsort(dim=1, descending=True, stable=True)


def by_last_window(config: SortingConfig, batch: Batch, window: int) -> Float[Tensor, "B symbols"]:
    """Whether each answer is right if only the last ``window`` symbols are counted.

    This is the best that a memory of a window can do, as far as the frequencies there are those of
    the whole sequence. Like a model, it is given all right answers so far and never repeats them.
    """
    window = min(window, config.length)
    counted = batch.tokens[:, config.length - window : config.length]
    order = by_frequency(counted, config.symbols)
    answers = batch.targets[:, config.length :]
    # the time at which each symbol is asked for, in the order of the guesses
    asked = answers.argsort(dim=1).gather(1, order)
    time = torch.arange(config.symbols, device=order.device).unsqueeze(1)
    left: Bool[Tensor, "B symbols symbols"] = asked.unsqueeze(1) >= time
    # the first guess that was not an answer before
    guess = order.gather(1, left.int().argmax(dim=2))
    return (guess == answers).float()
