"""Translations by search: the likeliest next word, or a beam of the likeliest beginnings.

The beam keeps all sentences of a batch and all their beginnings in one batch of the model.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fwrl.bench.translation.model import TranslationModel
from fwrl.state import take_rows


class Search(NamedTuple):
    """How a translation is looked for."""

    # tokens that open and close a translation
    begin: int
    end: int
    # beginnings that are kept; 1 is the greedy choice of each word
    beam: int = 4
    # scores are divided by the length to this power; 0 favours short translations
    length_penalty: float = 0.6
    # of a translation, in tokens, for a source of length S: at most ``growth * S + extra``
    growth: float = 1.5
    extra: int = 10


@torch.no_grad()
def translate(
    model: TranslationModel, source: Int[Tensor, "B S"], search: Search
) -> list[list[int]]:
    """The best translation found of each sentence, without its end.

    Args:
        model: Used as in evaluation, whatever mode it is in; the mode is as before afterwards.
        source: The sentences, with padding of 0.
        search: How to search.
    """
    training = model.training
    model.eval()
    found = _search(model, source, search)
    model.train(training)
    return found


class _Live(NamedTuple):
    """The beginnings that are kept, the best first, and the sums of their words' logarithms."""

    said: Int[Tensor, "B beam T"]
    score: Float[Tensor, "B beam"]


class _Found:
    """The best whole translation of each sentence, and how many were found."""

    def __init__(self, batch: int, search: Search) -> None:
        self.search = search
        self.words: list[list[int]] = [[] for _ in range(batch)]
        self.best, self.count = [-math.inf] * batch, [0] * batch

    def add(self, sentence: int, words: Tensor, score: float) -> None:
        """One more; once there are as many as the beam is wide, no other counts."""
        if self.count[sentence] >= self.search.beam:
            return
        self.count[sentence] += 1
        score /= (len(words) + 1) ** self.search.length_penalty
        if score > self.best[sentence]:
            self.words[sentence], self.best[sentence] = words.tolist(), score

    def enough(self) -> bool:
        """Whether the search is over for all."""
        return min(self.count) >= self.search.beam


def _search(model: TranslationModel, source: Int[Tensor, "B S"], search: Search) -> list[list[int]]:
    batch, beam, device = len(source), search.beam, source.device
    limit = ((source != 0).sum(dim=1) * search.growth + search.extra).long()
    each = torch.arange(batch * beam, device=device)
    read = take_rows(model.encode(source), each // beam)
    state = model.initial_state(batch * beam, device)
    # all beginnings are alike at first, so that only one of them counts
    score = torch.full((batch, beam), -math.inf, device=device)
    score[:, 0] = 0.0
    live = _Live(torch.full((batch, beam, 1), search.begin, device=device), score)
    found = _Found(batch, search)
    starts = torch.zeros(batch * beam, 1, dtype=torch.bool, device=device)
    for length in range(1, int(limit.max()) + 1):
        logits, state = model.unroll(live.said[..., -1].view(-1, 1), read, state, starts)
        likely = logits.squeeze(1).log_softmax(dim=-1).unflatten(0, (batch, beam))
        live, before = _extend(live, likely, limit <= length, search, found)
        if found.enough():
            break
        rows = torch.arange(batch, device=device).unsqueeze(1) * beam + before
        state = take_rows(state, rows.flatten())
    return found.words


def _extend(
    live: _Live,
    likely: Float[Tensor, "B beam words"],
    last: Bool[Tensor, " B"],
    search: Search,
    found: _Found,
) -> tuple[_Live, Int[Tensor, "B beam"]]:
    """The best beginnings of one word more, and of which of the old ones each is made.

    Args:
        live: The beginnings.
        likely: The logarithm of the probability of each word after each of them.
        last: Whether the translation must end here.
        search: How to search.
        found: Gets the translations that end here.
    """
    words = likely.shape[-1]
    allowed = torch.ones(len(last), 1, words, dtype=torch.bool, device=likely.device)
    allowed[last] = False
    allowed[..., search.end] = True
    # padding and what begins a translation are no words
    allowed[..., [0, search.begin]] = False
    scores = (live.score.unsqueeze(-1) + likely).masked_fill(~allowed, -math.inf)
    # one of two is enough: each beginning ends in one way only
    score, choice = scores.flatten(start_dim=1).topk(2 * search.beam, dim=1)
    before, word = choice // words, choice % words
    ends = word == search.end
    whole = ends & score.isfinite()
    whole[:, search.beam :] = False
    for sentence, rank in whole.nonzero().tolist():
        said = live.said[sentence, before[sentence, rank], 1:]
        found.add(sentence, said, float(score[sentence, rank]))
    score, rank = score.masked_fill(ends, -math.inf).topk(search.beam, dim=1)
    before, word = before.gather(1, rank), word.gather(1, rank)
    said = live.said.gather(1, before.unsqueeze(-1).expand(-1, -1, live.said.shape[-1]))
    return _Live(torch.cat([said, word.unsqueeze(-1)], dim=-1), score), before
