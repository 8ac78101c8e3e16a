"""Observations as tensors; those that a program hands to a policy, read by their shapes."""

from collections.abc import Mapping
from typing import Any, NoReturn, cast

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Shaped
from numpy.typing import NDArray
from torch import Tensor

# PyTorch stores these types and computes with others.
WIDER = {
    np.dtype(np.uint16): np.dtype(np.int32),
    np.dtype(np.uint32): np.dtype(np.int64),
    np.dtype(np.uint64): np.dtype(np.float64),
}


def to_tensors(tree: Any, device: torch.device) -> Any:
    """The same nesting with tensors on the device in place of arrays."""
    if isinstance(tree, dict):
        return {key: to_tensors(part, device) for key, part in tree.items()}
    if isinstance(tree, tuple):
        return tuple(to_tensors(part, device) for part in tree)
    return as_tensor(tree, device)


def as_tensor(array: NDArray[Any] | Tensor, device: torch.device) -> Shaped[Tensor, "..."]:
    """An array as a tensor on the device, of a wider type where PyTorch computes with no such."""
    if isinstance(array, Tensor):
        return array.to(device, non_blocking=True)
    wider = WIDER.get(array.dtype)
    array = array if wider is None else array.astype(wider)
    tensor = torch.as_tensor(array)
    return tensor if device.type == "cpu" else tensor.to(device, non_blocking=True)


def read_observation(space: spaces.Space[Any], observation: Any) -> tuple[Any, bool]:
    """The arrays over N of an observation, and whether it was a single one.

    Raises:
        ValueError: Naming the part that is no observation of the space, in one line.
    """
    parts: list[tuple[str, int | None]] = []
    tree = _read(space, observation, "", parts)
    counts = {count for _, count in parts}
    if len(counts) > 1:
        said = ", ".join(
            f"{name or 'the observation'} {'a single one' if count is None else f'{count} of them'}"
            for name, count in parts
        )
        raise ValueError(f"observation: its parts are of different environments: {said}")
    return (_batch(tree), True) if counts == {None} else (tree, False)


def _read(
    space: spaces.Space[Any], given: Any, where: str, parts: list[tuple[str, int | None]]
) -> Any:
    """Arrays of the types of the space; the number in each, or None, is added to ``parts``."""
    match space:
        case spaces.Dict():
            if not isinstance(given, Mapping) or not space.spaces.keys() <= given.keys():
                _refuse(where, _kind(given), f"a dictionary with {', '.join(space.spaces)}")
            items = cast(Mapping[str, Any], given)
            return {
                key: _read(part, items[key], f"{where}.{key}".strip("."), parts)
                for key, part in space.spaces.items()
            }
        case spaces.Tuple():
            if not isinstance(given, tuple | list) or len(cast(Any, given)) != len(space.spaces):
                _refuse(where, _kind(given), f"a tuple of {len(space.spaces)} parts")
            numbered = enumerate(zip(space.spaces, cast(Any, given), strict=True))
            return tuple(
                _read(part, item, f"{where}.{i}".strip("."), parts) for i, (part, item) in numbered
            )
        case _:
            array = _array(space, given, where)
            shape = cast(tuple[int, ...], space.shape)
            axes = array.ndim - len(shape)
            if axes not in (0, 1) or array.shape[axes:] != shape:
                one = ", ".join(map(str, shape))
                right = f"[{one}] or [{', '.join(filter(None, ['N', one]))}]"
                _refuse(where, f"of shape {list(array.shape)}", right)
            parts.append((where, array.shape[0] if axes else None))
            return array


def _array(space: spaces.Space[Any], given: Any, where: str) -> NDArray[Any]:
    """Numbers of the type of the space, which none of them leaves."""
    try:
        array = np.asarray(given)
    # rows of different lengths
    except ValueError:
        array = np.asarray(None)
    if array.dtype.kind not in "biuf":
        _refuse(where, _kind(given), "an array of numbers")
    with np.errstate(all="ignore"):
        numbers = array.astype(cast(Any, space.dtype), copy=False)
    if numbers.dtype.kind == "f":
        right = np.isfinite(numbers)
    else:
        right = _inside(space, numbers) & (numbers == array)
    if not right.all():
        wrong = array[np.broadcast_to(~right, array.shape)].flat[0]
        _refuse(where, f"{wrong}", f"finite, in {' '.join(str(space).split())}")
    return numbers


def _inside(space: spaces.Space[Any], numbers: NDArray[Any]) -> Any:
    """Which whole numbers are in the space; those of a Box may pass its bounds."""
    match space:
        case spaces.Discrete():
            return (numbers >= space.start) & (numbers - space.start < space.n)
        case spaces.MultiDiscrete():
            if numbers.shape[numbers.ndim - space.nvec.ndim :] != space.nvec.shape:
                return np.True_
            return (numbers >= space.start) & (numbers - space.start < space.nvec)
        case spaces.MultiBinary():
            return (numbers == 0) | (numbers == 1)
        case _:
            return np.True_


def _refuse(where: str, given: str, right: str) -> NoReturn:
    place = f"observation {where!r}" if where else "observation"
    raise ValueError(f"{place} is {given}; it should be {right}")


def _kind(given: Any) -> str:
    return f"a {type(given).__name__}"


def _batch(tree: Any) -> Any:
    """A batch of one."""
    if isinstance(tree, dict):
        return {key: _batch(part) for key, part in cast(dict[str, Any], tree).items()}
    return tuple(map(_batch, cast(Any, tree))) if isinstance(tree, tuple) else tree[None]
