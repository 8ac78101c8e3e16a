"""Stories of a small world, with questions that follow from them: each family asks in one way.

Synthetic text in the form of the bAbI tasks (Weston et al. 2015) and not these tasks: people,
places and sentences are our own, and nothing has to be downloaded. Each story is told of a
simulated world, which knows the answers.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from fwrl.bench.catbabi.small_world import PEOPLE, PLACES, THINGS, World, pick, some

# The words of a story; each question mark is followed by the answer, which is one word.
Text = list[str]
# Makes a question without its mark, and the answer; None: the world admits no question yet.
Ask = Callable[[World, np.random.Generator], tuple[str, str] | None]

QUESTIONS = 5
NUMBERS = ("none", "one", "two", "three")
TIMES = ("dawn", "noon", "dusk", "midnight")
STEPS = {"north": (0, 1), "south": (0, -1), "east": (1, 0), "west": (-1, 0)}
OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}
PETS = ("bella", "coco", "daisy", "luna", "max", "rocky")
KINDS = {
    "fox": "foxes",
    "frog": "frogs",
    "hawk": "hawks",
    "hen": "hens",
    "mouse": "mice",
    "wolf": "wolves",
}
COLOURS = ("black", "brown", "green", "grey", "white", "yellow")
VESSELS = ("barrel", "bowl", "box", "bucket", "crate", "jar")
PRONOUNS = {person: "she" if index % 2 == 0 else "he" for index, person in enumerate(PEOPLE)}


class Story(NamedTuple):
    """A text, and the family of its questions."""

    family: str
    words: Text


def story(family: str, generator: np.random.Generator) -> Story:
    """A new story of one of the ``FAMILIES``."""
    return Story(family, FAMILIES[family](generator))


def _told(
    ask: Ask,
    kinds: Sequence[str],
    events: int,
    sizes: tuple[int, int, int],
    generator: np.random.Generator,
) -> Text:
    """Events of a world and questions in turn.

    Args:
        ask: Makes a question.
        kinds: Kinds of events to choose from.
        events: The most events between two questions, unless no question can be asked yet.
        sizes: Numbers of people, places and things.
        generator: The only source of randomness.
    """
    names = zip((PEOPLE, PLACES, THINGS), sizes, strict=True)
    world = World(*(some(choices, size, generator) for choices, size in names))
    words: Text = []
    for _ in range(QUESTIONS):
        question = None
        while question is None:
            for _ in range(generator.integers(1, events + 1)):
                words += world.act(pick(kinds, generator), generator).split()
            question = ask(world, generator)
        words += _asked(*question)
    return words


def _asked(question: str, answer: str) -> Text:
    return [*question.split(), "?", answer]


def _where_person(world: World, generator: np.random.Generator) -> tuple[str, str]:
    person = pick(list(world.places_of), generator)
    return f"where is {person}", world.places_of[person][-1]


def _is_in(world: World, generator: np.random.Generator) -> tuple[str, str]:
    person = pick(list(world.places_of), generator)
    truth = world.places_of[person][-1]
    place = truth if generator.integers(2) else pick(world.places, generator)
    return f"is {person} in the {place}", "yes" if place == truth else "no"


def _where_thing(world: World, generator: np.random.Generator) -> tuple[str, str] | None:
    if not world.places_of_thing:
        return None
    thing = pick(list(world.places_of_thing), generator)
    return f"where is the {thing}", world.places_of_thing[thing][-1]


def _thing_before(world: World, generator: np.random.Generator) -> tuple[str, str] | None:
    moved = [thing for thing, places in world.places_of_thing.items() if len(places) > 1]
    if not moved:
        return None
    thing = pick(moved, generator)
    places = world.places_of_thing[thing]
    # the last time that the thing came to the place counts
    last = {place: before for before, place in pairwise(places)}
    place = pick(list(last), generator)
    return f"where was the {thing} before the {place}", last[place]


def _given(world: World, generator: np.random.Generator) -> tuple[str, str] | None:
    if not world.gifts:
        return None
    giver, thing, taker = world.gifts[-1]
    questions = [
        (f"who gave the {thing} to {taker}", giver),
        (f"what did {giver} give to {taker}", thing),
        (f"who received the {thing}", taker),
    ]
    return pick(questions, generator)


def _somebody(world: World, generator: np.random.Generator) -> str:
    """A person, more often one who carries something: by far most carry nothing."""
    return pick([*world.places_of, *world.holder.values(), *world.holder.values()], generator)


def _how_many(world: World, generator: np.random.Generator) -> tuple[str, str]:
    person = _somebody(world, generator)
    return f"how many things does {person} carry", NUMBERS[len(world.carried(person))]


def _what(world: World, generator: np.random.Generator) -> tuple[str, str]:
    person = _somebody(world, generator)
    return f"what does {person} carry", ",".join(world.carried(person)) or "nothing"


def _unsure(generator: np.random.Generator) -> Text:
    people, places = some(PEOPLE, 3, generator), some(PLACES, 5, generator)
    possible: dict[str, tuple[str, ...]] = {}
    words: Text = []
    for _ in range(QUESTIONS):
        for _ in range(generator.integers(1, 4)):
            person = pick(people, generator)
            either = tuple(some(places, 1 + int(generator.integers(2)), generator))
            possible[person] = either
            where = "either in the {} or in the {}" if len(either) == 2 else "in the {}"
            words += f"{person} is {where.format(*either)} .".split()
        person = pick(list(possible), generator)
        place = pick((*possible[person], *places), generator)
        answer = "no" if place not in possible[person] else "yes"
        if answer == "yes" and len(possible[person]) == 2:
            answer = "maybe"
        words += _asked(f"is {person} in the {place}", answer)
    return words


def _by_the_clock(generator: np.random.Generator) -> Text:
    people = some(PEOPLE, 2, generator)
    facts: list[tuple[str, str, str]] = []
    pairs: list[tuple[str, str, str]] = []
    for person in people:
        times = sorted(some(TIMES, 3, generator), key=TIMES.index)
        places = some(PLACES, 3, generator)
        facts += [(person, *fact) for fact in zip(times, places, strict=True)]
        pairs += [(person, *pair) for pair in pairwise(places)]
    words: Text = []
    for person, time, place in some(facts, len(facts), generator):
        words += f"at {time} {person} was in the {place} .".split()
    for person, before, place in some(pairs, 3, generator):
        words += _asked(f"where was {person} before the {place}", before)
    return words


def _map(generator: np.random.Generator) -> tuple[Text, list[tuple[str, str, str]]]:
    """Neighbours on a path without crossings: first place, direction of the next one, next one."""
    at: tuple[int, int] = (0, 0)
    taken, directions = set[tuple[int, int]]([at]), list[str]()
    while len(directions) < 4:
        direction = pick(list(STEPS), generator)
        east, north = STEPS[direction]
        after = at[0] + east, at[1] + north
        if after in taken:
            # a path that crosses itself begins again
            at, taken, directions = (0, 0), {(0, 0)}, []
            continue
        at = after
        taken.add(at)
        directions.append(direction)
    places = some(PLACES, 5, generator)
    path = [(a, d, b) for (a, b), d in zip(pairwise(places), directions, strict=True)]
    words: Text = []
    for first, direction, second in some(path, len(path), generator):
        if generator.integers(2):
            words += f"the {second} lies {direction} of the {first} .".split()
        else:
            words += f"the {first} lies {OPPOSITE[direction]} of the {second} .".split()
    return words, path


def _compass(generator: np.random.Generator) -> Text:
    words, path = _map(generator)
    both = path + [(second, OPPOSITE[direction], first) for first, direction, second in path]
    for first, direction, second in some(both, 3, generator):
        words += _asked(f"what lies {direction} of the {first}", second)
    return words


def _route(generator: np.random.Generator) -> Text:
    words, path = _map(generator)
    for (start, first, _), (_, second, end) in some(list(pairwise(path)), 2, generator):
        there = f"from the {start} to the {end}", f"{first},{second}"
        back = f"from the {end} to the {start}", f"{OPPOSITE[second]},{OPPOSITE[first]}"
        way, answer = pick((there, back), generator)
        words += _asked(f"how does one walk {way}", answer)
    return words


def _fears(generator: np.random.Generator) -> Text:
    kinds, pets = some(list(KINDS), 4, generator), some(PETS, 4, generator)
    fears = dict(zip(kinds, np.roll(kinds, 1).tolist(), strict=True))
    facts = [f"{KINDS[kind]} fear {KINDS[feared]} ." for kind, feared in fears.items()]
    facts += [f"{pet} is a {kind} ." for pet, kind in zip(pets, kinds, strict=True)]
    words = " ".join(some(facts, len(facts), generator)).split()
    for index in some(range(4), 3, generator):
        words += _asked(f"what does {pets[index]} fear", KINDS[fears[kinds[index]]])
    return words


def _colours(generator: np.random.Generator) -> Text:
    kinds, colours = some(list(KINDS), 3, generator), some(COLOURS, 3, generator)
    pets = some(PETS, 6, generator)
    facts: Text = []
    for kind, colour, first, second in zip(kinds, colours, pets[:3], pets[3:], strict=True):
        facts += [f"{first} is a {kind} .", f"{second} is a {kind} .", f"{first} is {colour} ."]
    words = " ".join(some(facts, len(facts), generator)).split()
    for index in some(range(3), 3, generator):
        words += _asked(f"what colour is {pets[3 + index]}", colours[index])
    return words


def _sizes(generator: np.random.Generator) -> Text:
    # from the smallest to the largest
    vessels = some(VESSELS, 5, generator)
    facts: Text = []
    for small, large in pairwise(vessels):
        told = f"{large} is larger than the {small}", f"{small} is smaller than the {large}"
        facts.append(f"the {pick(told, generator)} .")
    words = " ".join(some(facts, len(facts), generator)).split()
    for _ in range(3):
        first, second = some(range(5), 2, generator)
        answer = "yes" if first > second else "no"
        words += _asked(f"is the {vessels[first]} larger than the {vessels[second]}", answer)
    return words


def _pronouns(generator: np.random.Generator) -> Text:
    people, places = some(PEOPLE, 4, generator), some(PLACES, 6, generator)
    where: dict[str, str] = {}
    words: Text = []
    for _ in range(QUESTIONS):
        group = some(people, 1 + int(generator.integers(2)), generator)
        pronoun = PRONOUNS[group[0]] if len(group) == 1 else "they"
        first, second = some(places, 2, generator)
        words += f"{' and '.join(group)} went to the {first} .".split()
        words += f"then {pronoun} walked to the {second} .".split()
        where |= dict.fromkeys(group, second)
        person = pick(list(where), generator)
        words += _asked(f"where is {person}", where[person])
    return words


CARRY = ("move", "move", "take", "take", "leave")
HAND_OVER = ("move", "take", "take", "leave", "give", "give")
MANY, FEW = (4, 6, 3), (3, 2, 4)

FAMILIES: dict[str, Callable[[np.random.Generator], Text]] = {
    "person_place": partial(_told, _where_person, ("move",), 3, MANY),
    "yes_no": partial(_told, _is_in, ("move",), 3, MANY),
    "thing_place": partial(_told, _where_thing, CARRY, 5, MANY),
    "thing_before": partial(_told, _thing_before, CARRY, 5, MANY),
    "given": partial(_told, _given, HAND_OVER, 4, FEW),
    "count": partial(_told, _how_many, HAND_OVER, 4, FEW),
    "list": partial(_told, _what, HAND_OVER, 4, FEW),
    "unsure": _unsure,
    "time_order": _by_the_clock,
    "compass": _compass,
    "route": _route,
    "fears": _fears,
    "colours": _colours,
    "sizes": _sizes,
    "pronouns": _pronouns,
}
