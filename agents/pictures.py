"""Which arrays are pictures or maps of symbols, told by their shape, type and bounds.

The rule, unless ``encoder.channels`` or ``encoder.image`` says otherwise:

- An array of three axes has its channels along the last or the first one: along the one of them
  that has 1, 3 or 4 numbers if the other has not; else along the one beside which two sides are
  equal; else along the shorter one, the last of two that are equal. Two axes are one channel.
- With sides of at least 16 it is a picture if all its numbers have the same finite bounds, which
  begin at 0 if it has two axes. The numbers become shares of their range.
- With shorter sides, of at least 3, it is a map of symbols if it holds whole numbers from 0 to 255.
- Bytes along three axes are always one of both. Everything else is a vector.
"""

from typing import NamedTuple, cast

import numpy as np
from gymnasium import spaces
from typing_extensions import override

from fwrl.config import ConfigError

# The shortest side of an image that each network takes. ``nature`` would reduce a smaller one to
# nothing; images smaller than a thumbnail are maps of symbols.
MINIMUM_SIDE = {"nature": 36, "small": 36, "impala": 16, "grid": 1}
# Channels of grey, of colour, and of colour with transparency.
USUAL_CHANNELS = (1, 3, 4)
# The shortest side of a map that is not of bytes along three axes.
SHORTEST_SIDE = 3
LARGEST_BYTE = 255
# Wider bounds are those of a type, and say nothing about the numbers.
WIDEST_RANGE = 2.0**32


class Picture(NamedTuple):
    """How an array is read as a picture or a map of symbols."""

    network: str
    channels: int
    height: int
    width: int
    channel_axis: int | None
    """The axis of the channels, 0 or -1; None: there is none."""
    low: float
    """The number that becomes 0 in a picture."""
    high: float
    """The number that becomes 1 in a picture; the largest symbol of a map."""

    @override
    def __str__(self) -> str:
        kind = "map of symbols" if self.network == "grid" else "picture"
        channels = f"{self.channels} channel{'s' if self.channels > 1 else ''}"
        return f"{kind} {self.height} x {self.width}, {channels}, network {self.network}"


def picture_in(space: spaces.Box, image: str, channels: str) -> Picture | None:
    """The reading of an array as a picture or a map of symbols; None if it is a vector.

    Args:
        space: The array's space.
        image: ``encoder.image``.
        channels: ``encoder.channels``.

    Raises:
        ConfigError: If the network cannot read bytes of this size.
    """
    shape = space.shape
    if image == "vector" or len(shape) not in (2, 3) or 0 in shape:
        return None
    axis = None if len(shape) == 2 else _channel_axis(shape, channels)
    count = 1 if axis is None else shape[axis]
    sides = shape if axis is None else shape[:2] if axis else shape[1:]
    height, width = cast(tuple[int, int], sides)
    side = min(height, width)
    possible = [kind for kind, minimum in MINIMUM_SIDE.items() if side >= minimum]
    if len(shape) != 3 or space.dtype != np.uint8:
        possible = [kind for kind in possible if kind != "grid" or _is_whole(space)]
        other = image not in ("auto", *possible)
        if channels == "before" or other or not _looks_like_one(space, side, count):
            return None
    network = possible[0] if image == "auto" else image
    if network not in possible:
        raise ConfigError(
            f"encoder.image is {network!r}, which needs {MINIMUM_SIDE[network]} pixels a side; "
            f"for {side} use {' or '.join(map(repr, possible))}"
        )
    low, high = min(float(np.min(space.low)), 0.0), float(np.max(space.high))
    if network != "grid" and (channels == "before" or high <= low or not _alike(space)):
        low, high = 0.0, float(LARGEST_BYTE)
    return Picture(network, count, height, width, axis, low, high)


def _channel_axis(shape: tuple[int, ...], channels: str) -> int:
    first, middle, last = shape
    if channels in ("first", "last"):
        return 0 if channels == "first" else -1
    usual = [size in USUAL_CHANNELS for size in (first, last)]
    if channels == "auto" and usual[0] != usual[1]:
        return 0 if usual[0] else -1
    if channels == "auto" and (first == middle) != (middle == last):
        return -1 if first == middle else 0
    return -1 if last <= first else 0


def _looks_like_one(space: spaces.Box, side: int, channels: int) -> bool:
    low, high = float(np.min(space.low)), float(np.max(space.high))
    if side < MINIMUM_SIDE["impala"]:
        return _is_whole(space) and side >= SHORTEST_SIDE
    begins = low == 0 or len(space.shape) == 3
    # infinities and NaN are in no range
    return _alike(space) and 0 < high - low <= WIDEST_RANGE and begins and channels < side


def _alike(space: spaces.Box) -> bool:
    """Whether all numbers have the same bounds."""
    return all(bool((bound == bound.flat[0]).all()) for bound in (space.low, space.high))


def _is_whole(space: spaces.Box) -> bool:
    inside = np.min(space.low) >= 0 and np.max(space.high) <= LARGEST_BYTE
    return np.dtype(space.dtype).kind in "iub" and bool(inside)
