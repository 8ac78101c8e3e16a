"""The synthetic grammar pair, against a translator that parses what it reads, written apart."""

import itertools
import re
from collections import Counter

import numpy as np
import pytest

from fwrl import ConfigError
from fwrl.bench.translation.grammar_pair import GrammarPairConfig, grammar_pair
from fwrl.bench.translation.invented_languages import LanguagesConfig, lexicon
from fwrl.config import validate

CONFIG = GrammarPairConfig(train=6000, valid=200, test=300)
WORDS = lexicon(CONFIG)
GENDERS = "mfn"
# gender, number, then nominative, accusative, dative
NOUNS = {
    "m1": "o on os", "m2": "oi oin ois", "f1": "a am ar",
    "f2": "ai aim air", "n1": "e ek et", "n2": "ei eik eit",
}  # fmt: skip
AGREES = {"m1": "u", "f1": "i", "n1": "y", "m2": "ul", "f2": "ul", "n2": "ul"}
VERBS = {"1present": "as", "2present": "ans", "1past": "ed", "2past": "end"}
# how many objects; those of 8 to 11 depend on the object, 12 to 15 can have particles
OBJECTS = [0] * 8 + [1] * 14 + [2] * 4


@pytest.fixture(scope="module")
def splits():
    return grammar_pair(CONFIG, np.random.default_rng(0))


class Reader:
    """Translates left to right; a noun is (number in the lexicon, class such as m1)."""

    def __init__(self, text):
        self.left = text.split()
        self.kind = {
            word: (table, n)
            for table, words in WORDS.source.items()
            for n, word in enumerate(words)
        }
        self.kind |= {w + "s": ("plural", n) for n, w in enumerate(WORDS.source["noun"])}

    def next(self):
        return self.kind[self.left[0]][0] if self.left else None

    def take(self):
        return self.kind[self.left.pop(0)][1]

    def sentence(self):
        first, subject = self.clause(None, None)
        if not self.left:
            return " ".join(first)
        reason = self.take() == 1
        pronoun = subject if self.next() == "pronoun" else None
        second, _ = self.clause(None, pronoun)
        assert not self.left
        join = WORDS.target["join"][reason]
        return " ".join([*second, join, *first] if reason else [*first, join, *second])

    def clause(self, head, antecedent):
        """The words, and the subject; a head is the noun that a relative clause describes."""
        said, subject, missing = [], head, head is not None
        if self.next() == "pronoun":
            assert self.take() == (antecedent[1][1] == "2")
            subject, phrase = antecedent, [WORDS.target["pronoun"][0] + AGREES[antecedent[1]]]
        elif self.next() == "determiner":
            phrase, subject = self.phrase(0)
            missing = False
        else:
            phrase = []
        if head is not None:
            said.append(WORDS.target["relative"][not missing] + AGREES[head[1]])
        if self.next() == "adverb":
            said.append(WORDS.target["adverb"][self.take()])
        tense = "past" if self.next() == "past" and self.take() == 0 else "present"
        verb = self.take()
        receiver, direct, thing = [], [], head
        if OBJECTS[verb] and self.next() == "determiner":
            direct, thing = self.phrase(1)
        if self.next() == "particle" and 12 <= verb < 16:
            assert self.take() == verb % 2
            verb += 18
        elif 8 <= verb < 12 and thing[0] // 3 % 2:
            verb += 18
        if self.next() == "receiver" and OBJECTS[verb % 30 if verb < 26 else 8] == 2:
            self.take()
            receiver, _ = self.phrase(2)
        said += [*phrase, *receiver, *direct]
        number = subject[1][1]
        return [*said, WORDS.target["verb"][verb] + VERBS[number + tense]], subject

    def phrase(self, case):
        article, adjectives, nouns = self.take(), [], []
        while self.next() == "adjective":
            adjectives.insert(0, self.take())
        number = "1"
        while self.next() in ("noun", "plural"):
            number = "2" if self.next() == "plural" else "1"
            nouns.append(self.take())
        noun = nouns[-1]
        kind = GENDERS[noun % 3] + number
        said = [WORDS.target["determiner"][article] + AGREES[kind]]
        said.append(WORDS.target["noun"][noun] + NOUNS[kind].split()[case])
        for adjective in adjectives:
            other = 16 if adjective < 4 and noun // 3 % 2 else 0
            said.append(WORDS.target["adjective"][adjective + other] + AGREES[kind])
        for modifier in nouns[:-1]:
            ending = NOUNS[GENDERS[modifier % 3] + "1"].split()[0]
            said += [WORDS.target["link"][0], WORDS.target["noun"][modifier] + ending]
        if self.next() == "relative":
            self.take()
            described, _ = self.clause((noun, kind), None)
            said += described
        return said, (noun, kind)


def test_a_reader_of_the_source_says_the_same(splits):
    for source, target in itertools.chain(*splits):
        assert Reader(source).sentence() == target, source


