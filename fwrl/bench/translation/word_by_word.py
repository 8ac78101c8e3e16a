"""A baseline for translation: each word by the word that most often occurs with it.

It knows neither order nor context, and is learned by counting.
"""

from collections import Counter
from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from fwrl.bench.translation.task import END, UNKNOWN, ParallelSentences


def learn_dictionary(pairs: ParallelSentences) -> dict[int, int]:
    """For each source token the target token with the largest Dice coefficient (Dice 1945).

    The coefficient is the number of sentence pairs with both tokens, divided by the mean of the
    numbers with either. Of equal tokens the first in the vocabulary is taken.
    """
    together: Counter[tuple[int, int]] = Counter()
    alone: tuple[Counter[int], Counter[int]] = Counter(), Counter()
    every = torch.arange(len(pairs.source.lengths()))
    for sides in zip(pairs.source.take(every), pairs.target.take(every), strict=True):
        source, target = (set(_words(side)) for side in sides)
        alone[0].update(source)
        alone[1].update(target)
        together.update((first, second) for first in source for second in target)
    chosen: dict[int, tuple[float, int]] = {}
    for (first, second), count in together.items():
        candidate = -count / (alone[0][first] + alone[1][second]), second
        chosen[first] = min(chosen.get(first, candidate), candidate)
    return {first: second for first, (_, second) in chosen.items()}


def word_by_word(sentence: Int[Tensor, " S"], dictionary: dict[int, int]) -> list[int]:
    """A translation in the order of the source, of equal length, without the end token."""
    return [dictionary.get(token, UNKNOWN) for token in _words(sentence)]


def _words(sentence: Int[Tensor, " S"]) -> Sequence[int]:
    return [token for token in sentence.tolist() if token != END]
