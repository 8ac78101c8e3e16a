"""Two invented languages, and a sentence in each of them.

The first has subject, verb, object in this order, adjectives before nouns, no gender and no case.
The second puts the verb last, after its indirect and direct object, and adjectives, in opposite
order, after the noun. Its words agree:

- nouns have one of three genders, which the first language does not show, and endings for case
  and number; determiners, adjectives, relative pronouns and pronouns follow their gender;
- a verb follows the number of its subject, over all relative clauses in between;
- a relative clause follows its noun, and its pronoun shows what the noun is in it.

The translation of a word of the first can depend on another word: of some verbs on whether their
object is animate, of some adjectives on their noun, and some verbs with a particle after their
object are another verb. Two nouns in a row are a compound, whose parts the second language reverses
and links. A clause of reason comes after its main clause in the first language, before it in the
second; a pronoun in it shows the gender of a noun in the other.

A sentence in the first language has one meaning and so one translation.
"""

from typing import Literal, NamedTuple

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from fwrl.config import Config

Case = Literal[0, 1, 2]
SUBJECT, OBJECT, RECEIVER = 0, 1, 2

# Kinds of verbs by their objects, and the number of verbs of each. The first two kinds with one
# object have a second meaning: with an inanimate object, or with their particle.
INTRANSITIVE, AMBIGUOUS, WITH_PARTICLE, TRANSITIVE, DITRANSITIVE = range(5)
VERBS_OF_A_KIND = (8, 4, 4, 6, 4)
VERB_KINDS = tuple(kind for kind, count in enumerate(VERBS_OF_A_KIND) for _ in range(count))
AMBIGUOUS_ADJECTIVES = 4
DETERMINERS, ADVERBS, PARTICLES = 3, 6, 2

# Endings by gender, then singular and plural, then case.
NOUN_ENDINGS = (
    (("o", "on", "os"), ("oi", "oin", "ois")),
    (("a", "am", "ar"), ("ai", "aim", "air")),
    (("e", "ek", "et"), ("ei", "eik", "eit")),
)
# Endings of determiners, adjectives and pronouns: by gender, and one for all plurals.
AGREEMENT = ("u", "i", "y", "ul")
# Endings of verbs: by number, then present and past.
VERB_ENDINGS = (("as", "ed"), ("ans", "end"))


class LanguagesConfig(Config):
    """The numbers of nouns and adjectives, and the shape of sentences."""

    nouns: int = Field(default=36, ge=6)
    """Number of nouns: of three genders, animate or not, which does not show."""
    adjectives: int = Field(default=16, ge=AMBIGUOUS_ADJECTIVES)
    """Number of adjectives; the first four mean something else with an inanimate noun."""
    max_depth: NonNegativeInt = 2
    """Most relative clauses nested in one another."""
    relative: float = Field(default=0.3, ge=0, le=1)
    """Share of nouns with a relative clause, where the depth allows one."""
    two_clauses: float = Field(default=0.4, ge=0, le=1)
    """Share of sentences that join two clauses."""
    min_length: int = Field(default=5, ge=5)
    """Shortest sentence, in words of the first language."""
    max_length: PositiveInt = 40
    """Longest sentence, in words of the first language."""

    @model_validator(mode="after")
    def _possible(self) -> "LanguagesConfig":
        if self.min_length > self.max_length:
            raise ValueError(
                f"max_length is {self.max_length}; use at least min_length, {self.min_length}"
            )
        return self


class Phrase(NamedTuple):
    """A noun and the words that belong to it, as numbers in their tables of the lexicon."""

    determiner: int
    adjectives: tuple[int, ...]
    modifier: int | None  # the first noun of a compound
    noun: int
    plural: bool
    relative: "Clause | None"


class Pronoun(NamedTuple):
    """A pronoun for the subject of the other clause."""

    antecedent: Phrase


class Clause(NamedTuple):
    """A verb and its phrases. In a relative clause the phrase of its own noun is None."""

    subject: Phrase | Pronoun | None
    adverb: int | None
    past: bool
    verb: int
    particle: bool
    direct: Phrase | None
    receiver: Phrase | None


class Sentence(NamedTuple):
    """One clause, or two, of which the second gives a reason or only continues."""

    first: Clause
    reason: bool
    second: Clause | None


class Lexicon(NamedTuple):
    """The words of both languages; in the second, stems without endings.

    The second meanings of a table follow all first meanings, in the same order.
    """

    source: dict[str, tuple[str, ...]]
    target: dict[str, tuple[str, ...]]


def lexicon(config: LanguagesConfig) -> Lexicon:
    """Tables of words; no word is in two of them, or in both languages."""
    verbs = len(VERB_KINDS)
    second = VERBS_OF_A_KIND[AMBIGUOUS] + VERBS_OF_A_KIND[WITH_PARTICLE]
    sizes = {"noun": (config.nouns, config.nouns), "verb": (verbs, verbs + second)}
    sizes |= {"adjective": (config.adjectives, config.adjectives + AMBIGUOUS_ADJECTIVES)}
    sizes |= {"determiner": (DETERMINERS, DETERMINERS), "adverb": (ADVERBS, ADVERBS)}
    sizes |= {"particle": (PARTICLES, 0), "past": (1, 0), "receiver": (1, 0), "link": (0, 1)}
    sizes |= {"relative": (1, 2), "join": (2, 2), "pronoun": (2, 1)}
    return Lexicon(
        _table({name: count for name, (count, _) in sizes.items()}, "cvc"),
        _table({name: count for name, (_, count) in sizes.items()}, "vcvc"),
    )


