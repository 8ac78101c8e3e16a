"""Synthetic stories: a second reader of the text must come to every answer."""

from collections import Counter

import numpy as np
import pytest
from story_reader import OFFSETS, neighbours, read_story

from fwrl.bench.catbabi.stories import FAMILIES, story

every_family = pytest.mark.parametrize("family", FAMILIES)


def told(family, count, seed=0):
    generator = np.random.default_rng(seed)
    return [story(family, generator).words for _ in range(count)]


@every_family
def test_every_answer_follows_from_the_text(family):
    for words in told(family, 80):
        triples = read_story(words)
        assert 2 <= len(triples) <= 5
        for question, answer, follows in triples:
            assert answer == follows, f"{' '.join(words)}: {question}?"


@every_family
def test_answers_are_many_and_none_is_too_frequent(family):
    answers = Counter(answer for words in told(family, 150) for _, answer, _ in read_story(words))
    few = {"yes_no": 2, "sizes": 2, "count": 3, "unsure": 3}
    assert len(answers) >= few.get(family, 6)
    most = answers.most_common(1)[0][1] / answers.total()
    assert most < (0.65 if family in few else 0.5)


@every_family
def test_a_seed_repeats_a_story_and_stories_differ(family):
    assert told(family, 5) == told(family, 5)
    assert len({" ".join(words) for words in told(family, 50)}) == 50
    assert told(family, 5, seed=1) != told(family, 5)


def test_lengths_and_vocabulary_are_those_of_small_stories():
    texts = {family: told(family, 50) for family in FAMILIES}
    lengths = [len(words) for stories in texts.values() for words in stories]
    assert min(lengths) >= 50
    assert max(lengths) < 600
    assert 80 < sum(lengths) / len(lengths) < 120
    vocabulary = {word for stories in texts.values() for words in stories for word in words}
    assert 100 < len(vocabulary) < 180
    assert vocabulary == {word.lower() for word in vocabulary}


def test_maps_have_no_two_places_at_one_point():
    for words in told("compass", 200):
        facts = [s.split() for s in " ".join(words).split(" what ")[0].split(" .") if s.strip()]
        at = {facts[0][1]: (0, 0)}
        while len(at) < 5:
            for place in list(at):
                for direction, other in neighbours(facts, place).items():
                    step = OFFSETS[direction]
                    point = at[place][0] + step[0], at[place][1] + step[1]
                    assert at.setdefault(other, point) == point
        assert len(set(at.values())) == 5
