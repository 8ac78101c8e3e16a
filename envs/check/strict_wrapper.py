"""What single environments do that their spaces and Gymnasium's interface do not allow.

Our layers turn much of it into something that a training survives: types are converted, arrays
copied. Whoever wants to know has to look beneath them.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from typing_extensions import override

from envs.vector import leaves, map_arrays
from envs.wrappers import MASK

Verdict: TypeAlias = Literal["ok", "note", "broken"]
RANK: dict[Verdict, int] = {"ok": 0, "note": 1, "broken": 2}


class Complaint(NamedTuple):
    """What was found of one property."""

    verdict: Verdict
    what: str
    times: int


class Complaints:
    """What was found, by property: the first of the worst, and how often."""

    def __init__(self) -> None:
        self.found: dict[str, Complaint] = {}

    def add(self, name: str, what: str, verdict: Verdict = "broken") -> None:
        """Once more; ``ok`` says that somebody looked, and nothing where that is all to say."""
        old = self.found.get(name)
        if old is None or RANK[verdict] > RANK[old.verdict]:
            self.found[name] = Complaint(verdict, what, 1)
        elif verdict == old.verdict:
            self.found[name] = old._replace(times=old.times + 1)

    def broken(self, name: str) -> bool:
        """Whether the property is known not to hold."""
        return name in self.found and self.found[name].verdict == "broken"


class Watched(gymnasium.Wrapper[Any, Any, Any, Any]):
    """The same environment, of which what it should not return is written down."""

    def __init__(self, env: gymnasium.Env[Any, Any], found: Complaints) -> None:
        super().__init__(env)
        self._found = found
        self._steps = 0
        # what it returned last, and how that looked
        self._last: tuple[Any, Any] = ((), ())

    @override
    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, Any]:
        observation, info = self.env.reset(seed=seed, options=options)
        self._steps = 0
        self._look(observation, info, "the first observation of an episode")
        return observation, info

    @override
    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        self._steps += 1
        where = f"step {self._steps} of an episode"
        answer: tuple[Any, Any, Any, Any, Any] = self.env.step(action)
        observation, reward, terminated, truncated, info = answer
        for name, flag in (("terminated", terminated), ("truncated", truncated)):
            if not isinstance(flag, bool | np.bool_):
                self._found.add("types", f"{name} of {where} is {flag!r}; it should be a boolean")
        if np.ndim(reward) != 0:
            self._found.add("types", f"the reward of {where} is {reward!r}; it should be a number")
        self._look(observation, info, f"the observation of {where}")
        return observation, reward, terminated, truncated, info

    def _look(self, observation: Any, info: Any, where: str) -> None:
        if differ(*self._last):
            what = "the environment writes into arrays that it returned, of which we take copies"
            self._found.add("arrays", what, "note")
        self._last = (observation, map_arrays(np.array, observation))
        what = outside(self.observation_space, observation)
        if what is not None:
            self._found.add("space", f"{where} {what}")
        if not isinstance(info, Mapping):
            self._found.add("types", f"the info beside {where} is {info!r}; it should be a dict")
        elif MASK in info and not (isinstance(observation, Mapping) and MASK in observation):
            what = f'there is an info["{MASK}"]; action_mask=true shows it to the agent'
            self._found.add("mask", what, "note")


def differ(one: Any, other: Any) -> bool:
    """Whether two trees of one form have different numbers; undefined ones are equal."""
    for mine, theirs in zip(leaves(one), leaves(other), strict=True):
        first = np.asarray(mine)
        if not np.array_equal(first, theirs, equal_nan=first.dtype.kind == "f"):
            return True
    return False


def is_finite(tree: Any) -> bool:
    """Whether nothing in it is infinite or undefined."""
    parts = [np.asarray(leaf) for leaf in leaves(tree)]
    return all(part.dtype.kind != "f" or bool(np.isfinite(part).all()) for part in parts)


def outside(space: spaces.Space[Any], value: Any) -> str | None:
    """Why ``value`` is no member of the space, in words; None if it is one, or is not finite."""
    if isinstance(space, spaces.Dict):
        if not isinstance(value, Mapping):
            return "is no dictionary, as its space is"
        if value.keys() != space.spaces.keys():
            return f"has the keys {sorted(value)}; its space has {sorted(space.spaces)}"
        parts = [(f"[{key!r}]", part, value[key]) for key, part in space.spaces.items()]
    elif isinstance(space, spaces.Tuple):
        if not isinstance(value, tuple) or len(value) != len(space.spaces):
            return f"is no tuple of {len(space.spaces)} parts, as its space is"
        pairs = zip(space.spaces, value, strict=True)
        parts = [(f"[{place}]", part, each) for place, (part, each) in enumerate(pairs)]
    else:
        return _array_outside(space, value)
    reasons = ((name, outside(part, each)) for name, part, each in parts)
    found = next(((name, why) for name, why in reasons if why is not None), None)
    return found and (found[0] + found[1] if found[1].startswith("[") else " ".join(found))


def _array_outside(space: spaces.Space[Any], value: Any) -> str | None:
    array: NDArray[Any] = np.asarray(value)
    # a whole number of Python has no type of its own
    if space.contains(value if isinstance(value, int) else array):
        return None
    if array.shape != space.shape:
        return f"has the shape {list(array.shape)}; in its space it is {list(space.shape or ())}"
    # any numbers will do for zeros and ones
    dtype = None if isinstance(space, spaces.MultiBinary) else space.dtype
    if dtype is not None and not np.can_cast(array.dtype, dtype):
        return f"is {array.dtype}; in its space it is {dtype}"
    # that is told elsewhere
    if not is_finite(array):
        return None
    if isinstance(space, spaces.Box):
        place = tuple(np.argwhere((array < space.low) | (array > space.high))[0].tolist())
        low, high = space.low[place], space.high[place]
        return f"has {array[place]} at {list(place)}; its space reaches from {low} to {high}"
    return " ".join(f"is {np.array2string(array, threshold=8)}, which is not in {space}".split())
