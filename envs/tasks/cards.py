"""Playing cards as numbers: suit, rank and colour are functions of the number.

The order of cards and the way a deck is shuffled and dealt are those of POPGym (Morad et al. 2023):
the same seed deals the same cards.
"""

import numpy as np
from jaxtyping import Int

Cards = Int[np.ndarray, " cards"]

DECK_SIZE = 52
NUM_SUITS = 4
NUM_RANKS = 13
NUM_COLORS = 2


def shuffled(num_decks: int, generator: np.random.Generator) -> Cards:
    """All the cards of ``num_decks`` decks shuffled together, in the order they are dealt."""
    deck = np.arange(num_decks * DECK_SIZE)
    generator.shuffle(deck)
    # dealt from the end
    return deck[::-1]


def suits(cards: Cards) -> Cards:
    """0 to 3: spades, diamonds, clubs, hearts."""
    return cards % NUM_SUITS


def ranks(cards: Cards) -> Cards:
    """0 to 12: ace to king."""
    return cards % DECK_SIZE // NUM_SUITS


def colors(cards: Cards) -> Cards:
    """0 to 1: black, red."""
    return cards % NUM_COLORS
