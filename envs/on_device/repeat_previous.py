"""``RepeatPrevious`` as tensors: one step is a function of tensors, and asks the host nothing.

Only suits are seen, so a deck is four numbers: how many cards of each suit are left. The next suit
is drawn in proportion to them, which is what dealing from a shuffled deck does. Random numbers are
those of SplitMix64 (Steele et al. 2014), one stream for each environment: equal seeds give equal
cards on every device.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from envs.tasks.cards import DECK_SIZE, SUITS
from envs.tasks.repeat_previous import RepeatPrevious
from envs.vector import DEFAULT_FPS, EnvStep, Restored, VectorEnv
from envs.workers.replay import check_fit

# the constants of SplitMix64, as signed numbers: tensors have no unsigned ones
STRIDE, FIRST, SECOND = (
    number - 2**64 for number in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


class Cards(NamedTuple):
    """N episodes between two steps."""

    # where each stream of random numbers is
    stream: Int[Tensor, " N"]
    # the cards of each suit that are still to be dealt
    left: Int[Tensor, "N suits"]
    # the suits of the last k cards, the one on the table last
    recent: Int[Tensor, "N k"]
    time: Int[Tensor, " N"]
    mistakes: Int[Tensor, " N"]


class TensorStep(NamedTuple):
    """``EnvStep`` as tensors, of which only the rows of episodes that ended may count."""

    observation: Int[Tensor, " N"]
    reward: Float[Tensor, " N"]
    terminated: Bool[Tensor, " N"]
    # no time limit ends an episode
    truncated: None
    final_observation: Int[Tensor, " N"]
    success: Bool[Tensor, " N"]
    faults: Mapping[int, str]


class Rules(NamedTuple):
    """The task at one of its levels."""

    k: int
    length: int
    cards_of_a_suit: int

    def opened(self, stream: Int[Tensor, " N"]) -> Cards:
        """New episodes of these streams, with the first card on the table."""
        count, zeros = len(stream), torch.zeros_like(stream)
        full = torch.full((count, len(SUITS)), self.cards_of_a_suit, device=stream.device)
        stream, left, suit = deal(stream, full)
        recent = torch.zeros(count, self.k, dtype=torch.int64, device=stream.device)
        return Cards(stream, left, _shown(recent, suit), zeros, zeros.clone())

    def advance(self, cards: Cards, action: Int[Tensor, " N"]) -> tuple[Cards, TensorStep]:
        """The answers of all environments, and their next cards; nothing given is changed."""
        asked = cards.time >= self.k - 1
        right = action == cards.recent[:, 0]
        prize = 1 / (self.length + 1 - self.k)
        reward = torch.where(right, prize, -prize).masked_fill(~asked, 0.0).float()
        mistakes = cards.mistakes + (asked & ~right)
        stream, left, suit = deal(cards.stream, cards.left)
        ended = cards.time + 1 == self.length
        opened = self.opened(stream)
        shown = Cards(opened.stream, left, _shown(cards.recent, suit), cards.time + 1, mistakes)
        now = Cards(*(_where(ended, new, old) for new, old in zip(opened, shown, strict=True)))
        step = TensorStep(now.recent[:, -1], reward, ended, None, suit, mistakes == 0, {})
        return now, step


def deal(
    stream: Int[Tensor, " N"], left: Int[Tensor, "N suits"]
) -> tuple[Int[Tensor, " N"], Int[Tensor, "N suits"], Int[Tensor, " N"]]:
    """The next card's suit: the stream and the cards that are left after it, and the suit."""
    stream = stream + STRIDE
    # of 63 bits, which are not negative
    drawn = _shifted(mixed(stream), 1) % left.sum(dim=-1)
    suit = (drawn.unsqueeze(-1) >= left.cumsum(dim=-1)).sum(dim=-1)
    suits = torch.arange(left.shape[1], device=left.device)
    return stream, left - (suits == suit.unsqueeze(-1)).long(), suit


