"""Playing cards as numbers: suit, rank and colour are functions of the number.

The order of cards and the way a deck is shuffled and dealt are those of POPGym (Morad et al. 2023):
the same seed deals the same cards.
"""

import numpy as np
from jaxtyping import Int

Cards = Int[np.ndarray, " cards"]

DECK_SIZE = 52
SUITS = ("spades", "diamonds", "clubs", "hearts")
RANKS = ("A", "2", "3", "4", "5", "6", "7", "8", "9", "10", "J", "Q", "K")
COLORS = ("black", "red")


def shuffled(num_decks: int, generator: np.random.Generator) -> Cards:
    """All the cards of ``num_decks`` decks shuffled together, in the order they are dealt."""
    deck = np.arange(num_decks * DECK_SIZE)
    generator.shuffle(deck)
    # dealt from the end
    return deck[::-1]


def suits(cards: Cards) -> Cards:
    """Indices into ``SUITS``."""
    return cards % len(SUITS)


def ranks(cards: Cards) -> Cards:
    """Indices into ``RANKS``."""
    return cards % DECK_SIZE // len(SUITS)


def colors(cards: Cards) -> Cards:
    """Indices into ``COLORS``."""
    return cards % len(COLORS)
