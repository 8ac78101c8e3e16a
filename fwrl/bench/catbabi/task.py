"""Stories and questions as one endless stream of words per row (catbAbI of Schlag et al. 2021b).

The stories of all families are shuffled and follow each other without a mark: a model must notice
by itself that one has ended and may be forgotten. A question mark is followed by the answer, which
the model must predict when it reads the mark.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from fwrl.bench.catbabi.stories import FAMILIES, Story, story
from fwrl.bench.sequence_model import NOT_ASKED

# The token after each story, and the token before each answer; then come all other words.
END, QUESTION = 0, 1
FIRST_WORDS = "<end>", "?"

# A model learns to predict every word (``lm``), or the answers alone (``qm``); only answers are
# counted in either.
Mode = Literal["lm", "qm"]


class Corpus(NamedTuple):
    """Stories as numbers."""

    words: tuple[str, ...]
    families: tuple[str, ...]
    # each with its end
    stories: list[Int[Tensor, " words"]]
    family_of: Int[Tensor, " stories"]


class Stream(NamedTuple):
    """Rows of text to be read side by side; each goes on where the segment before it ended."""

    tokens: Int[Tensor, "B T"]
    # the next word
    following: Int[Tensor, "B T"]
    # the index of the story's family
    family: Int[Tensor, "B T"]
    # whether a story begins
    starts: Bool[Tensor, "B T"]

    def targets(self, mode: Mode) -> Int[Tensor, "B T"]:
        """The word to predict at each time, or ``NOT_ASKED``."""
        if mode == "lm":
            return self.following
        return self.following.masked_fill(self.tokens != QUESTION, NOT_ASKED)

    def segment(self, index: int, length: int) -> "Stream":
        """The ``index``-th segment of this length; the last may be shorter."""
        return Stream(*(field[:, index * length : (index + 1) * length] for field in self))


def synthetic(counts: Mapping[str, int], seed: int) -> dict[str, list[Story]]:
    """Synthetic stories of all families; ``counts`` of each family for each split."""
    stories: dict[str, list[Story]] = {split: [] for split in counts}
    for index, (split, count) in enumerate(counts.items()):
        for family in FAMILIES:
            # adding a family does not change the stories of others
            generator = np.random.default_rng([seed, index, int.from_bytes(family.encode())])
            stories[split] += [story(family, generator) for _ in range(count)]
    return stories


def corpora(splits: Mapping[str, Sequence[Story]]) -> dict[str, Corpus]:
    """The splits as numbers, with one vocabulary for all."""
    told = [each for stories in splits.values() for each in stories]
    others = {word for each in told for word in each.words} - set(FIRST_WORDS)
    words = (*FIRST_WORDS, *sorted(others))
    families = tuple(dict.fromkeys(each.family for each in told))
    return {split: _corpus(stories, words, families) for split, stories in splits.items()}


def _corpus(stories: Iterable[Story], words: tuple[str, ...], families: tuple[str, ...]) -> Corpus:
    index = {word: number for number, word in enumerate(words)}
    stories = list(stories)
    return Corpus(
        words,
        families,
        [torch.tensor([*(index[word] for word in each.words), END]) for each in stories],
        torch.tensor([families.index(each.family) for each in stories]),
    )


def stream(corpus: Corpus, batch_size: int, generator: torch.Generator) -> Stream:
    """All stories once, in random order, cut into rows of one length.

    A row may begin and end inside a story; a few words at the end are left over. The generator, on
    the CPU, draws the order.
    """
    order = torch.randperm(len(corpus.stories), generator=generator).tolist()
    told = [corpus.stories[index] for index in order]
    lengths = torch.tensor([len(each) for each in told])
    tokens = torch.cat(told)
    starts = torch.zeros_like(tokens, dtype=torch.bool)
    starts[lengths.cumsum(0) - lengths] = True
    family = corpus.family_of[order].repeat_interleave(lengths)
    times = (len(tokens) - 1) // batch_size

    def rows(flat: Tensor) -> Tensor:
        return flat[: batch_size * times].view(batch_size, times)

    return Stream(rows(tokens), rows(tokens[1:]), rows(family), rows(starts))


class QuestionAlone:
    """The best answer without the story: the most frequent one to the same question.

    A question that training never asked gets the answer that is most frequent overall.
    """

    def __init__(self, corpus: Corpus) -> None:
        # the tokens that end a statement
        self.marks = {index for index, word in enumerate(corpus.words) if word in {".", "!"}}
        counts: defaultdict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        for tokens in corpus.stories:
            for question, answer in questions(tokens.tolist(), self.marks):
                counts[question][answer] += 1
        self.answers = {asked: given.most_common(1)[0][0] for asked, given in counts.items()}
        self.otherwise = sum(counts.values(), Counter[int]()).most_common(1)[0][0]

    def right(self, corpus: Corpus) -> dict[str, tuple[int, int]]:
        """The numbers of right answers and of all answers, by family."""
        counted: dict[str, tuple[int, int]] = dict.fromkeys(corpus.families, (0, 0))
        for tokens, family in zip(corpus.stories, corpus.family_of.tolist(), strict=True):
            name = corpus.families[family]
            for question, answer in questions(tokens.tolist(), self.marks):
                right, asked = counted[name]
                hit = self.answers.get(question, self.otherwise) == answer
                counted[name] = right + hit, asked + 1
        return counted


def questions(tokens: Sequence[int], marks: set[int]) -> list[tuple[tuple[int, ...], int]]:
    """The words of each question of a story, and its answer; ``marks`` end a statement."""
    found: list[tuple[tuple[int, ...], int]] = []
    first = 0
    for time, token in enumerate(tokens):
        if token == QUESTION:
            found.append((tuple(tokens[first:time]), tokens[time + 1]))
            first = time + 2
        elif token in marks:
            first = time + 1
    return found