def mixed(x: Int[Tensor, "*any"]) -> Int[Tensor, "*any"]:
    """Random bits of SplitMix64, from a counter."""
    x = (x ^ _shifted(x, 30)) * FIRST
    x = (x ^ _shifted(x, 27)) * SECOND
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Shifted to the right, with zeros from the left: that of tensors repeats the sign."""
    return (x >> bits) & (2 ** (64 - bits) - 1)


def _shown(recent: Int[Tensor, "N k"], suit: Int[Tensor, " N"]) -> Int[Tensor, "N k"]:
    return torch.cat([recent[:, 1:], suit.unsqueeze(-1)], dim=-1)


def _where(rows: Bool[Tensor, " N"], new: Tensor, old: Tensor) -> Tensor:
    return torch.where(rows.view(-1, *(1,) * (old.dim() - 1)), new, old)


class RepeatPreviousOnDevice(VectorEnv):
    """N environments on the device of the actions: ``step_on_device`` takes and returns tensors."""

    render_fps = DEFAULT_FPS

    def __init__(self, num_envs: int = 1, **parameters: Any) -> None:
        """The task at one of its levels.

        Args:
            num_envs: Environments stepped together.
            parameters: Those of ``RepeatPrevious``.
        """
        task = RepeatPrevious(1, **parameters)
        self.num_envs = num_envs
        self.observation_space, self.action_space = task.observation_space, task.action_space
        of_a_suit = task.num_decks * DECK_SIZE // len(SUITS)
        self.rules = Rules(task.k, task.length, of_a_suit)
        self.cards = self.rules.opened(
            _streams(int(np.random.default_rng().integers(2**62)), num_envs)
        )

    @override
    def reset(self, seed: int | None = None) -> NDArray[Any]:
        stream = self.cards.stream if seed is None else _streams(seed, self.num_envs)
        self.cards = self.rules.opened(stream)
        return self._table()

    def step_on_device(self, action: Int[Tensor, " N"]) -> TensorStep:
        """Step every environment, on the device of the actions, without asking it anything."""
        if self.cards.stream.device != action.device:
            self.cards = Cards(*(leaf.to(action.device) for leaf in self.cards))
        self.cards, step = self.rules.advance(self.cards, action)
        return step

    @override
    def step(self, action: NDArray[Any]) -> EnvStep:
        given = torch.as_tensor(action, dtype=torch.int64, device=self.cards.stream.device)
        step = self.step_on_device(given)
        shown, reward, ended, final, success = (
            leaf.cpu().numpy() for leaf in step[:6] if leaf is not None
        )
        never, over = np.zeros_like(ended), ended.any()
        return EnvStep(
            shown, reward, ended, never, final if over else None, success if over else None
        )

    @override
    def render(self) -> None:
        return None

    @override
    def state(self) -> dict[str, NDArray[Any]]:
        arrays = {name: leaf.cpu().numpy().copy() for name, leaf in self.cards._asdict().items()}
        return {**arrays, "exact": np.ones(self.num_envs, np.bool_)}

    @override
    def restore(self, state: Mapping[str, NDArray[Any]]) -> Restored:
        check_fit(state, self.state())
        arrays = (state[name].copy() for name in Cards._fields)
        self.cards = Cards(*map(torch.as_tensor, arrays))
        return Restored(np.zeros(self.num_envs, np.bool_), self._table())

    @override
    def close(self) -> None:
        pass

    def _table(self) -> NDArray[Any]:
        """The cards on the table."""
        return self.cards.recent[:, -1].cpu().numpy().copy()


def _streams(seed: int, num_envs: int) -> Int[Tensor, " N"]:
    """The streams of environments seeded by ``seed``, ``seed + 1`` and so on."""
    seeds = [(int(seed) + row + 2**63) % 2**64 - 2**63 for row in range(num_envs)]
    return mixed(torch.tensor(seeds))
