"""Keys and queries of unit length after SiLU: one pass over memory, where the library is there."""

from ctypes import c_double, c_int64, c_void_p
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from fwrl.feature_maps import EPSILON, normalise, silu
from fwrl.kernels.native import library as c
from fwrl.state import at_least_float32

UNIT_SILU = c.structure(
    "UnitSilu",
    {
        **dict.fromkeys(("count", "size", "group", "stride", "threads"), c_int64),
        "epsilon": c_double,
        **dict.fromkeys(("input", "output", "from_output", "to_input"), c_void_p),
    },
)


def unit_silu(x: Float[Tensor, "*B K"], native: bool) -> Float[Tensor, "*B K"]:
    """``silu`` scaled to unit length, in float32 or more; ``native``: in C, where that is there."""
    x = at_least_float32(x)
    if native and c.served(x):
        return cast(Tensor, torch.ops.fwrl.unit_silu(x))
    return normalise(silu(x), "l2")


def _run(function: str, x: Tensor, **others: Tensor) -> None:
    """Call a function with ``x`` as its input, and others without gaps."""
    size, group, stride = x.shape[-1], *_groups(x)
    if not group:
        x = x.contiguous()
        group, stride = 1, size
    call = UNIT_SILU(
        count=x.numel() // size,
        size=size,
        group=group,
        stride=stride,
        # an exponential is worth some ten products
        threads=c.threads_for(10 * x.numel()),
        epsilon=EPSILON,
        input=x.data_ptr(),
        **{name: other.data_ptr() for name, other in others.items()},
    )
    c.run(function, call)


def _groups(x: Tensor) -> tuple[int, int]:
    """How many vectors follow each other without a gap, and where the next such group begins.

    0 where vectors do not lie in groups at equal distances, as those of a slice of a projection do.
    """
    group, axis = 1, x.dim() - 2
    if x.stride(-1) != 1:
        return 0, 0
    while axis >= 0 and x.stride(axis) == group * x.shape[-1]:
        group *= x.shape[axis]
        axis -= 1
    if axis < 0:
        return group, group * x.shape[-1]
    stride, expected = x.stride(axis), x.stride(axis)
    for outer in range(axis, -1, -1):
        if x.stride(outer) != expected:
            return 0, 0
        expected *= x.shape[outer]
    return group, stride


torch.library.define("fwrl::unit_silu", "(Tensor x) -> Tensor")
torch.library.define("fwrl::unit_silu_backward", "(Tensor x, Tensor to_y) -> Tensor")


@torch.library.impl("fwrl::unit_silu", "CPU")
def _forward(x: Tensor) -> Tensor:
    y = torch.empty(x.shape)
    _run("fwrl_unit_silu_forward", x, output=y)
    return y


@torch.library.impl("fwrl::unit_silu_backward", "CPU")
def _backward(x: Tensor, to_y: Tensor) -> Tensor:
    to_x, to_y = torch.empty(x.shape), to_y.contiguous()
    _run("fwrl_unit_silu_backward", x, from_output=to_y, to_input=to_x)
    return to_x


def _like(x: Tensor, *_: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def _keep(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:  # noqa: ARG001
    ctx.save_for_backward(*inputs)


@once_differentiable
def _back(ctx: Any, to_y: Tensor) -> Tensor:
    return cast(Tensor, torch.ops.fwrl.unit_silu_backward(*ctx.saved_tensors, to_y))


torch.library.register_fake("fwrl::unit_silu", _like)
torch.library.register_fake("fwrl::unit_silu_backward", _like)
torch.library.register_autograd("fwrl::unit_silu", _back, setup_context=_keep)
