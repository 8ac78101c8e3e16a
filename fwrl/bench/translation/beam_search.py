"""Beam search for translations; with a beam of one the greedy choice of each word.

All sentences and all hypotheses of their beams are one batch of the model.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fwrl.bench.translation.model import TranslationModel
from fwrl.state import take_rows


class Search(NamedTuple):
    """The options of a search."""

    # tokens that open and close a translation
    begin: int
    end: int
    # number of hypotheses that are kept
    beam: int = 4
    # log probabilities are divided by the length to this power; 0 favours short translations
    length_penalty: float = 0.6
    # a translation of S source tokens has at most ``growth * S + extra`` tokens
    growth: float = 1.5
    extra: int = 10


@torch.no_grad()
def translate(
    model: TranslationModel, source: Int[Tensor, "B S"], search: Search
) -> list[list[int]]:
    """The best translation found for each source sentence, without the end token.

    Sources are padded with 0. The model is in evaluation mode meanwhile, then in its own again.
    """
    training = model.training
    model.eval()
    found = _search(model, source, search)
    model.train(training)
    return found


class _Live(NamedTuple):
    """The hypotheses that are kept, the best first, and their log probabilities."""

    said: Int[Tensor, "B beam T"]
    score: Float[Tensor, "B beam"]


class _Found:
    """The best finished translation of each sentence, and the number of finished ones."""

    def __init__(self, batch: int, search: Search) -> None:
        self.search = search
        self.words: list[list[int]] = [[] for _ in range(batch)]
        self.best, self.count = [-math.inf] * batch, [0] * batch

    def add(self, sentence: int, words: Tensor, score: float) -> None:
        """Add a finished translation; only as many count as the beam is wide."""
        if self.count[sentence] >= self.search.beam:
            return
        self.count[sentence] += 1
        score /= (len(words) + 1) ** self.search.length_penalty
        if score > self.best[sentence]:
            self.words[sentence], self.best[sentence] = words.tolist(), score

    def enough(self) -> bool:
        """Whether the search is over for all sentences."""
        return min(self.count) >= self.search.beam


def _search(model: TranslationModel, source: Int[Tensor, "B S"], search: Search) -> list[list[int]]:
    batch, beam, device = len(source), search.beam, source.device
    limit = ((source != 0).sum(dim=1) * search.growth + search.extra).long()
    each = torch.arange(batch * beam, device=device)
    read = take_rows(model.encode(source), each // beam)
    state = model.initial_state(batch * beam, device)
    # all hypotheses are equal at first, so that only one of them counts
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
    """The best hypotheses with one more word, and the index of the hypothesis that each extends.

    ``likely`` is the log probability of each next word; a sentence must end where ``last`` is True.
    Translations that end here are added to ``found``.
    """
    words = likely.shape[-1]
    allowed = torch.ones(len(last), 1, words, dtype=torch.bool, device=likely.device)
    allowed[last] = False
    allowed[..., search.end] = True
    # padding and the begin token are no words
    allowed[..., [0, search.begin]] = False
    scores = (live.score.unsqueeze(-1) + likely).masked_fill(~allowed, -math.inf)
    # twice the beam is enough: each hypothesis has only one way to end
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
