"""Gymnasium spaces as JSON and back, so that a saved policy knows what it was made for."""

import math
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

Json = dict[str, Any]
# the key of a Dict observation that says which actions are possible; it is not encoded
ACTION_MASK = "action_mask"


def one_line(space: spaces.Space[Any]) -> str:
    """The space in words; Gymnasium spreads unequal bounds over several lines."""
    return " ".join(str(space).split())


def split_mask(
    space: spaces.Space[Any],
) -> tuple[spaces.Space[Any], spaces.Space[Any] | None]:
    """What the encoder reads of an observation space, and the space of its action mask, if any."""
    if not isinstance(space, spaces.Dict) or ACTION_MASK not in space.spaces:
        return space, None
    parts = [(name, part) for name, part in space.spaces.items() if name != ACTION_MASK]
    return spaces.Dict(parts), space.spaces[ACTION_MASK]


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
    """The space that ``space_to_json`` described.

    Raises:
        ValueError: If the description is not one.
    """
    try:
        match description["type"]:
            case "Discrete":
                dtype = _dtype(description.get("dtype", "int64"))
                n, start = int(description["n"]), int(description["start"])
                return spaces.Discrete(n, start=start, dtype=dtype)
            case "MultiDiscrete":
                dtype = _dtype(description.get("dtype", "int64"))
                nvec = np.array(description["nvec"], dtype=dtype)
                start = np.array(description.get("start", np.zeros_like(nvec)), dtype=dtype)
                return spaces.MultiDiscrete(nvec, start=start, dtype=dtype)
            case "MultiBinary":
                return spaces.MultiBinary(description["shape"])
            case "Box":
                shape = tuple(int(size) for size in description["shape"])
                dtype = _dtype(description["dtype"])
                low, high = (
                    np.broadcast_to(np.array(_number(description[bound]), dtype=dtype), shape)
                    for bound in ("low", "high")
                )
                return spaces.Box(low, high, dtype=dtype)
            case "Dict":
                parts = cast(Mapping[str, Json], description["spaces"])
                # pairs keep their order, a mapping would be sorted; encoders go by the order
                return spaces.Dict([(name, space_from_json(part)) for name, part in parts.items()])
            case "Tuple":
                return spaces.Tuple([space_from_json(part) for part in description["spaces"]])
            case other:
                raise ValueError(f"unknown kind of space {other!r}")
    # Gymnasium asserts what a space must be
    except (KeyError, TypeError, AttributeError, AssertionError, OverflowError) as error:
        raise ValueError(f"not the description of a space: {error!r}") from None


def _bound_to_json(bound: NDArray[Any]) -> Any:
    # one number where all agree: an image would take thousands of equal ones
    if bound.size and (bound == bound.flat[0]).all():
        return _finite(bound.flat[0].item())
    return _finite(bound.tolist())


def _finite(bound: Any) -> Any:
    """JSON has no infinity: it is written as text."""
    if isinstance(bound, list):
        return [_finite(part) for part in cast(list[Any], bound)]
    return str(bound) if bound in (math.inf, -math.inf) else bound


def _number(bound: Any) -> Any:
    if isinstance(bound, list):
        return [_number(part) for part in cast(list[Any], bound)]
    return float(bound) if isinstance(bound, str) else bound


def _dtype(name: Any) -> Any:
    return np.dtype(cast(str, name)).type
