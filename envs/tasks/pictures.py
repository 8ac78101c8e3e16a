"""Pictures of the tasks for people: what a video of an agent shows.

A task hands over what there is to see; nothing here knows the rules of a task.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from envs.tasks.sheet import (
    BLUE,
    FAINT,
    GRAY,
    GREEN,
    INK,
    MARGIN,
    NOTE_Y,
    PALE_BLUE,
    RED,
    WHITE,
    WIDTH,
    Color,
    Picture,
    Point,
    Sheet,
)


class Card(NamedTuple):
    """What lies on the table: a symbol, and what is written below it."""

    symbol: str
    caption: str


class Answer(NamedTuple):
    """What the agent answered last, and what would have been right; None if nothing was asked."""

    given: str
    right: str | None


def table(
    title: str, cards: Sequence[Card], answer: Answer | None, time_left: float
) -> Picture:
    """Cards side by side and the last answer below them, if there was one."""
    sheet = Sheet(title, time_left)
    width, height, gap, top = 84, 104, 32, 48
    left = (WIDTH - len(cards) * (width + gap) + gap) / 2
    for number, card in enumerate(cards):
        x = left + number * (width + gap)
        edge = BLUE if card.symbol == "?" else GRAY
        sheet.box((x, top), (width, height), WHITE, edge, radius=9)
        sheet.symbol((x + width / 2, top + height / 2), card.symbol, 25)
        sheet.text((x + width / 2, top + height + 14), card.caption, 12, GRAY)
    if answer is not None:
        _draw_answer(sheet, answer)
    return sheet.pixels()


def _draw_answer(sheet: Sheet, answer: Answer) -> None:
    right = answer.given == answer.right
    asked = answer.right is not None
    x = WIDTH / 2 if right or not asked else WIDTH / 2 - 52
    sheet.text((x - 44, NOTE_Y), "answered" if asked else "not asked:", 13, GRAY)
    sheet.symbol((x + 8, NOTE_Y), answer.given, 10)
    if answer.right is None:
        return
    sheet.mark((x + 40, NOTE_Y), right)
    if not right:
        sheet.text((x + 94, NOTE_Y), "it was", 13, GRAY)
        sheet.symbol((x + 136, NOTE_Y), answer.right, 10)


class Maze(NamedTuple):
    """A T-maze of so many squares with an agent in one of them, counted from 0 at the start."""

    squares: int
    position: int
    cue: int
    """Which arm is right: 0 the upper, 1 the lower."""
    cue_is_seen: bool
    arm: int | None
    """The arm into which the agent turned; None before that."""
    time_left: float


def t_maze(maze: Maze) -> Picture:
    """The corridor from left to right, its end, the sign at the start and the agent."""
    sheet = Sheet("Turn at the end as the sign at the start said", maze.time_left)
    middle, thick = 118, 30
    pitch = min(thick, (WIDTH - 2 * MARGIN - thick) / (maze.squares - 1))
    start = (WIDTH - pitch * (maze.squares - 1)) / 2
    junction = start + pitch * (maze.squares - 1)
    signs = (-1, 1)
    for arm, sign in enumerate(signs):
        fill = WHITE
        if arm == maze.cue:
            fill = (214, 240, 224)
        sheet.box((junction - thick / 2, middle + sign * 1.25 * thick - thick), (thick, 2 * thick), fill, GRAY)
    sheet.box((start - thick / 2, middle - thick / 2), (junction - start + thick, thick), WHITE, GRAY)
    if pitch == thick:
        pass
    return sheet.pixels()
