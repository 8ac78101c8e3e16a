"""Answers of one environment to ``step`` and ``reset``: what counts as a reward, a flag, an info.

Types that mean a number are taken as one. Anything else is a fault of that environment, named in
one line by its part.
"""

import reprlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from envs.config import summary

STEP = "step should return five values: observation, reward, terminated, truncated, info"
RESET = "reset should return two values: observation, info"
# keys of an info that tell whether the task was solved
SUCCESS = ("is_success", "success")


class AnswerError(ValueError):
    """A part of an answer that nothing can be learnt from. The message is one line."""


def read_step(answer: Any) -> tuple[Any, float, bool, bool, Mapping[str, Any]]:
    """The five values of ``step``, reward and flags as Python's; observations are not looked at.

    Raises:
        AnswerError: If there are not five, or the four after the observation cannot be used.
    """
    if not isinstance(answer, (tuple, list)) or len(answer) != 5:
        many = f"{len(answer)} values" if isinstance(answer, tuple | list) else shown(answer)
        old = ", as in old Gym" if many == "4 values" else ""
        raise AnswerError(f"it returned {many}{old}; {STEP}")
    observation, reward, terminated, truncated, info = answer
    if not isinstance(reward, float):
        reward = _number("reward", reward, "a number")
    if type(terminated) is not bool:
        terminated = _flag("terminated", terminated)
    if type(truncated) is not bool:
        truncated = _flag("truncated", truncated)
    if type(info) is not dict:
        check_info(info)
    if (terminated or truncated) and info:
        _check_success(info)
    return observation, reward, terminated, truncated, info


def read_reset(answer: Any) -> Any:
    """The observation that ``reset`` returned; it is not looked at.

    Raises:
        AnswerError: If there is no info beside it.
    """
    if not isinstance(answer, tuple | list) or len(answer) != 2:
        raise AnswerError(f"it returned {shown(answer)}, without an info; {RESET}")
    observation, info = answer
    # None is harmless here, as nothing is read from it
    if info is not None and not isinstance(info, Mapping):
        raise AnswerError(f"info: {shown(info)}; it should be a dictionary; {RESET}")
    return observation


def check_info(info: Any) -> None:
    """Check that an info is a dictionary.

    Raises:
        AnswerError: If it is not.
    """
    if not isinstance(info, Mapping):
        raise AnswerError(f"info: {shown(info)}; it should be a dictionary")


def describe(error: BaseException, expected: str) -> str:
    """An error that an environment raised where ``STEP`` or ``RESET`` was expected, in one line."""
    if isinstance(error, AnswerError):
        return str(error)
    text = summary(error)
    # a wrapper could not take an answer of the environment below it apart
    count = 5 if expected == STEP else 2
    apart = (f"values to unpack (expected {count}", "cannot unpack non-iterable")
    return f"{text}; {expected}" if any(words in text for words in apart) else text


def _check_success(info: Mapping[str, Any]) -> None:
    for key in SUCCESS:
        if key in info:
            try:
                bool(info[key])
            except Exception:
                what = f"info[{key!r}]: {shown(info[key])}; it should be True or False"
                raise AnswerError(what) from None


def _flag(name: str, value: Any) -> bool:
    number = _number(name, value, "True or False")
    if number not in (0.0, 1.0):
        raise AnswerError(f"{name}: {shown(value)}; it should be True or False")
    return number == 1.0


def _number(name: str, value: Any, wanted: str) -> float:
    """A number, or the only one of an array of shape () or (1,), as a float."""
    try:
        array = np.asarray(value)
        if array.size == 1 and array.ndim <= 1 and array.dtype.kind in "biufO":
            one = array.item()
            if not isinstance(one, str):
                return float(one)
    # an array of somebody else's may raise anything
    except Exception:
        pass
    raise AnswerError(f"{name}: {shown(value)}; it should be {wanted}")


def shown(value: Any) -> str:
    """A value in a few words: the type and shape of an array, the beginning of anything else."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}"
    try:
        text = " ".join(reprlib.repr(value).split())
    except Exception:
        text = "a value"
    return text if value is None else f"{text} ({type(value).__name__})"
