"""Say how often a card was shown so far (POPGym, Morad et al. 2023)."""

import numpy as np
from gymnasium import spaces
from typing_extensions import override

from envs.tasks import cards
from envs.tasks.drawing.pictures import Card
from envs.tasks.parameters import choose, setting
from envs.tasks.question_task import QuestionTask, Script, Seen

# number of decks, and the property of cards that is counted
LEVELS = {"easy": (1, "colors"), "medium": (2, "suits"), "hard": (4, "ranks")}


class CountRecall(QuestionTask):
    """Two decks are shown card by card; the answer is a count of the first deck's cards so far.

    An observation is (shown, asked for): how many cards of the second one's kind did the first deck
    show, the present card included?
    """

    def __init__(
        self,
        num_envs: int = 1,
        level: str = "easy",
        num_decks: int | None = None,
        kind: str | None = None,
    ) -> None:
        """The task at one of its levels.

        Args:
            num_envs: Environments stepped together.
            level: "easy", "medium" or "hard" as in POPGym.
            num_decks: How many decks are dealt, instead of the level's number.
            kind: By what cards are told apart, instead of the level's: "colors", "suits" or
                "ranks".
        """
        level_decks, level_kind = choose("CountRecall: level", level, LEVELS)
        self.num_decks = setting("CountRecall: num_decks", num_decks, level_decks, 1)
        self._kind_of, self.kinds = choose(
            "CountRecall: kind", level_kind if kind is None else kind, cards.KINDS
        )
        num_kinds = len(self.kinds)
        num_cards = self.num_decks * cards.DECK_SIZE
        pair = spaces.MultiDiscrete([num_kinds, num_kinds])
        counts = [str(count) for count in range(num_cards // num_kinds + 1)]
        super().__init__(num_envs, pair, counts, length=num_cards - 1, num_questions=num_cards - 1)

    @override
    def script(self, generator: np.random.Generator) -> Script:
        shown = self._kind_of(cards.shuffled(self.num_decks, generator))
        asked = self._kind_of(cards.shuffled(self.num_decks, generator))
        counts = np.cumsum(shown[:, None] == np.arange(len(self.kinds)), axis=0)
        answers = counts[np.arange(len(asked)), asked]
        return np.stack([shown, asked], axis=1), answers[: self.length]

    @override
    def on_table(self, seen: Seen, time: int) -> list[Card]:
        shown, asked = seen[time].tolist()
        return [Card(self.kinds[shown], "shown now"), Card(self.kinds[asked], "asked for")]

    @override
    def question(self, time: int) -> str:
        return "How often was it shown so far?"