def test_no_sentence_is_twice_or_in_two_parts(splits):
    sources = [source for part in splits for source, _ in part]
    assert len(set(sources)) == len(sources) == 6500
    assert [len(part) for part in splits] == [6000, 200, 300]


def test_lengths_and_vocabularies(splits):
    lengths = [len(source.split()) for source, _ in splits.train]
    assert min(lengths) == 5
    assert 35 < max(lengths) <= 40
    assert 13 < np.mean(lengths) < 16
    first, second = ({w for pair in splits.train for w in pair[side].split()} for side in (0, 1))
    assert not first & second
    assert 120 < len(first) < 140
    assert 400 < len(second) < 520


def test_every_form_of_a_word_is_a_word_of_its_own():
    forms = Counter(word for words in WORDS.source.values() for word in words)
    forms.update(word + "s" for word in WORDS.source["noun"])
    stems = Counter(stem for stems in WORDS.target.values() for stem in stems)
    assert max(forms.values()) == max(stems.values()) == 1
    # stems of one length: an ending cannot be taken for a part of a stem
    assert {len(stem) for stem in stems} == {4}


def share(splits, happens):
    return np.mean([happens(*pair) for pair in splits.train])


def test_what_makes_translation_hard_happens(splits):
    that, to, had = (WORDS.source[name][0] for name in ("relative", "receiver", "past"))
    link, both = WORDS.target["link"][0], WORDS.source["pronoun"]
    particles = WORDS.source["particle"]
    shares = {
        "relative": share(splits, lambda s, t: that in s.split()),
        "nested": share(splits, lambda s, t: s.split().count(that) > 1),
        "receiver": share(splits, lambda s, t: to in s.split()),
        "past": share(splits, lambda s, t: had in s.split()),
        "compound": share(splits, lambda s, t: link in t.split()),
        "pronoun": share(splits, lambda s, t: any(word in s.split() for word in both)),
        "particle": share(splits, lambda s, t: any(word in s.split() for word in particles)),
        "reason": share(splits, lambda s, t: WORDS.source["join"][1] in s.split()),
    }
    bands = {
        "relative": (0.4, 0.6), "nested": (0.15, 0.3), "receiver": (0.2, 0.35),
        "past": (0.35, 0.6), "compound": (0.3, 0.45), "pronoun": (0.18, 0.3),
        "particle": (0.08, 0.2), "reason": (0.15, 0.27),
    }  # fmt: skip
    for name, (low, high) in bands.items():
        assert low < shares[name] < high, (name, shares[name])


def test_one_word_can_mean_two(splits):
    """Ambiguous words have both translations; the verb's words stand in every form."""
    said = {word for _, target in splits.train for word in target.split()}
    for verb, ending in itertools.product(WORDS.target["verb"], VERBS.values()):
        assert verb + ending in said
    assert len(WORDS.target["verb"]) == len(WORDS.source["verb"]) + 8
    assert len(WORDS.target["adjective"]) == len(WORDS.source["adjective"]) + 4


def test_a_verb_agrees_with_a_subject_far_away(splits):
    """Over other nouns: the last noun before the last verb often has another number."""
    stems = "|".join(WORDS.target["noun"])
    plural = re.compile(rf"\b(?:{stems})(?:oi|ai|ei)")
    noun = re.compile(rf"\b(?:{stems})\w+")
    misleading = []
    for _, target in splits.train:
        last = noun.findall(target)[-1]
        verb = [w for w in target.split() if w[:4] in WORDS.target["verb"]][-1]
        misleading.append(bool(plural.match(last)) != (verb[4:] in ("ans", "end")))
    assert 0.25 < np.mean(misleading) < 0.5


def test_a_seed_repeats_the_sentences_and_another_does_not():
    config = GrammarPairConfig(train=50, valid=5, test=5)
    first, again, other = (grammar_pair(config, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nouns": 5}, "nouns is 5; .* greater than or equal to 6"),
        ({"adjectives": 3}, "adjectives is 3; .* greater than or equal to 4"),
        ({"min_length": 4}, "min_length is 4; .* greater than or equal to 5"),
        ({"max_length": 4}, "max_length is 4; use at least min_length, 5"),
        ({"relative": 1.5}, "relative is 1.5; .* less than or equal to 1"),
        ({"noun": 9}, "did you mean 'nouns'"),
    ],
)
def test_impossible_languages_are_refused_in_one_line(values, message):
    with pytest.raises(ConfigError, match=message) as error:
        validate(LanguagesConfig, values, "languages")
    assert "\n" not in str(error.value)


def test_more_sentences_than_are_found_is_a_mistake(monkeypatch):
    monkeypatch.setattr("fwrl.bench.translation.grammar_pair.PATIENCE", 2)
    config = GrammarPairConfig(train=100, valid=10, test=10, max_length=5)
    with pytest.raises(ConfigError, match=r"120 different sentences of 5 to 5 words .* only"):
        grammar_pair(config, np.random.default_rng(0))
