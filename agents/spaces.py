"""Gymnasium spaces as JSON and back, so that a saved policy knows its spaces."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from agents.distributed import from_first
from fwrl.files.json_files import parse_json
from fwrl.files.plain_files import MEBIBYTE

Json = dict[str, Any]
# the key of a Dict observation that tells which actions are possible; it is not encoded
ACTION_MASK = "action_mask"

DTYPES: dict[str, type[np.generic]] = {
    np.dtype(dtype).name: dtype
    for dtype in (
        np.bool_,
        *(np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64),
        *(np.float16, np.float32, np.float64),
    )
}
# The types of a Box.
NUMBERS = (np.number, np.bool_)
# No environment comes near these limits on the memory that a description can allocate.
MOST_LEVELS = 16
MOST_PARTS = 256
MOST_AXES = 16
MOST_FACTORS = 2**16
MOST_CHOICES = 2**24
# Bytes: five pictures of 1920 by 1080 in colour.
LARGEST_OBSERVATION = 2**25
# Bounds that differ from number to number are written one by one.
MOST_BOUNDS = 2**18
LONGEST_DESCRIPTION = 2 * MEBIBYTE
# Bounds of real numbers that differ by less are the same: mathematical libraries round otherwise.
ROUNDING = 1e-6
KINDS = (
    *(spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary, spaces.Box),
    *(spaces.Dict, spaces.Tuple),
)


def one_line(space: spaces.Space[Any]) -> str:
    """The space as one line; Gymnasium spreads unequal bounds over several."""
    return " ".join(str(space).split())


def split_mask(space: spaces.Space[Any]) -> tuple[spaces.Space[Any], spaces.Space[Any] | None]:
    """The part of an observation space to encode, and the space of its action mask, if any."""
    if not isinstance(space, spaces.Dict) or ACTION_MASK not in space.spaces:
        return space, None
    return without_keys(space, [ACTION_MASK]), space.spaces[ACTION_MASK]


def without_keys(space: spaces.Space[Any], keys: Sequence[str]) -> spaces.Space[Any]:
    """A Dict space without these keys; another space as it is."""
    if not isinstance(space, spaces.Dict):
        return space
    return spaces.Dict([(name, part) for name, part in space.items() if name not in keys])


def read_back(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """The space as every reader of its description will build it, alike in all processes.

    Raises:
        ValueError: If none would build an equal one: the space is of another kind, or too large, or
            its keys are no texts.
    """
    # keys may come in another order in each process: that of the first counts
    data = from_first(lambda: _description(space))
    back = space_from_json(parse_json(data, "its description"))
    changed = difference(space, back)
    if changed is not None:
        raise ValueError(f"it cannot be described: {changed}")
    return back


def _description(space: spaces.Space[Any]) -> bytes:
    try:
        data = json.dumps(space_to_json(space)).encode()
    except TypeError as error:
        raise ValueError(str(error)) from None
    if len(data) > LONGEST_DESCRIPTION:
        raise ValueError(
            f"its description has {len(data):,} bytes; it should have at most "
            f"{LONGEST_DESCRIPTION:,}, which equal bounds of all numbers of a Box save"
        )
    return data


def arranged(observation: Any, space: spaces.Space[Any]) -> Any:
    """An observation with the keys in the order of ``space``, and no others."""
    match space:
        case spaces.Dict():
            return {key: arranged(observation[key], part) for key, part in space.spaces.items()}
        case spaces.Tuple():
            parts = zip(observation, space.spaces, strict=True)
            return tuple(arranged(*part) for part in parts)
        case _:
            return observation


def difference(before: spaces.Space[Any], now: spaces.Space[Any], where: str = "") -> str | None:
    """The first difference between two spaces, in words; None if they hold the same observations.

    The keys of a Dict may come in another order. ``where`` names the part.
    """
    kind = next((kind for kind in KINDS if isinstance(before, kind)), type(before))
    place = f"{where}: " if where else ""
    if not isinstance(now, kind):
        return f"{place}{one_line(before)} before, {one_line(now)} now"
    own, others = _parts(before), _parts(now)
    if own is None or others is None:
        found = _other_leaf(before, now)
        return None if found is None else f"{place}{found}"
    for key in [*own, *others]:
        if key not in own or key not in others:
            return f"{place}the part {key!r} is {'new' if key in others else 'missing'}"
    inner = (difference(own[key], others[key], f"{where}.{key}".strip(".")) for key in own)
    return next(filter(None, inner), None)


def _parts(space: spaces.Space[Any]) -> dict[Any, spaces.Space[Any]] | None:
    """The parts of a Dict or Tuple by key or number; None for other spaces."""
    match space:
        case spaces.Dict():
            return dict(space.spaces)
        case spaces.Tuple():
            return dict(enumerate(space.spaces))
        case _:
            return None


def _other_leaf(before: spaces.Space[Any], now: spaces.Space[Any]) -> str | None:
    """The difference between two spaces of one kind that have no parts."""
    if before.shape != now.shape or before.dtype != now.dtype:
        return f"{one_line(before)} before, {one_line(now)} now"
    for name in ("n", "nvec", "start", "low", "high"):
        old, new = (np.asarray(getattr(each, name, 0)) for each in (before, now))
        same = np.isclose(old, new, ROUNDING, 0.0) if old.dtype.kind == "f" else old == new
        other = np.flatnonzero(~same)
        if other.size:
            place = f"[{other[0]}]" if old.size > 1 else ""
            return f"{name}{place} was {old.flat[other[0]]} and is {new.flat[other[0]]}"
    return None


def space_to_json(space: spaces.Space[Any]) -> Json:
    """A description from which ``space_from_json`` builds an equal space."""
    match space:
        case spaces.Discrete():
            return {
                "type": "Discrete",
                "n": int(space.n),
                "start": int(space.start),
                "dtype": str(space.dtype),
            }
        case spaces.MultiDiscrete():
            return {
                "type": "MultiDiscrete",
                "nvec": space.nvec.tolist(),
                "start": space.start.tolist(),
                "dtype": str(space.dtype),
            }
        case spaces.MultiBinary():
            shape = space.n if isinstance(space.n, int) else list(space.shape)
            return {"type": "MultiBinary", "shape": shape}
        case spaces.Box():
            _dtype(str(space.dtype), *NUMBERS)
            return {
                "type": "Box",
                "low": _bound_to_json(space.low),
                "high": _bound_to_json(space.high),
                "shape": list(space.shape),
                "dtype": str(space.dtype),
            }
        case spaces.Dict():
            return {
                "type": "Dict",
                "spaces": {name: space_to_json(part) for name, part in space.spaces.items()},
            }
        case spaces.Tuple():
            return {"type": "Tuple", "spaces": [space_to_json(part) for part in space.spaces]}
        case _:
            raise ValueError(f"space {space!r}: this kind cannot be described")


def space_from_json(description: Any) -> spaces.Space[Any]:
    """The space that ``space_to_json`` described, within limits on its size.

    Raises:
        ValueError: If the description is malformed or too large.
    """
    try:
        # before any array is allocated
        size = _measure(description, MOST_LEVELS)
        if size > LARGEST_OBSERVATION:
            raise ValueError(f"{size:,} bytes; it should have at most {LARGEST_OBSERVATION:,}")
        return _build(description)
    # Gymnasium checks spaces with assertions
    except (KeyError, TypeError, AttributeError, AssertionError, OverflowError) as error:
        raise ValueError(f"not the description of a space: {error!r}") from None


def _measure(description: Any, levels: int) -> int:
    """The bytes of one observation in the space; raises ValueError where a limit is passed."""
    if levels == 0:
        raise ValueError(f"spaces stand in one another for more than {MOST_LEVELS} levels")
    match description["type"]:
        case "Box":
            return _count(description["shape"]) * _dtype(description["dtype"], *NUMBERS)().itemsize
        case "MultiBinary":
            shape = description["shape"]
            return _count([shape] if isinstance(shape, int) else shape)
        case "Dict" | "Tuple":
            parts = description["spaces"]
            parts = list(parts.values() if description["type"] == "Dict" else parts)
            if len(parts) > MOST_PARTS:
                raise ValueError(f"{len(parts):,} parts; it should have at most {MOST_PARTS}")
            return sum(_measure(part, levels - 1) for part in parts)
        case _:
            return 8


def _count(shape: Any) -> int:
    if len(shape) > MOST_AXES:
        raise ValueError(f"{len(shape):,} axes; it should have at most {MOST_AXES}")
    # an axis of size 0 would hide the others
    return math.prod(max(int(size), 1) for size in shape)


def _build(description: Any) -> spaces.Space[Any]:
    match description["type"]:
        case "Discrete":
            dtype = _dtype(description.get("dtype", "int64"), np.integer)
            n, start = _choices(int(description["n"])), int(description["start"])
            return spaces.Discrete(n, start=start, dtype=dtype)
        case "MultiDiscrete":
            return _multi_discrete(description)
        case "MultiBinary":
            return spaces.MultiBinary(description["shape"])
        case "Box":
            return _box(description)
        case "Dict":
            parts = cast(Mapping[str, Json], description["spaces"])
            # pairs keep their order, which encoders rely on; a mapping would be sorted
            return spaces.Dict([(name, _build(part)) for name, part in parts.items()])
        case "Tuple":
            return spaces.Tuple([_build(part) for part in description["spaces"]])
        case other:
            raise ValueError(f"unknown kind of space {other!r}")


def _multi_discrete(description: Json) -> spaces.MultiDiscrete:
    dtype = _dtype(description.get("dtype", "int64"), np.integer)
    nvec = np.array(description["nvec"], dtype=dtype)
    if nvec.size > MOST_FACTORS:
        raise ValueError(f"{nvec.size:,} factors; it should have at most {MOST_FACTORS:,}")
    # an upper bound of their sum, which could overflow
    _choices(int(nvec.max(initial=0)) * nvec.size)
    start = np.array(description.get("start", np.zeros_like(nvec)), dtype=dtype)
    return spaces.MultiDiscrete(nvec, start=start, dtype=dtype)


def _box(description: Json) -> spaces.Box:
    dtype = _dtype(description["dtype"], *NUMBERS)
    shape = tuple(int(size) for size in description["shape"])
    # a bound that does not fit its type is refused by Gymnasium, or becomes another number
    with np.errstate(all="ignore"):
        low, high = (
            np.broadcast_to(np.array(_number(description[bound]), dtype=dtype), shape)
            for bound in ("low", "high")
        )
        return spaces.Box(low, high, dtype=dtype)


def _choices(count: int) -> int:
    if count > MOST_CHOICES:
        raise ValueError(f"{count:,} choices; it should have at most {MOST_CHOICES:,}")
    return count


def _bound_to_json(bound: NDArray[Any]) -> Any:
    # one number if all are equal: an image would repeat it thousands of times
    if bound.size and (bound == bound.flat[0]).all():
        return _finite(bound.flat[0].item())
    if bound.size > MOST_BOUNDS:
        raise ValueError(f"{bound.size:,} unequal bounds; it should have at most {MOST_BOUNDS:,}")
    return _finite(bound.tolist())


def _finite(bound: Any) -> Any:
    """The bound with infinities, which JSON does not have, written as text."""
    if isinstance(bound, list):
        return [_finite(part) for part in cast(list[Any], bound)]
    return str(bound) if bound in (math.inf, -math.inf) else bound


def _number(bound: Any) -> Any:
    if isinstance(bound, list):
        return [_number(part) for part in cast(list[Any], bound)]
    return {"inf": math.inf, "-inf": -math.inf}[bound] if isinstance(bound, str) else bound


def _dtype(name: Any, *kinds: type[np.generic]) -> Any:
    # looked up by name: NumPy would parse any text, also as a structured type
    dtype = DTYPES.get(name)
    if dtype is None or not issubclass(dtype, kinds):
        raise ValueError(f"numbers of a space cannot be of type {name!r}")
    return dtype
