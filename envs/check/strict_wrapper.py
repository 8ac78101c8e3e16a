"""Faults of single environments that the layers of `envs` repair before anybody sees them.

A training survives wrong types and shared arrays, because types are converted and arrays copied on
the way. To report them, an environment is watched beneath these layers. Gymnasium's own checker
judges types and membership in spaces.
"""

import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

import gymnasium
import numpy as np
from gymnasium import logger, spaces
from gymnasium.utils.passive_env_checker import (
    check_action_space,
    check_observation_space,
    env_reset_passive_checker,
    env_step_passive_checker,
)
from numpy.typing import NDArray
from typing_extensions import override

from envs.answers import AnswerError, read_reset, read_step
from envs.vector import leaves, map_arrays
from envs.wrappers import MASK

Verdict: TypeAlias = Literal["ok", "note", "broken"]
RANK: dict[Verdict, int] = {"ok": 0, "note": 1, "broken": 2}
# Gymnasium colours its warnings for a terminal
DECORATION = re.compile(r"\x1b\[[0-9;]*m|WARN: ")


class Complaint(NamedTuple):
    """The verdict on one property, the reason, and how often it was found."""

    verdict: Verdict
    what: str
    times: int


class Complaints:
    """The verdicts on all properties: of each, the first of the worst complaints."""

    def __init__(self) -> None:
        self.found: dict[str, Complaint] = {}

    def add(self, name: str, what: str, verdict: Verdict = "broken") -> None:
        """Note a verdict; ``ok`` says that the property was looked at, usually without words."""
        old = self.found.get(name)
        if old is None or RANK[verdict] > RANK[old.verdict]:
            self.found[name] = Complaint(verdict, what, 1)
        elif verdict == old.verdict:
            self.found[name] = old._replace(times=old.times + 1)

    def broken(self, name: str) -> bool:
        """Whether the property is known not to hold."""
        return name in self.found and self.found[name].verdict == "broken"


class StrictWrapper(gymnasium.Wrapper[Any, Any, Any, Any]):
    """The same environment; whatever it should not return is added to the complaints."""

    def __init__(self, env: gymnasium.Env[Any, Any], found: Complaints) -> None:
        super().__init__(env)
        self._found = found
        self._steps = 0
        # the last observation, and a copy made when it was returned
        self._last: tuple[Any, Any] = ((), ())

    @override
    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, Any]:
        answer: tuple[Any, Any] = self.env.reset(seed=seed, options=options)
        self._steps = 0
        where = "the first observation of an episode"
        if self._is_readable(read_reset, answer, where):
            self._look(answer[0], (0.0, False, False, answer[1]), where)
        return answer

    @override
    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        self._steps += 1
        answer: tuple[Any, Any, Any, Any, Any] = self.env.step(action)
        where = f"step {self._steps} of an episode"
        if self._is_readable(read_step, answer, where):
            self._look(answer[0], answer[1:], where)
        return answer

    def _is_readable(self, read: Callable[[Any], Any], answer: Any, where: str) -> bool:
        """Whether a training can use an answer; complains if it cannot."""
        try:
            read(answer)
        except AnswerError as error:
            self._found.add("types", f"{where}: {error}")
            return False
        return True

    def _look(self, observation: Any, outcome: Any, where: str) -> None:
        if differ(*self._last):
            what = "the environment writes into arrays that it returned, of which we take copies"
            self._found.add("arrays", what, "note")
        self._last = (observation, map_arrays(np.array, observation))
        check_member(self.observation_space, observation, where, self._found)
        reward, *flags, info = outcome
        # a number that is not finite is a complaint of its own
        answer = (0, reward if is_finite(reward) else 0.0, *flags, info)
        env = _Answer(answer, spaces.Discrete(1))
        for fault in _complaints_of(env_step_passive_checker, env, None):
            self._found.add("types", f"{where}: {fault}", "note")
        shown = isinstance(observation, Mapping) and MASK in observation
        if isinstance(info, Mapping) and MASK in info and not shown:
            what = f'there is an info["{MASK}"]; action_mask=true shows it to the agent'
            self._found.add("mask", what, "note")


