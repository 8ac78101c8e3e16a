"""Recurrences over time with exact resets, parallel: linear ones, and those of a maximum."""

from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from typing_extensions import override


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
    """The state times the factor in real numbers, for exported programs, which know no complex."""
    across, up = torch.view_as_real(factor).unbind(-1)
    real, imaginary = state.unbind(-1)
    turned = torch.stack([across * real - up * imaginary, up * real + across * imaginary], dim=-1)
    return turned.masked_fill(starts.view(-1, *(1,) * (turned.dim() - 1)), 0.0)


class _LinearRecurrence(torch.autograd.Function):
    """A linear recurrence whose gradient is one too, backwards in time over the same factors."""

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
    """Run the recurrence over ``states`` in place, forward or backward in time.

    Every second time takes in the one before it, becomes part of a recurrence half as long, and
    then hands on to the one after it. Backwards the same moves run in the opposite order.

    Args:
        link: The factor between each time and the next.
        cut: Where nothing is passed on, whatever the factor and the states hold.
        states: The addend of each time, which becomes its state.
        backward: Whether later times pass on to earlier ones.
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


def max_recurrence(
    change: Float[Tensor, "B T *E"],
    floor: Float[Tensor, "B T *E"],
    state: Float[Tensor, " B *E"],
    starts: Bool[Tensor, "B T"],
) -> Float[Tensor, "B T *E"]:
    """All states of ``h[t] = max(change[t] + h[t - 1], floor[t])``; they have no gradient.

    About ``log2(T)`` parallel steps over all times (Hillis and Steele 1986), for states of a few
    numbers. Changes are only added, never subtracted again: however much they sum up to, no digits
    are lost. Episodes begin with zeros.
    """
    change, floor = change.detach(), floor.detach()
    cut = starts.view(starts.shape + (1,) * (floor.dim() - 2))
    before = torch.full_like(floor[:, 1:], -torch.inf)
    before = torch.cat([state.detach().to(floor.dtype).unsqueeze(1), before], dim=1)
    found = torch.maximum(change + before.masked_fill(cut, 0.0), floor)
    reach = 1
    while reach < floor.shape[1]:
        later = (change[:, reach:] + found[:, :-reach]).masked_fill(cut[:, reach:], -torch.inf)
        found = torch.cat([found[:, :reach], torch.maximum(found[:, reach:], later)], dim=1)
        change = torch.cat([change[:, :reach], change[:, reach:] + change[:, :-reach]], dim=1)
        cut = torch.cat([cut[:, :reach], cut[:, reach:] | cut[:, :-reach]], dim=1)
        reach *= 2
    return found
