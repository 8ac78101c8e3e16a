"""Say whether the next card is higher or lower than this one (POPGym, Morad et al. 2023)."""

import numpy as np
from gymnasium import spaces
from typing_extensions import override

from envs.tasks import cards
from envs.tasks.drawing.pictures import Card
from envs.tasks.parameters import choose, setting
from envs.tasks.question_task import NOT_ASKED, QuestionTask, Script, Seen

# how many decks are shuffled together
LEVELS = {"easy": 1, "medium": 2, "hard": 3}
HIGHER, LOWER = range(2)


class HigherLower(QuestionTask):
    """A deck is dealt card by card; before each but the first, say whether it ranks higher (0).

    An observation is the rank of the card that was dealt last, aces low. The answer before a card
    of the same rank earns nothing and loses nothing. Much is luck, and no episode is called a
    success; who remembers which cards are gone guesses a little better than who does not.
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
        decks = choose("HigherLower: level", level, LEVELS)
        self.num_decks = setting("HigherLower: num_decks", num_decks, decks, 1)
        num_cards = self.num_decks * cards.DECK_SIZE
        ranks = spaces.Discrete(len(cards.RANKS))
        # as in POPGym, where the first card counts although nothing is asked before it
        super().__init__(
            num_envs, ranks, ("higher", "lower"), length=num_cards - 1, num_questions=num_cards
        )

    @override
    def script(self, generator: np.random.Generator) -> Script:
        ranks = cards.ranks(cards.shuffled(self.num_decks, generator))
        change = np.diff(ranks)
        answers = np.where(change > 0, HIGHER, LOWER)
        answers[change == 0] = NOT_ASKED
        return ranks, answers

    @override
    def on_table(self, seen: Seen, time: int) -> list[Card]:
        return [Card(cards.RANKS[seen[time]], "dealt last")]

    @override
    def question(self, time: int) -> str:
        return "Is the next card higher or lower?"

    @override
    def waiting(self) -> str:
        # the title must not tell that the next card is as high as this one
        return self.question(0)

    @override
    def success(self) -> None:
        return None
