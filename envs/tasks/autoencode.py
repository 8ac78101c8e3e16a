"""Watch a deck, then say its suits backwards (POPGym, Morad et al. 2023)."""

import numpy as np
from gymnasium import spaces
from typing_extensions import override

from envs.tasks import cards
from envs.tasks.drawing.pictures import Card
from envs.tasks.parameters import choose, setting
from envs.tasks.question_task import NOT_ASKED, QuestionTask, Script, Seen

# how many decks are dealt
LEVELS = {"easy": 1, "medium": 2, "hard": 3}

PLAY, WATCH = 0, 1


class Autoencode(QuestionTask):
    """All the cards are shown one by one, then their suits are asked for, the last one first.

    An observation is (mode, suit). The mode is 1 while the agent only watches, and 0 when it is
    asked: from the moment when it sees the last card. After that no suit is shown but 0.
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
        decks = choose("Autoencode: level", level, LEVELS)
        self.num_decks = setting("Autoencode: num_decks", num_decks, decks, 1)
        self.num_cards = self.num_decks * cards.DECK_SIZE
        suit = spaces.Discrete(len(cards.SUITS))
        observation = spaces.Tuple((spaces.Discrete(2), suit))
        super().__init__(
            num_envs,
            observation,
            cards.SUITS,
            length=2 * self.num_cards - 1,
            num_questions=self.num_cards,
        )

    @override
    def script(self, generator: np.random.Generator) -> Script:
        suits = cards.suits(cards.shuffled(self.num_decks, generator))
        last_card = len(suits) - 1
        seen = np.zeros((self.length + 1, 2), dtype=np.int64)
        seen[:last_card, 0] = WATCH
        seen[last_card:, 0] = PLAY
        seen[: len(suits), 1] = suits
        answers = np.full(self.length, NOT_ASKED)
        answers[last_card:] = suits[::-1]
        return seen, answers

    @override
    def on_table(self, seen: Seen, time: int) -> list[Card]:
        if time < self.num_cards:
            return [Card(cards.SUITS[seen[time, 1]], f"card {time + 1} of {self.num_cards}")]
        return [Card("?", "")]

    @override
    def question(self, time: int) -> str:
        return f"Which suit had card {self.length - time}?"
