"""A synthetic grammar pair: random sentences of two invented languages, drawn on the spot."""

import numpy as np
from pydantic import PositiveInt

from fwrl.bench.translation.invented_languages import (
    ADVERBS,
    DETERMINERS,
    DITRANSITIVE,
    INTRANSITIVE,
    VERB_KINDS,
    WITH_PARTICLE,
    Clause,
    LanguagesConfig,
    Phrase,
    Pronoun,
    Sentence,
    lexicon,
    source_words,
    target_words,
)
from fwrl.bench.translation.parallel_text import Splits
from fwrl.config import ConfigError

# The shares of parts that make a sentence longer, or change its meaning.
ADJECTIVE, COMPOUND, ADVERB, PAST, PLURAL, PARTICLE, PRONOUN = 0.35, 0.15, 0.3, 0.3, 0.4, 0.5, 0.6

# The most sentences drawn for each that is wanted, before giving up.
PATIENCE = 50


class GrammarPairConfig(LanguagesConfig):
    """The languages, and the numbers of different sentences."""

    train: PositiveInt = 40_000
    """Sentences to train on."""
    valid: PositiveInt = 500
    """Sentences for validation."""
    test: PositiveInt = 1000
    """Sentences for the test."""


def grammar_pair(config: GrammarPairConfig, generator: np.random.Generator) -> Splits:
    """Different sentences with their translations, drawn independently of one another.

    Words are separated by blanks. No sentence is in two splits, or twice in one.

    Raises:
        ConfigError: If the languages have too few sentences of the allowed lengths.
    """
    words, speaker = lexicon(config), _Speaker(config, generator)
    wanted = config.train + config.valid + config.test
    pairs: dict[str, str] = {}
    for _ in range(PATIENCE * wanted):
        sentence = speaker.sentence()
        source = source_words(sentence, words)
        if config.min_length <= len(source) <= config.max_length:
            pairs[" ".join(source)] = " ".join(target_words(sentence, words))
        if len(pairs) == wanted:
            break
    else:
        raise ConfigError(
            f"{wanted} different sentences of {config.min_length} to {config.max_length} words are "
            f"wanted, but only {len(pairs)} were found; use fewer, or other lengths"
        )
    # a dictionary keeps the order in which the sentences were found
    listed = list(pairs.items())
    held_out = config.valid + config.test
    return Splits(listed[held_out:], listed[: config.valid], listed[config.valid : held_out])


class _Speaker:
    """Draws sentences from the outermost clause inwards."""

    def __init__(self, config: LanguagesConfig, generator: np.random.Generator) -> None:
        self.config, self.generator = config, generator

    def sentence(self) -> Sentence:
        first = self.clause(self.phrase(0), 0)
        if not self.happens(self.config.two_clauses):
            return Sentence(first, False, None)
        assert isinstance(first.subject, Phrase), "it was given"
        refers = self.happens(PRONOUN)
        subject = Pronoun(first.subject) if refers else self.phrase(0)
        return Sentence(first, self.happens(0.5), self.clause(subject, 0))

    def clause(self, subject: Phrase | Pronoun, depth: int) -> Clause:
        verb = self.number(len(VERB_KINDS))
        kind = VERB_KINDS[verb]
        particle = kind == WITH_PARTICLE and self.happens(PARTICLE)
        # after a relative clause it would be unclear to which verb a particle belongs
        deepest = self.config.max_depth if kind == WITH_PARTICLE else depth
        return Clause(
            subject,
            self.number(ADVERBS) if self.happens(ADVERB) else None,
            self.happens(PAST),
            verb,
            particle,
            None if kind == INTRANSITIVE else self.phrase(deepest),
            self.phrase(depth) if kind == DITRANSITIVE else None,
        )

    def relative(self, depth: int) -> Clause:
        """A relative clause, whose noun is its subject or its direct object."""
        inner = depth + 1
        clause = self.clause(self.phrase(inner), inner)
        if VERB_KINDS[clause.verb] == INTRANSITIVE or self.happens(0.5):
            return clause._replace(subject=None)
        return clause._replace(direct=None)

    def phrase(self, depth: int) -> Phrase:
        adjectives = [self.number(self.config.adjectives) for _ in range(2)]
        kept = int(self.happens(ADJECTIVE)) + int(self.happens(ADJECTIVE))
        modifier = self.number(self.config.nouns) if self.happens(COMPOUND) else None
        described = depth < self.config.max_depth and self.happens(self.config.relative)
        return Phrase(
            self.number(DETERMINERS),
            tuple(adjectives[:kept]),
            modifier,
            self.number(self.config.nouns),
            self.happens(PLURAL),
            self.relative(depth) if described else None,
        )

    def happens(self, share: float) -> bool:
        return bool(self.generator.random() < share)

    def number(self, below: int) -> int:
        return int(self.generator.random() * below)
