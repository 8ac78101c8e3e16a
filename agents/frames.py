"""Frame stacks: an observation and those before it, which a policy remembers itself."""

from functools import partial
from typing import Any

import torch
from gymnasium import spaces
from gymnasium.vector.utils import create_empty_array
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from agents.observations import to_tensors
from fwrl.state import map_tensors, tensors_in


def blank_frames(space: spaces.Space[Any], count: int) -> Any:
    """``count`` frames of one stream that has not begun: zeros; None if there are none."""
    if not count:
        return None
    one = to_tensors(create_empty_array(space, 1), torch.device("cpu"))

    def repeat(leaf: Tensor) -> Tensor:
        return torch.zeros_like(leaf).unsqueeze(1).repeat_interleave(count, 1)

    return map_tensors(repeat, one)


def stack_frames(frames: Any, observation: Any, starts: Bool[Tensor, "B T"]) -> tuple[Any, Any]:
    """Each observation behind those before it, and the frames for the next call.

    An episode's first observation stands for those that would be before it.

    Args:
        frames: The observations before the first one here, ``[B, N - 1, ...]``.
        observation: The observations, ``[B, T, ...]``.
        starts: Which of them open an episode.

    Returns:
        Tensors ``[B, T, N, ...]``, oldest first, and frames as given.
    """
    before = tensors_in(frames)[0].shape[1]
    stacked = map_tensors(partial(_stack, place=_places(starts, before)), frames, observation)
    return stacked, map_tensors(_newest, stacked)


def _newest(stacked: Tensor) -> Tensor:
    """The frames before the next observation."""
    return stacked[:, -1, 1:]


def _places(starts: Bool[Tensor, "B T"], before: int) -> Int[Tensor, "B T size"]:
    """Where each frame stands in a row of the frames before and the observations."""
    times = torch.arange(starts.shape[1], device=starts.device)
    opened = torch.where(starts, times, -before)
    # an exported program steps once, and may lack cumulative maxima
    opened = opened if len(times) == 1 else opened.cummax(dim=1).values
    lags = torch.arange(-before, 1, device=starts.device)
    return torch.maximum(times.unsqueeze(1) + lags, opened.unsqueeze(-1)) + before


def _stack(
    frames: Shaped[Tensor, "B before ..."],
    observation: Shaped[Tensor, "B T ..."],
    place: Int[Tensor, "B T size"],
) -> Shaped[Tensor, "B T size ..."]:
    rows = torch.arange(place.shape[0], device=place.device).view(-1, 1, 1)
    return torch.cat([frames, observation], dim=1)[rows, place]


def frames_as_channels(
    observation: Shaped[Tensor, "..."], channel_axis: int | None
) -> Shaped[Tensor, "..."]:
    """Stacked pictures as one each, with the channels of all; first if they had no such axis."""
    if channel_axis is None:
        return observation
    if channel_axis == 0:
        return observation.flatten(-4, -3)
    return observation.movedim(-4, -2).flatten(-2)
