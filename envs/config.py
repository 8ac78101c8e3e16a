"""The base class and the errors of the configurations of environments."""

import difflib
from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict


class EnvConfigError(ValueError):
    """An environment that cannot be built as asked. The message is one line."""


class EnvFailure(RuntimeError):
    """An environment whose resets fail again and again. The message is one line."""


# Raised by a user, a signal or a wrong configuration: never the fault of one environment, whatever
# else it may raise (SystemExit and the panics of foreign libraries too).
NO_FAULTS = (KeyboardInterrupt, EnvConfigError)


class Config(BaseModel):
    """The base of the environments' configurations: immutable; an unknown field is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


def nearest(name: str, choices: Iterable[str]) -> str:
    """A hint for a wrong ``name``: the most similar choice, or where to find the choices."""
    by_lower_case = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(name.lower(), by_lower_case, n=1, cutoff=0.6)
    if close:
        return f"did you mean {by_lower_case[close[0]]!r}?"
    if 0 < len(by_lower_case) <= 20:
        return f"choose from {', '.join(by_lower_case.values())}"
    return "`fwrl list envs` shows what there is" if by_lower_case else "there are none"


def summary(error: BaseException) -> str:
    """The type of an error and the first line of its message, if it has one."""
    return ": ".join(dict.fromkeys([type(error).__name__, one_line(error)]))


def one_line(error: BaseException) -> str:
    """The first line of an error's message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
