"""Say the suit of the card that was shown some cards ago (POPGym, Morad et al. 2023)."""

import numpy as np
from gymnasium import spaces
from typing_extensions import override

from envs.tasks import cards
from envs.tasks.drawing.pictures import Card
from envs.tasks.parameters import choose, setting
from envs.tasks.question_task import NOT_ASKED, QuestionTask, Script, Seen

# how many decks are dealt, and k
LEVELS = {"easy": (1, 4), "medium": (2, 32), "hard": (3, 64)}


class RepeatPrevious(QuestionTask):
    """Cards are shown one by one; the answer is the suit of the k-th last of them.

    The card on the table counts: with k = 1 its own suit is asked for, with k = 4 that of the card
    three before it. Until k cards were shown, nothing is asked.
    """

    def __init__(
        self,
        num_envs: int = 1,
        level: str = "easy",
        k: int | None = None,
        num_decks: int | None = None,
    ) -> None:
        """The task at one of its levels.

        Args:
            num_envs: Environments stepped together.
            level: "easy", "medium" or "hard" as in POPGym.
            k: How far back to remember, instead of the level's number.
            num_decks: How many decks are dealt, instead of the level's number.
        """
        level_decks, level_k = choose("RepeatPrevious: level", level, LEVELS)
        self.num_decks = setting("RepeatPrevious: num_decks", num_decks, level_decks, 1)
        length = self.num_decks * cards.DECK_SIZE - 1
        self.k = setting("RepeatPrevious: k", k, level_k, 1, length)
        suit = spaces.Discrete(len(cards.SUITS))
        num_questions = length + 1 - self.k
        super().__init__(num_envs, suit, cards.SUITS, length, num_questions)

    @override
    def script(self, generator: np.random.Generator) -> Script:
        seen = cards.suits(cards.shuffled(self.num_decks, generator))
        answers = np.full(self.length, NOT_ASKED)
        answers[self.k - 1 :] = seen[: self.length + 1 - self.k]
        return seen, answers

    @override
    def on_table(self, seen: Seen, time: int) -> list[Card]:
        return [Card(cards.SUITS[seen[time]], f"card {time + 1}")]

    @override
    def question(self, time: int) -> str:
        return f"Which suit had card {time + 2 - self.k}?"
