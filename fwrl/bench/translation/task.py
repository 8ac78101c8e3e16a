"""Sentences as tokens of one vocabulary for both languages, in batches of about equal length."""

import importlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fwrl.bench.sequence_model import NOT_ASKED
from fwrl.bench.translation.parallel_text import Pair
from fwrl.config import ConfigError
from fwrl.files.plain_files import MEBIBYTE, read_plain, replace_plain

# Special tokens of every vocabulary: padding, begin and end of a sentence, and all words that the
# vocabulary lacks.
PADDING, BEGIN, END, UNKNOWN = range(4)
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
# Sentences encoded in one call.
AT_ONCE = 10_000
# Bytes of the file of subwords; one of 40,000 has three million.
LARGEST_VOCABULARY = 64 * MEBIBYTE


class Words:
    """Whole words, the most frequent ones of both languages together."""

    def __init__(self, pairs: Iterable[Pair], size: int) -> None:
        counts = Counter(word for pair in pairs for text in pair for word in text.split())
        # equally frequent words in alphabetical order: the order of the sentences must not matter
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        self.words = [*SPECIAL, *ranked[: max(size - len(SPECIAL), 0)]]
        self.tokens = {word: token for token, word in enumerate(self.words)}
        self.size = len(self.words)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text, whose words are separated by blanks."""
        return [[self.tokens.get(word, UNKNOWN) for word in text.split()] for text in texts]

    def decode(self, tokens: Sequence[int]) -> str:
        """The words, separated by blanks."""
        return " ".join(self.words[token] for token in tokens)


class Subwords:
    """Pieces of words by byte pair encoding (Sennrich et al. 2016), of both languages together.

    Args:
        pairs: The texts from which the pieces are learned.
        size: Number of tokens.
        path: The file of the pieces; written if it does not exist, else read.

    Raises:
        ConfigError: If the library ``tokenizers`` is not installed.
    """

    def __init__(self, pairs: Iterable[Pair], size: int, path: Path) -> None:
        try:
            library: Any = importlib.import_module("tokenizers")
        except ImportError:
            raise ConfigError(
                "subwords: the library tokenizers is missing; pip install 'fwrl[lm]', or use "
                "vocabulary=words"
            ) from None
        try:
            text = read_plain(path, LARGEST_VOCABULARY).decode("utf-8")
        except FileNotFoundError:
            text = None
        if text is not None:
            self.tokenizer = library.Tokenizer.from_str(text)
        else:
            self.tokenizer = library.Tokenizer(library.models.BPE(unk_token=SPECIAL[UNKNOWN]))
            self.tokenizer.pre_tokenizer = library.pre_tokenizers.Metaspace()
            self.tokenizer.decoder = library.decoders.Metaspace()
            trainer = library.trainers.BpeTrainer(
                vocab_size=size, special_tokens=list(SPECIAL), show_progress=False
            )
            texts = (text for pair in pairs for text in pair)
            self.tokenizer.train_from_iterator(texts, trainer)
            replace_plain(path, self.tokenizer.to_str(pretty=True).encode())
        self.size: int = self.tokenizer.get_vocab_size()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text."""
        encoded = self.tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [sentence.ids for sentence in encoded]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text, with its blanks."""
        return self.tokenizer.decode(list(tokens))


# Turns text into tokens and back, without begin, end and padding.
Vocabulary = Words | Subwords


class Sentences(NamedTuple):
    """Many sentences in one row of tokens; each ends with ``END``."""

    tokens: Int[Tensor, " tokens"]
    # the index at which each sentence begins, then the end of the last one
    bounds: Int[Tensor, " bounds"]

    def lengths(self) -> Int[Tensor, " sentences"]:
        """The number of tokens of each sentence, its end included."""
        return self.bounds.diff()

    def take(self, rows: Int[Tensor, " B"]) -> list[Tensor]:
        """The chosen sentences."""
        first, last = self.bounds[rows].tolist(), self.bounds[rows + 1].tolist()
        return [self.tokens[a:b].long() for a, b in zip(first, last, strict=True)]


class ParallelSentences(NamedTuple):
    """Two sets of sentences; sentence n of one translates sentence n of the other."""

    source: Sentences
    target: Sentences


class TranslationBatch(NamedTuple):
    """Sentences with padding at their ends."""

    source: Int[Tensor, "B S"]
    # input of the decoder: ``BEGIN`` and all words
    target: Int[Tensor, "B T"]
    # its targets: all words and ``END``, ``NOT_ASKED`` at padding
    answer: Int[Tensor, "B T"]


def encode_pairs(pairs: Sequence[Pair], vocabulary: Vocabulary) -> ParallelSentences:
    """All sentences as tokens."""
    return ParallelSentences(
        _sentences((source for source, _ in pairs), vocabulary),
        _sentences((target for _, target in pairs), vocabulary),
    )


def not_longer(sentences: ParallelSentences, length: int) -> Int[Tensor, " rows"]:
    """The pairs without a side of more than ``length`` tokens."""
    longest = torch.maximum(sentences.source.lengths(), sentences.target.lengths())
    return (longest <= length).nonzero().flatten()


def batches(
    sentences: ParallelSentences,
    rows: Int[Tensor, " rows"],
    max_tokens: int,
    generator: torch.Generator | None,
) -> list[Int[Tensor, " B"]]:
    """All rows once, in batches of sentences of about equal length.

    Args:
        sentences: The sentences that the rows index.
        rows: The sentences to use.
        max_tokens: Most tokens of each side of a batch, padding included; a longer sentence is a
            batch of its own.
        generator: Shuffles equally long sentences, then the batches; None keeps them in order.
    """
    if generator is not None:
        rows = rows[torch.randperm(len(rows), generator=generator)]
    source, target = sentences.source.lengths()[rows], sentences.target.lengths()[rows]
    order = torch.maximum(source, target) * (int(source.max()) + 1) + source
    rows = rows[order.argsort(stable=True)]
    longest = torch.maximum(source, target)[order.argsort(stable=True)]
    cut: list[Tensor] = []
    first = 0
    while first < len(rows):
        most = max(max_tokens // int(longest[first]), 1)
        candidates = longest[first : first + most]
        fits = candidates * torch.arange(1, len(candidates) + 1) <= max_tokens
        last = first + max(int(fits.sum()), 1)
        cut.append(rows[first:last])
        first = last
    if generator is None:
        return cut
    return [cut[index] for index in torch.randperm(len(cut), generator=generator).tolist()]


def translation_batch(
    sentences: ParallelSentences, rows: Int[Tensor, " B"], device: torch.device
) -> TranslationBatch:
    """The chosen pairs, padded."""
    targets = sentences.target.take(rows)
    begin = torch.tensor([BEGIN])
    seen = [torch.cat([begin, target[:-1]]) for target in targets]
    return TranslationBatch(
        pad_sequence(sentences.source.take(rows), batch_first=True).to(device),
        pad_sequence(seen, batch_first=True).to(device),
        pad_sequence(targets, batch_first=True, padding_value=NOT_ASKED).to(device),
    )


def _sentences(texts: Iterable[str], vocabulary: Vocabulary) -> Sentences:
    tokens: list[Tensor] = []
    lengths: list[int] = [0]
    for some in _chunks(texts):
        encoded = [[*sentence, END] for sentence in vocabulary.encode(some)]
        lengths += [len(sentence) for sentence in encoded]
        joined = np.concatenate([np.asarray(sentence, dtype=np.int32) for sentence in encoded])
        tokens.append(torch.from_numpy(joined))
    return Sentences(torch.cat(tokens), torch.tensor(lengths).cumsum(0))


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    left = iter(texts)
    while some := list(islice(left, AT_ONCE)):
        yield some


class Epochs:
    """Batches without end, epoch by epoch; the place among them can be saved and restored."""

    def __init__(
        self,
        sentences: ParallelSentences,
        rows: Int[Tensor, " rows"],
        max_tokens: int,
        generator: torch.Generator,
    ) -> None:
        self.sentences, self.rows, self.max_tokens = sentences, rows, max_tokens
        self.generator = generator
        self._begin()

    def _begin(self) -> None:
        self.before = self.generator.get_state()
        self.batches = batches(self.sentences, self.rows, self.max_tokens, self.generator)
        self.next = 0

    def take(self) -> Int[Tensor, " B"]:
        """The rows of the next batch."""
        if self.next == len(self.batches):
            self._begin()
        self.next += 1
        return self.batches[self.next - 1]

    def place(self) -> tuple[Tensor, Tensor]:
        """The generator's state before this epoch, and the number of batches taken in it."""
        return self.before, torch.tensor(self.next)

    def go_to(self, place: tuple[Tensor, Tensor]) -> None:
        """Continue from a ``place``."""
        self.generator.set_state(place[0])
        self._begin()
        self.next = int(place[1])
