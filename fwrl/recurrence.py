"""Recurrences over time with exact resets: the one sequential scan, and a parallel linear one."""

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fwrl.state import map_tensors, tensors_in, where_state

# What is read at one time, and at all of them with a second axis for time.
Inputs = TypeVar("Inputs")
State = TypeVar("State")


def by_steps(
    advance: Callable[[Inputs, State], tuple[Tensor, State]],
    inputs: Inputs,
    state: State,
    starts: Bool[Tensor, "B T"],
    fresh: State,
) -> tuple[Float[Tensor, "B T *E"], State]:
    """One time after another: outputs and the last state.

    All that does not depend on the state belongs into ``inputs``, computed for all times at once.

    Args:
        advance: Takes the inputs of one time and the state; gives an output and the new state.
        inputs: A tensor or a nesting of them, each ``[B, T, ...]``.
        state: What the streams remember before the first time.
        starts: Where True, ``fresh`` replaces the state before the inputs are read.
        fresh: The state that an episode begins with, for every stream.
    """
    # unbinding once keeps the backward pass linear in T; indexing each time would not
    columns = [iter(leaf.unbind(1)) for leaf in tensors_in(inputs)]
    # one transfer to the host per sequence, so that times without a start cost no selection
    any_starts: list[bool] = starts.any(dim=0).tolist()
    outputs: list[Tensor] = []
    for starts_t, any_start in zip(starts.unbind(1), any_starts, strict=True):
        if any_start:
            state = where_state(starts_t, fresh, state)
        y, state = advance(_next_time(inputs, columns), state)
        outputs.append(y)
    return torch.stack(outputs, dim=1), state


def _next_time(inputs: Inputs, columns: list[Iterator[Tensor]]) -> Inputs:
    leaves = iter(columns)

    def take(_: Tensor) -> Tensor:
        return next(next(leaves))

    return map_tensors(take, inputs)


def linear_recurrence(
    factor: Tensor, addend: Tensor, state: Tensor, starts: Bool[Tensor, "B T"]
) -> Tensor:
    """All states of ``h[t] = factor[t] * h[t - 1] + addend[t]``, element by element.

    An associative scan by doubling (Hillis and Steele 1986): ``log2(T)`` parallel steps. Episodes
    begin with zeros; a start selects and never multiplies.

    Args:
        factor: ``[#B, #T, ...]``, broadcast against ``addend``; real or complex.
        addend: ``[B, T, ...]``.
        state: ``[B, ...]``, before the first time.
        starts: Where True, nothing of the past is kept.
    """
    shape = starts.shape + (1,) * (addend.dim() - 2)
    cut = starts.view(shape)
    factor = factor.expand_as(addend)
    # the past enters as a part of the first addend, unless the first time starts
    first = torch.where(cut[:, 0], 0.0, state) * torch.where(cut[:, 0], 0.0, factor[:, 0])
    addend = torch.cat([(addend[:, 0] + first).unsqueeze(1), addend[:, 1:]], dim=1)
    factor = torch.where(cut, 0.0, factor)
    times, reach = addend.shape[1], 1
    while reach < times:
        # where an episode began within reach the earlier partial result is not even looked at
        earlier = torch.where(cut[:, reach:], 0.0, addend[:, :-reach])
        later = addend[:, reach:] + factor[:, reach:] * earlier
        addend = torch.cat([addend[:, :reach], later], dim=1)
        factor = torch.cat([factor[:, :reach], factor[:, reach:] * factor[:, :-reach]], dim=1)
        cut = torch.cat([cut[:, :reach], cut[:, reach:] | cut[:, :-reach]], dim=1)
        reach *= 2
    return addend


def time_in_episode(starts: Bool[Tensor, "B T"], before: Float[Tensor, " B"]) -> Tensor:
    """How many times of its episode each time has seen, itself included: ``[B, T]``, from 1 up.

    Args:
        starts: The times that open an episode.
        before: How many times the open episodes have seen before the first one here.
    """
    index = torch.arange(1, starts.shape[1] + 1, device=starts.device, dtype=before.dtype)
    opened = torch.where(starts, index, 0.0).cummax(dim=1).values
    return torch.where(opened > 0, index - opened + 1, before.unsqueeze(1) + index)
