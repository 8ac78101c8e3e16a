"""Training of one translation model, and BLEU of its translations."""

import importlib
import math
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from fwrl.bench.benchmark import Measurement, Progress, Row
from fwrl.bench.sequence_model import NOT_ASKED, count_parameters
from fwrl.bench.supervised import Learner
from fwrl.bench.translation.beam_search import Search, translate
from fwrl.bench.translation.grammar_pair import grammar_pair
from fwrl.bench.translation.model import TranslationModel
from fwrl.bench.translation.parallel_text import Splits, read_parallel
from fwrl.bench.translation.settings import WORD_BY_WORD, TranslationSettings, model_config
from fwrl.bench.translation.task import (
    BEGIN,
    END,
    Epochs,
    ParallelSentences,
    Subwords,
    TranslationBatch,
    Vocabulary,
    Words,
    batches,
    encode_pairs,
    not_longer,
    translation_batch,
)
from fwrl.bench.translation.word_by_word import learn_dictionary, word_by_word
from fwrl.config import ConfigError
from fwrl.run.process import Clock, choose_device
from fwrl.state import tensors_in

# Seed of the synthetic sentences, which are the same for all methods and seeds.
SENTENCES_SEED = 1
# The most tokens of a translation: GROWTH times those of its source, plus EXTRA.
GROWTH, EXTRA = 1.5, 10


class Texts(NamedTuple):
    """The sentences as text and as tokens."""

    splits: Splits
    vocabulary: Vocabulary
    train: ParallelSentences
    valid: ParallelSentences
    test: ParallelSentences


def measure(settings: TranslationSettings, point: Row, folder: Path) -> Measurement:
    """One row: BLEU and the share of sentences translated without a mistake."""
    bleu = _bleu()
    texts = read(settings, folder)
    if point["method"] == WORD_BY_WORD:
        dictionary = learn_dictionary(texts.train)
        row: Row = {}
        for name, side in (("valid", texts.valid), ("test", texts.test)):
            sentences = side.source.take(torch.arange(len(side.source.lengths())))
            found = [word_by_word(sentence, dictionary) for sentence in sentences]
            row |= _score(name, found, texts, bleu)
        yield Progress(1, 1)
        return [row]
    device = choose_device(settings.device)
    torch.manual_seed(int(point["seed"]))
    model, row = _build(settings, str(point["method"]), texts, device)
    yield from _train(settings, model, texts, folder, int(point["seed"]))
    model.eval()
    row["valid_loss"] = _loss(settings, model, texts.valid)
    for name, side in (("valid", texts.valid), ("test", texts.test)):
        found = yield from _translate(settings, model, side)
        row |= _score(name, found, texts, bleu)
    return [row]


def read(settings: TranslationSettings, folder: Path) -> Texts:
    """The user's texts, or a synthetic grammar pair.

    Raises:
        ConfigError: If the files cannot be used.
    """
    if settings.data is None:
        splits = grammar_pair(settings.languages, np.random.default_rng(SENTENCES_SEED))
    else:
        splits = read_parallel(settings.data, settings.source_language, settings.target_language)
    size = settings.vocabulary_size
    if settings.vocabulary == "words":
        vocabulary: Vocabulary = Words(splits.train, size)
    else:
        vocabulary = Subwords(splits.train, size, folder / "subwords.json")
    encoded = [encode_pairs(pairs, vocabulary) for pairs in splits]
    return Texts(splits, vocabulary, *encoded)


def _build(
    settings: TranslationSettings, method: str, texts: Texts, device: torch.device
) -> tuple[TranslationModel, Row]:
    """The model, and the columns that describe it."""
    longest = max(int(side.source.lengths().max()) for side in (texts.valid, texts.test))
    longest = max(settings.max_length, math.ceil(GROWTH * longest + EXTRA))
    config = model_config(settings, method, longest)
    model = TranslationModel(texts.vocabulary.size, config).to(device)

    def name(attention: Any) -> str:
        return attention.feature_map or "softmax"

    inside = name(config.attention) if config.encoder == "attention" else "two directions"
    state = sum(leaf.numel() for leaf in tensors_in(model.initial_state(1).layers))
    return model, {
        "encoder": inside,
        "cross_attention": name(config.cross_attention),
        "parameters": count_parameters(model),
        "state": state,
    }


