"""Playing cards as numbers: suit, rank and colour are functions of the number.

Cards are ordered, shuffled and dealt as in POPGym (Morad et al. 2023): equal seeds, equal cards.
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


# by name: the function that tells the kind of a card, and the names of the kinds
KINDS = {"colors": (colors, COLORS), "suits": (suits, SUITS), "ranks": (ranks, RANKS)}