class _Answer(gymnasium.Env[Any, Any]):
    """An environment for Gymnasium's checker that repeats an answer which another one gave."""

    def __init__(self, answer: Any, space: spaces.Space[Any]) -> None:
        self.answer = answer
        self.observation_space = space

    @override
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return self.answer

    @override
    def step(self, action: Any) -> Any:
        return self.answer


def _complaints_of(checker: Callable[..., Any], *arguments: Any) -> list[str]:
    """The warnings and the error of one of Gymnasium's checkers, each in one line."""
    level = logger.min_level
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        # a program that silences Gymnasium's log would silence its checker as well
        logger.min_level = logger.WARN
        try:
            checker(*arguments)
        except Exception as error:  # most often an assertion
            warnings.warn(str(error) or repr(error), stacklevel=1)
        finally:
            logger.min_level = level
    return [" ".join(DECORATION.sub("", str(each.message)).split()) for each in caught]


def check_declared_spaces(
    observation_space: spaces.Space[Any], action_space: spaces.Space[Any], found: Complaints
) -> None:
    """Note where Gymnasium finds the spaces odd, such as a Box whose bounds are equal."""
    faults = _complaints_of(check_observation_space, observation_space)
    for fault in [*faults, *_complaints_of(check_action_space, action_space)]:
        found.add("space", fault, "note")


def check_member(space: spaces.Space[Any], observation: Any, where: str, found: Complaints) -> None:
    """Complain if Gymnasium does not find an observation in its space.

    A value of an unusual type that is a member all the same is worth a note.
    """
    # a number that is not finite is a complaint of its own
    if not is_finite(observation):
        return
    faults = _complaints_of(env_reset_passive_checker, _Answer((observation, {}), space))
    if not faults:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if space.contains(observation):
            found.add("space", f"{where}: {faults[0]}", "note")
        else:
            found.add("space", f"{where}: {_misfit(space, observation) or faults[-1]}")


def _misfit(space: spaces.Space[Any], value: Any, name: str = "observation") -> str | None:
    """The part of an observation that is not in its space; None if parts are missing or too many.

    Gymnasium says only that there is one.
    """
    parts: list[tuple[str, spaces.Space[Any], Any]] = []
    if isinstance(space, spaces.Dict):
        if isinstance(value, Mapping) and value.keys() == space.spaces.keys():
            parts = [(repr(key), part, value[key]) for key, part in space.spaces.items()]
    elif isinstance(space, spaces.Tuple):
        if isinstance(value, tuple) and len(value) == len(space.spaces):
            parts = [(str(i), *pair) for i, pair in enumerate(zip(space, value, strict=True))]
    else:
        array: NDArray[Any] = np.asarray(value)
        if isinstance(space, spaces.Box) and array.shape == space.shape and array.size > 1:
            places = np.argwhere((array < space.low) | (array > space.high))
            for place in map(tuple, places[:1].tolist()):
                low, high = space.low[place], space.high[place]
                return f"{name} has {array[place]} at {list(place)}, beyond [{low}, {high}]"
        numbers = np.array2string(array, threshold=8, edgeitems=1)
        return f"{name} is {array.dtype}{list(array.shape)} {numbers}, which is not in {space}"
    wrong = next((each for each in parts if not each[1].contains(each[2])), None)
    return wrong and _misfit(wrong[1], wrong[2], f"{name}[{wrong[0]}]")


def differ(one: Any, other: Any) -> bool:
    """Whether two trees of one form have different numbers; two NaN count as equal."""
    for mine, theirs in zip(leaves(one), leaves(other), strict=True):
        first = np.asarray(mine)
        if not np.array_equal(first, theirs, equal_nan=first.dtype.kind == "f"):
            return True
    return False


def is_finite(tree: Any) -> bool:
    """Whether no number in a tree is infinite or NaN."""
    parts = [np.asarray(leaf) for leaf in leaves(tree)]
    return all(part.dtype.kind != "f" or bool(np.isfinite(part).all()) for part in parts)
