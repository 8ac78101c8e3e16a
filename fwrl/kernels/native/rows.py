"""Between the memories of a residual stack, for learning: products in PyTorch, the rest in C.

What is no product is one pass over memory, forward and backward: additions to the stream with the
norm that follows, and GELU with its bias.
"""

from ctypes import c_double, c_int64, c_void_p
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from typing_extensions import override

from fwrl.kernels.native import library as c

SUM_NORM = c.structure(
    "SumNorm",
    {
        **dict.fromkeys(("rows", "width", "threads"), c_int64),
        "epsilon": c_double,
        **dict.fromkeys(("input", "added", "bias", "sum", "scale", "shift"), c_void_p),
        **dict.fromkeys(("output", "mean", "inverse", "from_output", "from_sum"), c_void_p),
        **dict.fromkeys(("to_sum", "to_scale", "to_shift", "to_bias"), c_void_p),
    },
)
BIAS_GELU = c.structure(
    "BiasGelu",
    {
        **dict.fromkeys(("rows", "width", "threads"), c_int64),
        **dict.fromkeys(("rows_in", "bias", "output", "to_bias"), c_void_p),
    },
)


class Norm(NamedTuple):
    """The numbers of a layer normalisation."""

    scale: Float[Tensor, " D"]
    shift: Float[Tensor, " D"]
    epsilon: float


class FeedForward(NamedTuple):
    """The numbers of a linear map, GELU and a linear map, but for the bias of the second."""

    widen: Float[Tensor, "F D"]
    widen_bias: Float[Tensor, " F"]
    narrow: Float[Tensor, "D F"]


def sum_norm(
    x: Float[Tensor, "*B D"],
    added: Float[Tensor, "*B D"] | None,
    bias: Float[Tensor, " D"] | None,
    norm: Norm,
) -> tuple[Float[Tensor, "*B D"], Float[Tensor, "*B D"]]:
    """The sum of the stream, of what is added to it and of its bias; and the norm of the sum."""
    total, normed = cast(Any, _SumNorm).apply(x, added, bias, *norm)
    return x if added is None else total, normed


def feed_forward(x: Float[Tensor, "*B D"], parts: FeedForward) -> Float[Tensor, "*B D"]:
    """The network's output before the last bias."""
    return cast(Any, _FeedForward).apply(x, *parts)


class _SumNorm(torch.autograd.Function):
    """``sum_norm``; without anything added there is no sum."""

    @override
    @staticmethod
    def forward(ctx: Any, *given: Any) -> tuple[Tensor | None, Tensor]:
        x, added, bias, scale, shift, epsilon = given
        ctx.set_materialize_grads(False)
        x = x.contiguous()
        total = None if added is None else torch.empty_like(x)
        output, (mean, inverse) = torch.empty_like(x), x.new_empty(2, x[..., 0].numel())
        _run(
            SUM_NORM,
            "fwrl_sum_norm_forward",
            x,
            epsilon=epsilon,
            input=x,
            added=None if added is None else added.contiguous(),
            bias=bias,
            sum=total,
            scale=scale,
            shift=shift,
            output=output,
            mean=mean,
            inverse=inverse,
        )
        ctx.save_for_backward(x if total is None else total, scale, mean, inverse)
        ctx.biased = bias is not None
        return total, output

    @override
    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, from_sum: Tensor | None, from_output: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        total, scale, mean, inverse = ctx.saved_tensors
        to_sum = torch.empty_like(total)
        to_scale, to_shift, to_bias = (torch.empty_like(scale) for _ in range(3))
        from_output = torch.zeros_like(total) if from_output is None else from_output.contiguous()
        _run(
            SUM_NORM,
            "fwrl_sum_norm_backward",
            from_output,
            sum=total,
            scale=scale,
            mean=mean,
            inverse=inverse,
            from_output=from_output,
            from_sum=None if from_sum is None else from_sum.contiguous(),
            to_sum=to_sum,
            to_scale=to_scale,
            to_shift=to_shift,
            to_bias=to_bias,
        )
        to_added = to_sum if ctx.needs_input_grad[1] else None
        return to_sum, to_added, to_bias if ctx.biased else None, to_scale, to_shift, None


class _FeedForward(torch.autograd.Function):
    """``feed_forward``."""

    @override
    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        x, widen, bias, narrow = given
        rows = x.flatten(0, -2)
        # GELU leaves its slope in the place of its input
        slope = rows @ widen.t()
        hidden = torch.empty_like(slope)
        _run(BIAS_GELU, "fwrl_bias_gelu_forward", slope, rows_in=slope, output=hidden, bias=bias)
        ctx.save_for_backward(rows, widen, narrow, slope, hidden)
        return (hidden @ narrow.t()).view(x.shape)

    @override
    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, to_y: Tensor
    ) -> tuple[Tensor, ...]:
        rows, widen, narrow, slope, hidden = ctx.saved_tensors
        shape, to_y = to_y.shape, to_y.flatten(0, -2)
        to_hidden, to_bias = to_y @ narrow, torch.empty_like(widen[:, 0])
        to_narrow = to_y.t() @ hidden
        _run(
            BIAS_GELU,
            "fwrl_bias_gelu_backward",
            slope,
            rows_in=slope,
            output=to_hidden,
            to_bias=to_bias,
        )
        return (to_hidden @ widen).view(shape), to_hidden.t() @ rows, to_bias, to_narrow


def _run(structure: Any, function: str, x: Tensor, **fields: Tensor | float | None) -> None:
    """Call a function on the rows of ``x``; every tensor lies without gaps."""
    width = x.shape[-1]
    call = structure(rows=x.numel() // width, width=width)
    # an exponential, or two passes over a row, are worth some ten products
    call.threads = c.threads_for(10 * x.numel())
    for name, value in fields.items():
        setattr(call, name, value.data_ptr() if isinstance(value, Tensor) else value)
    c.run(function, call)
