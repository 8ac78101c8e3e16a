"""Checks of the parameters of tasks; an error is one line that says what would be right."""

from collections.abc import Mapping
from typing import TypeVar

Choice = TypeVar("Choice")
Number = TypeVar("Number", int, float)


def choose(place: str, name: str, choices: Mapping[str, Choice]) -> Choice:
    """The entry ``name`` of ``choices``; ``place`` says whose parameter it is."""
    if name not in choices:
        raise ValueError(f"{place} is {name!r}; it should be one of {', '.join(choices)}")
    return choices[name]


def in_range(place: str, value: Number, lowest: Number, highest: Number | None = None) -> Number:
    """``value``, if it lies between the two bounds, both included; no upper bound if None."""
    if not lowest <= value or (highest is not None and value > highest):
        right = f"at least {lowest}" if highest is None else f"between {lowest} and {highest}"
        raise ValueError(f"{place} is {value!r}; it should be {right}")
    return value


def setting(
    place: str,
    given: Number | None,
    of_level: Number,
    lowest: Number,
    highest: Number | None = None,
) -> Number:
    """The given number or, if it is None, that of the level, checked to be in range."""
    return in_range(place, of_level if given is None else given, lowest, highest)
