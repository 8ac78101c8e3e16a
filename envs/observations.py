"""Membership of observations in their space, as far as anything can be learnt from them.

Symbols (Discrete, MultiDiscrete, MultiBinary) must be in their space. Numbers of a Box may be
beyond its bounds, if they are finite and the type of the space can hold them.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.answers import AnswerError, shown
from envs.config import NO_FAULTS


class Part(NamedTuple):
    """One array of an observation."""

    name: str
    path: tuple[Any, ...]
    """The keys that lead to it."""
    space: spaces.Space[Any]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class _Symbols(NamedTuple):
    """A part, by its place, with whole numbers from ``low`` on, at most ``span`` above it."""

    place: int
    low: NDArray[Any]
    span: NDArray[Any]


class Observations:
    """Says which observations are of a space, and in one line why another one is not."""

    def __init__(self, space: spaces.Space[Any]) -> None:
        self.parts = list(_parts(space, "observation", ()))
        self._floats = [i for i, part in enumerate(self.parts) if part.dtype.kind == "f"]
        self._symbols = [
            _symbols(i, part)
            for i, part in enumerate(self.parts)
            if not isinstance(part.space, spaces.Box)
        ]

    def stack(self, observations: Sequence[Any], room: Any) -> None:
        """Write observations into a batch with room for them.

        Raises:
            Exception: Of any kind, if one does not fit; ``check`` tells which one and why.
        """
        # a number too large for the type of the space becomes infinite
        with np.errstate(over="ignore"):
            for part in self.parts:
                leaves = [_of(observation, part.path) for observation in observations]
                _stack(part, leaves, _of(room, part.path))

    def check(self, observation: Any) -> None:
        """Check one observation in every respect.

        Raises:
            AnswerError: On the first part that does not fit.
        """
        for what in self._misfits(
            [_batch_of_one(part, observation) for part in self.parts]
        ).values():
            raise AnswerError(what)

    def misfits(self, batch: Any) -> dict[int, str]:
        """A line for each row of a batch with a number that is not finite or no symbol.

        Raises:
            AnswerError: If whole numbers of another type have no place in that of the space.
        """
        return self._misfits([_typed(part, _of(batch, part.path)) for part in self.parts])

    def _misfits(self, arrays: Sequence[NDArray[Any]]) -> dict[int, str]:
        found: dict[int, str] = {}
        for index in self._floats:
            fine = np.isfinite(arrays[index])
            if not fine.all():
                found |= self._lines(index, arrays[index], ~fine, "which is not finite")
        for place, low, span in self._symbols:
            # what is below the lowest symbol wraps around, far above the highest
            above = (arrays[place] - low).view(span.dtype) > span
            if above.any():
                wanted = f"which is not in {self.parts[place].space}"
                found |= self._lines(place, arrays[place], above, wanted)
        return found

    def _lines(
        self, index: int, array: NDArray[Any], wrong: NDArray[Any], what: str
    ) -> dict[int, str]:
        """A line for each row that is wrong somewhere, with the first wrong number in it."""
        lines: dict[int, str] = {}
        for row in np.flatnonzero(wrong.reshape(len(wrong), -1).any(1)).tolist():
            place = np.argwhere(wrong[row])[0].tolist()
            at = f" at {place}" if place else ""
            number = array[(row, *place)]
            lines[row] = f"{self.parts[index].name}: {number}{at}, {what}"
        return lines


def _parts(space: Any, name: str, path: tuple[Any, ...]) -> Iterator[Part]:
    items: list[tuple[Any, Any]] = []
    if isinstance(space, spaces.Dict):
        items = list(space.spaces.items())
    elif isinstance(space, spaces.Tuple):
        items = list(enumerate(space.spaces))
    else:
        yield Part(name, path, space, space.shape or (), np.dtype(space.dtype))
    for key, part in items:
        yield from _parts(part, f"{name}[{key!r}]", (*path, key))


def _symbols(index: int, part: Part) -> _Symbols:
    low, count = 0, 2
    if isinstance(part.space, spaces.Discrete):
        low, count = part.space.start, part.space.n
    elif isinstance(part.space, spaces.MultiDiscrete):
        low, count = part.space.start, part.space.nvec
    unsigned = np.dtype(f"u{part.dtype.itemsize}")
    return _Symbols(index, np.asarray(low, part.dtype), np.asarray(np.asarray(count) - 1, unsigned))


def _of(tree: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _typed(part: Part, array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype == part.dtype:
        return array
    _check_held(part, array)
    return array.astype(part.dtype)


def _stack(part: Part, leaves: list[Any], room: NDArray[Any]) -> None:
    if part.dtype.kind == "f":
        np.stack(leaves, out=room)
        return
    try:
        np.stack(leaves, out=room, casting="safe")
    except TypeError:
        # numbers of a larger type may be in the space all the same
        batch = np.stack(leaves)
        _check_held(part, batch)
        np.copyto(room, batch, casting="same_kind")


def _batch_of_one(part: Part, observation: Any) -> NDArray[Any]:
    """One part of an observation as a batch, in the type of the space.

    Raises:
        AnswerError: If it does not fit.
    """
    try:
        leaf = _of(observation, part.path)
        if type(leaf) is np.ndarray and leaf.dtype == part.dtype and leaf.shape == part.shape:
            return leaf[None]
        if type(leaf) is int and part.dtype == np.int64 and not part.shape:
            return np.array([leaf], np.int64)
    # whatever is unusual is looked at below
    except (TypeError, LookupError, OverflowError):
        pass
    # a number too large for the type of the space becomes infinite
    with np.errstate(over="ignore"):
        return _array(part, observation)[None].astype(part.dtype)


def _array(part: Part, observation: Any) -> NDArray[Any]:
    """One part of an observation, whose values the type of the space can hold.

    Raises:
        AnswerError: If it is missing, or of another shape or kind.
    """
    tree, name = observation, "observation"
    for key in part.path:
        if isinstance(tree, Mapping) and key not in tree:
            raise AnswerError(f"{name}: has no key {key!r}")
        try:
            tree = tree[key]
        except (TypeError, LookupError):
            raise AnswerError(f"{name}: {shown(tree)}; it should have a part {key!r}") from None
        name = f"{name}[{key!r}]"
    wanted = f"it should be {part.dtype}{list(part.shape)}"
    try:
        array = np.asarray(tree)
    except NO_FAULTS:
        raise
    # an array of somebody else's may raise anything
    except BaseException:
        raise AnswerError(f"{part.name}: {shown(tree)}; {wanted}") from None
    if array.shape != part.shape or not np.can_cast(array.dtype, part.dtype, "same_kind"):
        given = shown(tree) if array.dtype == object else f"{array.dtype}{list(array.shape)}"
        raise AnswerError(f"{part.name}: {given}; {wanted}")
    if part.dtype.kind in "iu":
        _check_held(part, array)
    return array


def _check_held(part: Part, array: NDArray[Any]) -> None:
    """Check that whole numbers of another type are numbers of the space's type too."""
    if {array.dtype.kind, part.dtype.kind} - set("iu") or np.can_cast(
        array.dtype, part.dtype, "safe"
    ):
        return
    limits = np.iinfo(part.dtype)
    for number in (array.min(initial=0), array.max(initial=0)):
        if not limits.min <= int(number) <= limits.max:
            what = f"{number} is not in {part.space}, whose type is {part.dtype}"
            raise AnswerError(f"{part.name}: {what}")