def _train(
    settings: TranslationSettings, model: TranslationModel, texts: Texts, folder: Path, seed: int
) -> Generator[Progress, None, None]:
    """Train, continuing from the checkpoint in the folder if there is one."""
    rows = not_longer(texts.train, settings.max_length)
    if not len(rows):
        raise ConfigError(f"max_length is {settings.max_length}; all sentences are longer")
    generator = torch.Generator().manual_seed(seed)
    epochs = Epochs(texts.train, rows, settings.max_tokens, generator)
    learner = Learner(model, settings.training)
    place, _ = learner.restore(folder, generator, epochs.place())
    if learner.step:
        epochs.go_to(place)
    saving, reporting = Clock(settings.save_every), Clock(1.0)
    steps, note = settings.training.steps, ""
    model.train()
    while learner.step < steps:
        losses: list[Tensor] = []
        learner.update(_parts(settings, model, texts.train, epochs, losses))
        if saving.due() or learner.step == steps:
            learner.save(folder, generator, epochs.place())
        if reporting.due():
            note = f"loss {float(torch.stack(losses).sum()):.3f}"
        yield Progress(learner.step, steps, note)


def _parts(
    settings: TranslationSettings,
    model: TranslationModel,
    sentences: ParallelSentences,
    epochs: Epochs,
    losses: list[Tensor],
) -> Iterator[Tensor]:
    """The loss of one update, batch by batch; each is also added to ``losses``."""
    chosen = [epochs.take() for _ in range(settings.accumulation)]
    words = sentences.target.lengths()
    asked = sum(int(words[rows].sum()) for rows in chosen)
    device = model.embedding.weight.device
    for rows in chosen:
        batch = translation_batch(sentences, rows, device)
        loss = _negative_log(model, batch, settings.label_smoothing) / asked
        losses.append(loss.detach())
        yield loss


def _negative_log(
    model: TranslationModel, batch: TranslationBatch, smoothing: float
) -> Float[Tensor, ""]:
    """The sum of the losses of all words, in nats."""
    logits = model(batch.source, batch.target).flatten(0, 1)
    return F.cross_entropy(
        logits,
        batch.answer.flatten(),
        ignore_index=NOT_ASKED,
        reduction="sum",
        label_smoothing=smoothing,
    )


@torch.no_grad()
def _loss(
    settings: TranslationSettings, model: TranslationModel, sentences: ParallelSentences
) -> float:
    """The loss in nats per word, the end included, without label smoothing."""
    device, total = model.embedding.weight.device, 0.0
    for rows in _in_order(settings, sentences):
        total += float(_negative_log(model, translation_batch(sentences, rows, device), 0.0))
    return round(total / len(sentences.target.tokens), 4)


def _translate(
    settings: TranslationSettings, model: TranslationModel, sentences: ParallelSentences
) -> Generator[Progress, None, list[list[int]]]:
    """The translations of the sentences, in their order."""
    search = Search(BEGIN, END, settings.beam, settings.length_penalty, GROWTH, EXTRA)
    found: dict[int, list[int]] = {}
    device, count = model.embedding.weight.device, len(sentences.source.lengths())
    for rows in _in_order(settings, sentences):
        source = translation_batch(sentences, rows, device).source
        found |= zip(rows.tolist(), translate(model, source, search), strict=True)
        yield Progress(len(found), count, "translating")
    return [found[row] for row in range(count)]


def _in_order(settings: TranslationSettings, sentences: ParallelSentences) -> list[Tensor]:
    rows = torch.arange(len(sentences.source.lengths()))
    return batches(sentences, rows, settings.max_tokens, None)


def _bleu() -> Any:
    """The reference implementation (Post 2018).

    Raises:
        ConfigError: If it is not installed.
    """
    try:
        return importlib.import_module("sacrebleu.metrics").BLEU
    except ImportError:
        raise ConfigError(
            "translation: the library sacrebleu is missing; pip install 'fwrl[lm]'"
        ) from None


def _score(name: str, found: Sequence[Sequence[int]], texts: Texts, bleu: Any) -> Row:
    """BLEU, and the share of sentences translated without a mistake."""
    said = [texts.vocabulary.decode(tokens) for tokens in found]
    right = [target for _, target in (texts.splits.valid if name == "valid" else texts.splits.test)]
    metric = bleu()
    score = metric.corpus_score(said, [right])
    exact = sum(a == b for a, b in zip(said, right, strict=True)) / len(right)
    row: Row = {f"{name}_bleu": round(score.score, 2), f"{name}_exact": round(exact, 4)}
    return row if name == "valid" else {**row, "signature": str(metric.get_signature())}
