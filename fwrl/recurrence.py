"""Recurrences over time with exact resets: the one sequential scan, and a parallel linear one."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, TypeVar, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from typing_extensions import override

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
    outputs: list[Tensor] = []
    for starts_t, any_start in zip(starts.unbind(1), _anywhere(starts), strict=True):
        if any_start:
            state = where_state(starts_t, fresh, state)
        y, state = advance(_next(inputs, columns), state)
        outputs.append(y)
    return torch.stack(outputs, dim=1), state


def by_spans(
    advance: Callable[[Inputs, State], tuple[Tensor, State]],
    inputs: Inputs,
    state: State,
    starts: Bool[Tensor, "B T"],
    fresh: State,
    changes: Bool[Tensor, "B T"],
) -> tuple[Float[Tensor, "B T *E"], State]:
    """As ``by_steps``, for a state that stays the same over many times: these are one call.

    Args:
        advance: Takes the inputs of a span of times, and the state at all of them; gives outputs
            and the state after the last.
        inputs: A tensor or a nesting of them, each ``[B, T, ...]``.
        state: What the streams remember before the first time.
        starts: Where True, ``fresh`` replaces the state before the inputs are read.
        fresh: The state that an episode begins with, for every stream.
        changes: After which times the state of a stream changes: a span ends there for all of them.
    """
    opens, closes = _anywhere(starts), _anywhere(changes)
    times = len(opens)
    firsts = [0] + [t for t in range(1, times) if opens[t] or closes[t - 1]]
    lengths = [end - first for first, end in pairwise([*firsts, times])]
    columns = [iter(leaf.split(lengths, dim=1)) for leaf in tensors_in(inputs)]
    outputs: list[Tensor] = []
    for first in firsts:
        if opens[first]:
            state = where_state(starts[:, first], fresh, state)
        y, state = advance(_next(inputs, columns), state)
        outputs.append(y)
    return torch.cat(outputs, dim=1), state


def _anywhere(marks: Bool[Tensor, "B T"]) -> list[bool]:
    """At which times any stream is marked, so that the others cost nothing.

    One transfer to the host per sequence. A program that is exported has to serve all cases.
    """
    if torch.compiler.is_exporting():
        return [True] * marks.shape[1]
    return marks.any(dim=0).tolist()


def _next(inputs: Inputs, columns: list[Iterator[Tensor]]) -> Inputs:
    leaves = iter(columns)

    def take(_: Tensor) -> Tensor:
        return next(next(leaves))

    return map_tensors(take, inputs)


def one_before(
    first: Float[Tensor, " B *E"],
    later: Float[Tensor, "B T *E"],
    starts: Bool[Tensor, "B T"] | None,
) -> Float[Tensor, "B T *E"]:
    """What each time finds of the one before: ``first`` at the first; zeros where it starts."""
    found = torch.cat([first.unsqueeze(1), later[:, :-1]], dim=1)
    if starts is None:
        return found
    return found.masked_fill(starts.view(starts.shape + (1,) * (found.dim() - 2)), 0.0)


def linear_recurrence(
    factor: Tensor, addend: Tensor, state: Tensor, starts: Bool[Tensor, "B T"]
) -> Tensor:
    """All states of ``h[t] = factor[t] * h[t - 1] + addend[t]``, element by element.

    An associative scan (Blelloch 1990): about ``2 log2(T)`` parallel steps over ``2T`` products in
    all, and as many for the gradient. Episodes begin with zeros; a start selects and never
    multiplies. Nothing is ever divided.

    Args:
        factor: ``[#B, #T, ...]``, broadcast against ``addend``; real or complex.
        addend: ``[B, T, ...]``, of the same precision.
        state: ``[B, ...]``, before the first time.
        starts: Where True, nothing of the past is kept.
    """
    factor = factor.expand(-1, addend.shape[1], *(-1,) * (addend.dim() - 2))
    return cast(Tensor, _LinearRecurrence.apply(factor, addend, state.to(addend.dtype), starts))


def complex_recurrence(
    factor: Tensor, addend: Tensor, state: Tensor, starts: Bool[Tensor, "B T"]
) -> Tensor:
    """``linear_recurrence`` of complex numbers that are given as two real ones.

    Args:
        factor: ``[...]``, complex: the same for all streams and times.
        addend: ``[B, T, ..., 2]``.
        state: ``[B, ..., 2]``.
        starts: Where True, nothing of the past is kept.
    """
    state = state.to(addend.dtype)
    if torch.compiler.is_exporting():
        return _turn(factor, state, starts).unsqueeze(1) + addend
    before, added = torch.view_as_complex(state.contiguous()), torch.view_as_complex(addend)
    return torch.view_as_real(linear_recurrence(factor[None, None], added, before, starts))


def _turn(factor: Tensor, state: Tensor, starts: Bool[Tensor, "B 1"]) -> Tensor:
    """What a single time keeps of the state, without complex numbers: no other program has them."""
    across, up = torch.view_as_real(factor).unbind(-1)
    real, imaginary = state.unbind(-1)
    turned = torch.stack([across * real - up * imaginary, up * real + across * imaginary], dim=-1)
    return turned.masked_fill(starts.view(-1, *(1,) * (turned.dim() - 1)), 0.0)


class _LinearRecurrence(torch.autograd.Function):
    """The gradient of a linear recurrence is one backwards in time, over the same links."""

    @override
    @staticmethod
    def forward(
        ctx: Any, factor: Tensor, addend: Tensor, state: Tensor, starts: Bool[Tensor, "B T"]
    ) -> Tensor:
        cut = starts.view(starts.shape + (1,) * (addend.dim() - 2))
        states = addend.clone()
        states[:, 0] += (factor[:, 0] * state).masked_fill_(cut[:, 0], 0.0)
        _pass_on(factor[:, 1:], cut[:, 1:], states, backward=False)
        ctx.save_for_backward(factor, state, cut, states)
        return states

    @override
    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Any
    ) -> tuple[Tensor | None, Tensor, Tensor, None]:
        factor, state, cut, states = ctx.saved_tensors
        to_addend = grad_outputs[0].clone()
        factor = factor.conj()
        _pass_on(factor[:, 1:], cut[:, 1:], to_addend, backward=True)
        to_state = (factor[:, 0] * to_addend[:, 0]).masked_fill_(cut[:, 0], 0.0)
        if not ctx.needs_input_grad[0]:
            return None, to_addend, to_state, None
        to_factor = torch.empty_like(to_addend)
        torch.mul(to_addend[:, 0], state.conj(), out=to_factor[:, 0])
        torch.mul(to_addend[:, 1:], states[:, :-1].conj(), out=to_factor[:, 1:])
        to_factor = to_factor.masked_fill_(cut, 0.0).sum_to_size(factor.shape)
        return to_factor, to_addend, to_state, None


def _pass_on(link: Tensor, cut: Tensor, states: Tensor, backward: bool) -> None:
    """Add to each time of ``states``, in place, all that the times before it (or after) pass on.

    Every second time takes in the one before it, becomes part of a recurrence half as long, and
    then hands on to the one after it. Backwards the same moves run in the opposite order.

    Args:
        link: What the time after is given of each time but the last.
        cut: Where nothing is given, whatever the link and the states hold.
        states: What each time adds; then what each time knows.
        backward: Whether later times give to earlier ones.
    """
    if states.shape[1] < 2:
        return
    late, rest = states[:, 1::2], states[:, 2::2]
    pairs, others = late.shape[1], rest.shape[1]
    early, giver = states[:, : 2 * pairs : 2], late[:, :others]
    inner, inner_cut = link[:, 0::2], cut[:, 0::2]
    outer, outer_cut = link[:, 1::2], cut[:, 1::2]
    if backward:
        giver += (outer * rest).masked_fill_(outer_cut, 0.0)
    else:
        late += (inner * early).masked_fill_(inner_cut, 0.0)
    both = outer[:, : pairs - 1] * inner[:, 1:]
    _pass_on(both, outer_cut[:, : pairs - 1] | inner_cut[:, 1:], late, backward)
    if backward:
        early += (inner * late).masked_fill_(inner_cut, 0.0)
    else:
        rest += (outer * giver).masked_fill_(outer_cut, 0.0)


def time_in_episode(starts: Bool[Tensor, "B T"], before: Float[Tensor, " B"]) -> Tensor:
    """How many times of its episode each time has seen, itself included: ``[B, T]``, from 1 up.

    Args:
        starts: The times that open an episode.
        before: How many times the open episodes have seen before the first one here.
    """
    if starts.shape[1] == 1:
        return torch.where(starts, 1.0, before.unsqueeze(1) + 1)
    index = torch.arange(1, starts.shape[1] + 1, device=starts.device, dtype=before.dtype)
    opened = torch.where(starts, index, 0.0).cummax(dim=1).values
    return torch.where(opened > 0, index - opened + 1, before.unsqueeze(1) + index)
