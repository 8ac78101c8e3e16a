"""Recording of episodes for replay: the seed of each, and its actions.

Foreign environments have no access to their state. But with the same seed and actions they do the
same, so the actions can be saved instead. Every episode has a seed of its own, and can be replayed
without those before it.
"""

import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias, cast

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
# initial capacity for actions
ROOM = 64


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
        self._rows = np.arange(num_envs)
        room = (num_envs, min(ROOM, longest), *(action_space.shape or ()))
        self._actions = np.zeros(room, action_space.dtype)

    def restart(self, seed: int | None) -> None:
        """Begin with seed ``seed + i`` and episode 0 in slot i; None: with the next episode."""
        num_envs = len(self.seed)
        if seed is None and self.episode[0] >= 0:
            self.next(self._rows)
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
        most = int(self.steps.max())
        if most < self.longest:
            if most == self._actions.shape[1]:
                self._make_room(2 * most)
            self._actions[self._rows, self.steps] = action
        else:
            fits = np.flatnonzero(self.steps < self.longest)
            self._actions[fits, self.steps[fits]] = action[fits]
        self.steps += 1

    def actions(self, slot: int) -> NDArray[Any]:
        """The actions of a slot's running episode, in order."""
        return self._actions[slot, : self.steps[slot]].copy()

    def describe(self, slot: int) -> str:
        """The position of a slot, in words, for error messages."""
        return f"episode seed {self.episode_seed(slot)}, after {self.steps[slot]} actions"

    def state(self) -> State:
        """The log as arrays; an episode that is too long has no actions, and ``exact`` is False."""
        exact = self.steps <= self.longest
        length = np.where(exact, self.steps, 0)
        actions = [self._actions[slot, :many] for slot, many in enumerate(length.tolist())]
        return {
            "seed": self.seed.copy(),
            "episode": self.episode.copy(),
            "exact": exact,
            "length": length,
            "actions": np.concatenate(actions),
        }

    def load(self, state: Mapping[str, NDArray[Any]]) -> Bool[np.ndarray, " N"]:
        """Load a state; True for the slots whose actions are complete.

        Raises:
            ValueError: If the state is of other slots or actions.
        """
        own = self.state()
        check_fit(state, {**own, "actions": state.get("actions", own["actions"])})
        length, actions = state["length"], state.get("actions", own["actions"][:0])
        wanted = (int(length.sum()), *self._actions.shape[2:])
        if actions.dtype != self._actions.dtype or actions.shape != wanted or length.min() < 0:
            raise ValueError(_misfit("actions", actions, self._actions.dtype, wanted))
        if min(state["seed"].min(), state["episode"].min()) < 0:
            raise ValueError("state of environments: these were never reset")
        self.seed, self.episode = state["seed"].copy(), state["episode"].copy()
        self.steps = length.copy()
        self._make_room(int(length.max()))
        for slot, part in enumerate(np.split(actions, np.cumsum(length)[:-1])):
            self._actions[slot, : len(part)] = part
        return state["exact"].copy()

    def _make_room(self, many: int) -> None:
        more = max(many - self._actions.shape[1], 0)
        widths = [(0, 0), (0, more), *[(0, 0)] * (self._actions.ndim - 2)]
        self._actions = np.pad(self._actions, widths)


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