def _table(counts: dict[str, int], shape: str) -> dict[str, tuple[str, ...]]:
    """Words of this shape of consonants and vowels, each once."""
    sounds = [{"c": "bdfgklmnprtv", "v": "aeiou"}[kind] for kind in shape]
    total = 1
    for choice in sounds:
        total *= len(choice)
    words: dict[str, tuple[str, ...]] = {}
    used = 0
    for name, count in counts.items():
        # a stride without the factors 2, 3 and 5 visits every word once, in irregular order
        words[name] = tuple(
            _spell(number * 277 % total, sounds) for number in range(used, used + count)
        )
        used += count
    if used > total:
        raise ValueError(f"{used} words are wanted, but there are {total} of shape {shape}")
    return words


def _spell(number: int, sounds: list[str]) -> str:
    letters: list[str] = []
    for choice in sounds:
        number, index = divmod(number, len(choice))
        letters.append(choice[index])
    return "".join(letters)


def gender(noun: int) -> int:
    """The gender of a noun in the second language: 0, 1 or 2."""
    return noun % 3


def animate(noun: int) -> bool:
    """Whether words that depend on the noun have their first meaning."""
    return noun // 3 % 2 == 0


def source_words(sentence: Sentence, words: Lexicon) -> list[str]:
    """The sentence in the first language."""
    text = _source_clause(sentence.first, words)
    if sentence.second is not None:
        join = words.source["join"][sentence.reason]
        text = [*text, join, *_source_clause(sentence.second, words)]
    return text


def _source_clause(clause: Clause, words: Lexicon) -> list[str]:
    table = words.source
    text: list[str] = []
    if isinstance(clause.subject, Pronoun):
        text.append(table["pronoun"][clause.subject.antecedent.plural])
    else:
        text += _source_phrase(clause.subject, words)
    if clause.adverb is not None:
        text.append(table["adverb"][clause.adverb])
    text += table["past"] if clause.past else ()
    text.append(table["verb"][clause.verb])
    text += _source_phrase(clause.direct, words)
    if clause.particle:
        text.append(table["particle"][clause.verb % PARTICLES])
    if clause.receiver is not None:
        text += [*table["receiver"], *_source_phrase(clause.receiver, words)]
    return text


def _source_phrase(phrase: Phrase | None, words: Lexicon) -> list[str]:
    if phrase is None:
        return []
    table = words.source
    text = [table["determiner"][phrase.determiner]]
    text += [table["adjective"][adjective] for adjective in phrase.adjectives]
    if phrase.modifier is not None:
        text.append(table["noun"][phrase.modifier])
    text.append(table["noun"][phrase.noun] + ("s" if phrase.plural else ""))
    if phrase.relative is not None:
        text += [*table["relative"], *_source_clause(phrase.relative, words)]
    return text


def target_words(sentence: Sentence, words: Lexicon) -> list[str]:
    """The sentence in the second language."""
    text = _target_clause(sentence.first, words, None)
    if sentence.second is None:
        return text
    second = _target_clause(sentence.second, words, None)
    join = words.target["join"][sentence.reason]
    return [*second, join, *text] if sentence.reason else [*text, join, *second]


def _target_clause(clause: Clause, words: Lexicon, head: Phrase | None) -> list[str]:
    """A clause; ``head`` is the phrase to which a relative clause belongs."""
    table = words.target
    text: list[str] = []
    subject = clause.subject or head
    if head is not None:
        text.append(table["relative"][clause.subject is not None] + _agreeing(head))
    if clause.adverb is not None:
        text.append(table["adverb"][clause.adverb])
    if isinstance(clause.subject, Pronoun):
        subject = clause.subject.antecedent
        text.append(table["pronoun"][0] + _agreeing(subject))
    else:
        text += _target_phrase(clause.subject, words, SUBJECT)
    text += _target_phrase(clause.receiver, words, RECEIVER)
    text += _target_phrase(clause.direct, words, OBJECT)
    assert isinstance(subject, Phrase), "only a relative clause lacks a subject"
    verb = _meaning(clause, clause.direct or head)
    return [*text, table["verb"][verb] + VERB_ENDINGS[subject.plural][clause.past]]


def _meaning(clause: Clause, direct: Phrase | None) -> int:
    """The verb of the second language."""
    second = len(VERB_KINDS) + clause.verb - VERB_KINDS.index(AMBIGUOUS)
    if clause.particle:
        return second
    ambiguous = VERB_KINDS[clause.verb] == AMBIGUOUS
    if ambiguous and direct is not None and not animate(direct.noun):
        return second
    return clause.verb


def _target_phrase(phrase: Phrase | None, words: Lexicon, case: Case) -> list[str]:
    if phrase is None:
        return []
    table, agreement = words.target, _agreeing(phrase)
    ending = NOUN_ENDINGS[gender(phrase.noun)][phrase.plural][case]
    text = [table["determiner"][phrase.determiner] + agreement]
    text.append(table["noun"][phrase.noun] + ending)
    for adjective in reversed(phrase.adjectives):
        other = adjective < AMBIGUOUS_ADJECTIVES and not animate(phrase.noun)
        chosen = len(table["adjective"]) - AMBIGUOUS_ADJECTIVES + adjective if other else adjective
        text.append(table["adjective"][chosen] + agreement)
    if phrase.modifier is not None:
        modifier = table["noun"][phrase.modifier]
        text += [*table["link"], modifier + NOUN_ENDINGS[gender(phrase.modifier)][0][SUBJECT]]
    if phrase.relative is not None:
        text += _target_clause(phrase.relative, words, phrase)
    return text


def _agreeing(phrase: Phrase) -> str:
    return AGREEMENT[3 if phrase.plural else gender(phrase.noun)]
