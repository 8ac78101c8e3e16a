"""A small world: people walk between places, and take, leave and hand over things."""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np

Choice = TypeVar("Choice")

PEOPLE = ("anna", "boris", "clara", "david", "elena", "felix", "greta", "hugo")
PLACES = (
    "attic", "bakery", "cellar", "garden", "harbour", "library", "market", "stable", "tower",
    "workshop",
)  # fmt: skip
THINGS = ("book", "coin", "hat", "key", "lamp")
WALKED = ("hurried", "ran", "walked", "went")
TOOK = ("grabbed", "took")
LEFT = ("dropped", "left")
# The most things that a person carries.
LOAD = 2


class Event(NamedTuple):
    """An action of a person; ``to`` is a place, another person, or empty."""

    kind: str
    person: str
    thing: str = ""
    to: str = ""


class World:
    """The places of people and things, now and before. Nothing is known at first.

    A thing that nobody has touched yet is wherever somebody takes it.
    """

    def __init__(self, people: Sequence[str], places: Sequence[str], things: Sequence[str]) -> None:
        self.people, self.places, self.things = people, places, things
        # from first to last; no two in a row are the same
        self.places_of: dict[str, list[str]] = {}
        self.places_of_thing: dict[str, list[str]] = {}
        # the holder of each carried thing, in the order in which things were taken
        self.holder: dict[str, str] = {}
        # who gave what to whom
        self.gifts: list[tuple[str, str, str]] = []

    def carried(self, person: str) -> list[str]:
        """The things that a person has, in the order in which they were taken."""
        return [thing for thing, holder in self.holder.items() if holder == person]

    def act(self, kind: str, generator: np.random.Generator) -> str:
        """Let an event of this kind happen (a move, if none can); returns the sentence."""
        event = pick(self._possible(kind) or self._possible("move"), generator)
        person, thing = event.person, event.thing
        match event.kind:
            case "take":
                self.holder[thing] = person
                self._come(thing, self.places_of[person][-1])
                return f"{person} {pick(TOOK, generator)} the {thing} ."
            case "leave":
                del self.holder[thing]
                return f"{person} {pick(LEFT, generator)} the {thing} ."
            case "give":
                del self.holder[thing]
                self.holder[thing] = event.to
                self.gifts.append((person, thing, event.to))
                return f"{person} gave the {thing} to {event.to} ."
            case _:
                self.places_of.setdefault(person, []).append(event.to)
                for each in self.carried(person):
                    self._come(each, event.to)
                return f"{person} {pick(WALKED, generator)} to the {event.to} ."

    def _come(self, thing: str, place: str) -> None:
        places = self.places_of_thing.setdefault(thing, [])
        if places[-1:] != [place]:
            places.append(place)

    def _possible(self, kind: str) -> list[Event]:
        here = {person: places[-1] for person, places in self.places_of.items()}
        match kind:
            case "take":
                lying = [thing for thing in self.things if thing not in self.holder]
                return [
                    Event("take", person, thing)
                    for person, place in here.items()
                    for thing in lying
                    if self.places_of_thing.get(thing, [place])[-1] == place
                    and len(self.carried(person)) < LOAD
                ]
            case "leave":
                return [Event("leave", person, thing) for thing, person in self.holder.items()]
            case "give":
                return [
                    Event("give", giver, thing, taker)
                    for thing, giver in self.holder.items()
                    for taker, place in here.items()
                    if taker != giver and place == here[giver] and len(self.carried(taker)) < LOAD
                ]
            case _:
                return [
                    Event("move", person, to=place)
                    for person in self.people
                    for place in self.places
                    if here.get(person) != place
                ]


def pick(choices: Sequence[Choice], generator: np.random.Generator) -> Choice:
    """A random choice."""
    return choices[int(generator.integers(len(choices)))]


def some(choices: Sequence[Choice], count: int, generator: np.random.Generator) -> list[Choice]:
    """``count`` different choices, in random order."""
    return [choices[index] for index in generator.permutation(len(choices))[:count]]
