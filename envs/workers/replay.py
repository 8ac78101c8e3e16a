"""Recording of episodes for replay: the seed of each, and its actions.

Foreign environments have no access to their state. But with the same seed and actions they do the
same, so the actions can be saved instead. Every episode has a seed of its own, and can be replayed
without those before it.
"""

import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np
from gymnasium import spaces
from jaxtyping import Bool, Int64
from numpy.typing import NDArray

from envs.vector import leaves

# arrays by name; all but "actions" have a leading axis over the N slots
State: TypeAlias = dict[str, NDArray[Any]]

# every emulator and generator takes seeds of 31 bits
SEED_BITS = 31
# seeds of consecutive episodes that are drawn together
BLOCK = 64
# time steps whose actions are kept together
ROWS = 1024


def episode_seed(seed: int, episode: int) -> int:
    """The seed of an episode: the slot's own for the first, then a hash of it and the number."""
    if episode == 0:
        return seed
    return _seeds(seed, episode // BLOCK)[episode % BLOCK]


# drawing a block of seeds takes as long as drawing one, and short episodes open often
@lru_cache(maxsize=1024)
def _seeds(seed: int, block: int) -> list[int]:
    words = np.random.SeedSequence([seed, block]).generate_state(BLOCK)
    return (words >> (32 - SEED_BITS)).tolist()


class Recording(NamedTuple):
    """Seeds and actions of running episodes as they were at one time; nothing later changes them.

    It is made at once, however long the episodes are: it shares the blocks of the log, in which no
    row is ever written again.
    """

    seed: Int64[np.ndarray, " N"]
    episode: Int64[np.ndarray, " N"]
    steps: Int64[np.ndarray, " N"]
    longest: int
    none: NDArray[Any]
    """No actions of all slots, ``[0 N *A]``."""
    blocks: tuple[NDArray[Any], ...]
    """Actions of all slots by time, ``[ROWS N *A]`` each."""
    rows: int
    """Rows of all blocks together that are written; a slot's episode is in the last of them."""

    def actions(self, slot: int) -> NDArray[Any]:
        """The actions of a slot's running episode, in order."""
        many = np.zeros_like(self.steps)
        many[slot] = self.steps[slot]
        return self._last(many)

    def state(self) -> State:
        """The log as arrays; an episode that is too long has no actions, and ``exact`` is False."""
        exact = self.steps <= self.longest
        length = np.where(exact, self.steps, 0)
        return {
            "seed": self.seed.copy(),
            "episode": self.episode.copy(),
            "exact": exact,
            "length": length,
            "actions": self._last(length),
        }

    def _last(self, length: Int64[np.ndarray, " N"]) -> NDArray[Any]:
        """So many last actions of each slot, one slot after the other."""
        ends = np.cumsum(length).tolist()
        actions = np.empty((ends[-1], *self.none.shape[2:]), self.none.dtype)
        # block after block: slot after slot would read all blocks for each of them
        for block, start in zip(self.blocks, range(0, self.rows, ROWS), strict=True):
            stop = min(start + ROWS, self.rows)
            for slot, (many, end) in enumerate(zip(length.tolist(), ends, strict=True)):
                first, shift = max(start, self.rows - many), end - self.rows
                if first < stop:
                    piece = block[first - start : stop - start, slot]
                    actions[first + shift : stop + shift] = piece
        return actions


class EpisodeLog:
    """Seeds and actions of the running episodes of N slots.

    At most ``longest`` actions of an episode are recorded; a longer one cannot be replayed.
    """

    def __init__(self, num_envs: int, action_space: spaces.Space[Any], longest: int) -> None:
        self.longest = longest
        # seed of each slot, and the number of its episode, from 0
        self.seed: Int64[np.ndarray, " N"] = np.zeros(num_envs, np.int64)
        self.episode: Int64[np.ndarray, " N"] = np.full(num_envs, -1)
        # actions since the episode opened
        self.steps: Int64[np.ndarray, " N"] = np.zeros(num_envs, np.int64)
        self._slots = np.arange(num_envs)
        self._none = np.zeros((0, num_envs, *(action_space.shape or ())), action_space.dtype)
        # blocks that hold an action of a running episode; the last one has room, unless it is full
        self._blocks: list[NDArray[Any]] = []
        self._rows = 0

    def restart(self, seed: int | None) -> None:
        """Begin with seed ``seed + i`` and episode 0 in slot i; None: with the next episode."""
        num_envs = len(self.seed)
        if seed is None and self.episode[0] >= 0:
            self.next(self._slots)
            return
        if seed is None:
            seed = int(np.random.default_rng().integers(2**SEED_BITS - num_envs))
        self.seed = seed % (2**63 - num_envs) + np.arange(num_envs)
        self.episode[:] = 0
        self.steps[:] = 0

    def next(self, slots: Any) -> None:
        """Begin the next episode in these slots."""
        self.episode[slots] += 1
        self.steps[slots] = 0

    def episode_seed(self, slot: int) -> int:
        """The seed of a slot's running episode."""
        return episode_seed(int(self.seed[slot]), int(self.episode[slot]))

    def record(self, action: NDArray[Any]) -> None:
        """Record one action for every slot."""
        if self.longest:
            row = self._rows % ROWS
            if row == 0:
                self._open_block()
            self._blocks[-1][row] = action
            self._rows += 1
        self.steps += 1

    def _open_block(self) -> None:
        """Add a block, and let go of those before all episodes that can be replayed."""
        needed = int(self.steps[self.steps <= self.longest].max(initial=0))
        spare = len(self._blocks) - -(-needed // ROWS)
        del self._blocks[:spare]
        self._rows = len(self._blocks) * ROWS
        self._blocks.append(np.zeros((ROWS, *self._none.shape[1:]), self._none.dtype))

    def recording(self) -> Recording:
        """The log as it is now."""
        arrays = self.seed.copy(), self.episode.copy(), self.steps.copy()
        return Recording(*arrays, self.longest, self._none, tuple(self._blocks), self._rows)

    def actions(self, slot: int) -> NDArray[Any]:
        """The actions of a slot's running episode, in order."""
        return self.recording().actions(slot)

    def describe(self, slot: int) -> str:
        """The position of a slot, in words, for error messages."""
        return f"episode seed {self.episode_seed(slot)}, after {self.steps[slot]} actions"

    def state(self) -> State:
        """The log as arrays; an episode that is too long has no actions, and ``exact`` is False."""
        return self.recording().state()

    def load(self, state: Mapping[str, NDArray[Any]]) -> Bool[np.ndarray, " N"]:
        """Load a state; True for the slots whose actions are complete.

        Raises:
            ValueError: If the state is of other slots or actions.
        """
        own = self.state()
        check_fit(state, {**own, "actions": state.get("actions", own["actions"])})
        length, actions = state["length"], state.get("actions", own["actions"][:0])
        wanted = (int(length.sum()), *self._none.shape[2:])
        if actions.dtype != self._none.dtype or actions.shape != wanted or length.min() < 0:
            raise ValueError(_misfit("actions", actions, self._none.dtype, wanted))
        if min(state["seed"].min(), state["episode"].min()) < 0:
            raise ValueError("state of environments: these were never reset")
        self.seed, self.episode = state["seed"].copy(), state["episode"].copy()
        self.steps = length.copy()
        self._rows, self._blocks = int(length.max()), []
        parts = np.split(actions, np.cumsum(length)[:-1])
        for start in range(0, self._rows, ROWS):
            self._blocks.append(np.zeros((ROWS, *self._none.shape[1:]), self._none.dtype))
            for slot, part in enumerate(parts):
                # all episodes end in the last row
                begin = self._rows - len(part)
                piece = part[max(start - begin, 0) : max(start + ROWS - begin, 0)]
                row = max(begin - start, 0)
                self._blocks[-1][row : row + len(piece), slot] = piece
        return state["exact"].copy()


def fingerprints(observation: Any) -> Int64[np.ndarray, " N"]:
    """A checksum (CRC-32) for each row of a batch of observations, whatever the order of keys."""
    return _checksums(leaves(_sorted(observation)))


def shown_again(observation: Any, shown: Int64[np.ndarray, " N"]) -> Bool[np.ndarray, " N"]:
    """Which rows have these fingerprints."""
    # those of before took the keys in the order of the space
    return (fingerprints(observation) == shown) | (_checksums(leaves(observation)) == shown)


def _sorted(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        parts = cast(Mapping[str, Any], tree)
        return {key: _sorted(parts[key]) for key in sorted(parts)}
    return tuple(map(_sorted, tree)) if isinstance(tree, tuple) else tree


def _checksums(parts: list[NDArray[Any]]) -> Int64[np.ndarray, " N"]:
    numbers = np.zeros(len(parts[0]), np.int64)
    for row in range(len(numbers)):
        number = 0
        for leaf in parts:
            number = zlib.crc32(np.ascontiguousarray(leaf[row]).tobytes(), number)
        numbers[row] = number
    return numbers


def check_fit(state: Mapping[str, NDArray[Any]], like: Mapping[str, NDArray[Any]]) -> None:
    """Check that a state has arrays of the names, types and shapes of ``like``.

    Raises:
        ValueError: On the first difference, in one line.
    """
    for name, array in like.items():
        if name not in state:
            raise ValueError(f"state of environments: there is no {name!r}")
        if state[name].dtype != array.dtype or state[name].shape != array.shape:
            raise ValueError(_misfit(name, state[name], array.dtype, array.shape))


def _misfit(name: str, array: NDArray[Any], dtype: Any, shape: tuple[int, ...]) -> str:
    given = f"{array.dtype}{list(array.shape)}"
    return f"state of environments: {name!r} is {given}; it should be {dtype}{list(shape)}"


def split_state(state: Mapping[str, NDArray[Any]], sizes: Sequence[int]) -> list[State]:
    """The states of the first ``sizes[0]`` slots, of the next ``sizes[1]``, and so on.

    Raises:
        ValueError: If the sizes do not add up to the number of slots.
    """
    parts: list[State] = [{} for _ in sizes]
    for name, array in state.items():
        lengths = sizes
        if name == "actions":
            per_slot = np.split(state.get("length", array[:0]), np.cumsum(sizes)[:-1])
            lengths = [int(part.sum()) for part in per_slot]
        if array.shape[:1] != (sum(lengths),):
            wanted = (sum(lengths), *array.shape[1:])
            raise ValueError(_misfit(name, array, array.dtype, wanted))
        for part, piece in zip(parts, np.split(array, np.cumsum(lengths)[:-1]), strict=True):
            part[name] = piece
    return parts


def join_states(parts: Sequence[State]) -> State:
    """The state of all slots, from those of consecutive shares."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
