"""Say again and again the suit of the first card (POPGym, Morad et al. 2023)."""

import numpy as np
from gymnasium import spaces
from typing_extensions import override

from envs.tasks import cards
from envs.tasks.drawing.pictures import Card
from envs.tasks.parameters import choose, setting
from envs.tasks.question_task import QuestionTask, Script, Seen

# how many decks are dealt
LEVELS = {"easy": 1, "medium": 8, "hard": 16}


class RepeatFirst(QuestionTask):
    """Cards are shown one by one; the answer is always the suit of the episode's first.

    The first card looks like any other; only its time step marks it.
    """

    def __init__(
        self, num_envs: int = 1, level: str = "easy", num_decks: int | None = None
    ) -> None:
        """The task at one of its levels.

        Args:
            num_envs: Environments stepped together.
            level: "easy", "medium" or "hard" as in POPGym.
            num_decks: How many decks are dealt, instead of the level's number.
        """
        decks = choose("RepeatFirst: level", level, LEVELS)
        self.num_decks = setting("RepeatFirst: num_decks", num_decks, decks, 1)
        length = self.num_decks * cards.DECK_SIZE - 1
        suit = spaces.Discrete(len(cards.SUITS))
        super().__init__(num_envs, suit, cards.SUITS, length, num_questions=length)

    @override
    def script(self, generator: np.random.Generator) -> Script:
        seen = cards.suits(cards.shuffled(self.num_decks, generator))
        return seen, np.full(self.length, seen[0])

    @override
    def on_table(self, seen: Seen, time: int) -> list[Card]:
        return [Card(cards.SUITS[seen[time]], f"card {time + 1}")]

    @override
    def question(self, time: int) -> str:
        return "Which suit had the first card?"
