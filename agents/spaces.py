"""Gymnasium spaces as JSON and back, so that a saved policy knows what it was made for."""

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from gymnasium import spaces

Json = dict[str, Any]
# the key of a Dict observation that says which actions are possible; it is not encoded
ACTION_MASK = "action_mask"


def space_to_json(space: spaces.Space[Any]) -> Json:
    """A description from which ``space_from_json`` builds an equal space."""
    match space:
        case spaces.Discrete():
            return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
        case spaces.MultiDiscrete():
            return {"type": "MultiDiscrete", "nvec": space.nvec.tolist()}
        case spaces.MultiBinary():
            return {"type": "MultiBinary", "shape": list(space.shape)}
        case spaces.Box():
            # one number where all bounds agree: an image would take thousands of equal ones
            low, high = (
                float(bound.flat[0]) if bound.size and (bound == bound.flat[0]).all() else bound.tolist()
                for bound in (space.low, space.high)
            )
            return {
                "type": "Box",
                "low": _finite(low),
                "high": _finite(high),
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


def space_from_json(description: Mapping[str, Any]) -> spaces.Space[Any]:
    """The space that ``space_to_json`` described.

    Raises:
        ValueError: If the description is not one.
    """
    try:
        match description["type"]:
            case "Discrete":
                return spaces.Discrete(int(description["n"]), start=int(description["start"]))
            case "MultiDiscrete":
                return spaces.MultiDiscrete(np.array(description["nvec"], dtype=np.int64))
            case "MultiBinary":
                return spaces.MultiBinary(description["shape"])
            case "Box":
                shape = tuple(int(size) for size in description["shape"])
                dtype = np.dtype(cast(str, description["dtype"])).type
                low, high = (
                    np.broadcast_to(np.array(_number(description[bound]), dtype=dtype), shape)
                    for bound in ("low", "high")
                )
                return spaces.Box(low, high, dtype=cast(Any, dtype))
            case "Dict":
                parts = cast(Mapping[str, Json], description["spaces"])
                return spaces.Dict({name: space_from_json(part) for name, part in parts.items()})
            case "Tuple":
                return spaces.Tuple([space_from_json(part) for part in description["spaces"]])
            case other:
                raise ValueError(f"unknown kind of space {other!r}")
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not the description of a space: {error!r}") from None


def _finite(bound: Any) -> Any:
    """JSON has no infinity: it is written as text."""
    if isinstance(bound, list):
        return [_finite(part) for part in cast(list[Any], bound)]
    return bound if np.isfinite(bound) else str(bound)


def _number(bound: Any) -> Any:
    if isinstance(bound, list):
        return [_number(part) for part in cast(list[Any], bound)]
    return float(bound)
