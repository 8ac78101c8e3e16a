"""Find pairs of cards that lie face down, two cards at a time (POPGym, Morad et al. 2023)."""

import math
from collections.abc import Sequence

import numpy as np
from gymnasium import spaces
from jaxtyping import Bool, Int, Int64
from typing_extensions import override

from envs.tasks import cards
from envs.tasks.batched import BatchedTask, Outcome, constant
from envs.tasks.drawing.canvas import Picture
from envs.tasks.drawing.pictures import PairsTable, table_of_pairs
from envs.tasks.parameters import choose, in_range, setting

# number of decks on the table, and the property that makes two cards a pair
LEVELS = {"easy": (1, "colors"), "medium": (2, "colors"), "hard": (1, "ranks")}

# not suits, which have thirteen cards each, an odd number
KINDS = {kind: cards.KINDS[kind] for kind in ("colors", "ranks")}

NO_CARD = -1


class Concentration(BatchedTask):
    """An action turns the card at one place; two that match stay face up, others are turned back.

    An observation is the kind of the card at each place, or their number where it lies face down;
    the cards of the present turn are seen until the next action. A pair earns one over the number
    of pairs. An action on a card that is up already ends the turn; that and two cards that do not
    match lose one over the longest episode for every card turned. Returns lie in [-1, 1).

    Finding all pairs terminates and succeeds; the clock truncates.
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
            num_decks: How many decks lie on the table, instead of the level's number.
            kind: What makes two cards a pair, instead of the level's: "colors" or "ranks".
        """
        self.num_envs = in_range("Concentration: num_envs", num_envs, 1)
        level_decks, level_kind = choose("Concentration: level", level, LEVELS)
        self.num_decks = setting("Concentration: num_decks", num_decks, level_decks, 1)
        self._kind_of, self.kinds = choose(
            "Concentration: kind", level_kind if kind is None else kind, KINDS
        )
        num_cards = self.num_decks * cards.DECK_SIZE
        # POPGym's limit
        self.max_steps = math.ceil(2 * num_cards - num_cards / (2 * num_cards - 1))
        self.observation_space = spaces.MultiDiscrete([len(self.kinds) + 1] * num_cards)
        self.action_space = spaces.Discrete(num_cards)
        self._prize = 2 / num_cards
        self._kinds = np.zeros((num_envs, num_cards), dtype=np.int64)
        self._matched = np.zeros((num_envs, num_cards), dtype=bool)
        # the places of this turn's cards, and whether the second card is yet to be turned
        self._turned = np.full((num_envs, 2), NO_CARD)
        self._one_turned = np.zeros(num_envs, dtype=bool)
        self._time = np.zeros(num_envs, dtype=np.int64)
        self._rows = constant(np.arange(num_envs))

    @override
    def begin(self, rows: Int[np.ndarray, " R"], generators: Sequence[np.random.Generator]) -> None:
        for row, generator in zip(rows, generators, strict=True):
            # laid out in the order of the deck, which is dealt from its end
            deck = cards.shuffled(self.num_decks, generator)[::-1]
            self._kinds[row] = self._kind_of(deck)
        self._matched[rows] = False
        self._turned[rows] = NO_CARD
        self._one_turned[rows] = False
        self._time[rows] = 0

    @override
    def advance(self, action: Int[np.ndarray, " N"]) -> Outcome:
        second = self._one_turned
        first_place = np.where(second, self._turned[:, 0], action)
        self._turned = np.stack([first_place, np.where(second, action, NO_CARD)], axis=1)
        is_up = self._matched[self._rows, action]
        kinds = self._kinds[self._rows[:, None], np.stack([first_place, action], axis=1)]
        match = second & ~is_up & (first_place != action) & (kinds[:, 0] == kinds[:, 1])
        places = self._turned[match]
        self._matched[self._rows[match, None], places] = True
        self._one_turned = ~second & ~is_up
        price = np.where(self._one_turned, 0.0, -(1 + second) / self.max_steps)
        reward = np.where(match, self._prize, price).astype(np.float32)
        self._time += 1
        return reward, self.success(), self._time >= self.max_steps

    @override
    def observe(self) -> Int64[np.ndarray, "N places"]:
        return np.where(self._face_up(), self._kinds, len(self.kinds))

    @override
    def picture(self, row: int) -> Picture:
        pairs = PairsTable(
            symbols=[self.kinds[kind] for kind in self._kinds[row].tolist()],
            matched=self._matched[row],
            turned=self._turned[row],
            time_left=1 - int(self._time[row]) / self.max_steps,
        )
        return table_of_pairs(pairs)

    @override
    def success(self) -> Bool[np.ndarray, " N"]:
        return np.logical_and.reduce(self._matched, axis=1)

    def _face_up(self) -> Bool[np.ndarray, "N places"]:
        places = np.arange(self._matched.shape[1])
        first, second = self._turned.T[:, :, None]
        return self._matched | (places == first) | (places == second)
