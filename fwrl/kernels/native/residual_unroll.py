"""A residual stack over whole sequences, with gradients: products in PyTorch, the rest in C.

What stands between two matrix products is one pass over memory, forward and backward: additions to
the stream with the norm that follows, GELU with its bias, and the scan from the projections on.
"""

from collections.abc import Sequence
from ctypes import c_double, c_int64, c_void_p
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from typing_extensions import override

from fwrl.feature_maps import EPSILON
from fwrl.kernels.native import library as c
from fwrl.kernels.native.loop import Kernel
from fwrl.kernels.native.projected_scan import LOOP, ProjectedScan
from fwrl.kernels.native.residual import OfLayer

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
KERNEL = Kernel(LOOP)


class Unrolled(NamedTuple):
    """The tensors of a layer: its memory before the sequence, and its parameters."""

    state: Float[Tensor, "B H K V"]
    fresh: Float[Tensor, "1 H K V"] | None
    core_scale: Float[Tensor, " D"]
    core_shift: Float[Tensor, " D"]
    project: Float[Tensor, "P D"]
    beta: Float[Tensor, "H D"] | None
    beta_bias: Float[Tensor, " H"] | None
    output: Float[Tensor, "D R"]
    scale: Float[Tensor, " D"]
    shift: Float[Tensor, " D"]
    widen: Float[Tensor, "F D"]
    widen_bias: Float[Tensor, " F"]
    narrow: Float[Tensor, "D F"]
    narrow_bias: Float[Tensor, " D"]


class LayerNumbers(NamedTuple):
    """The numbers of a layer: of its memory, and what is added to variances."""

    removes: bool
    max_beta: float
    core_epsilon: float
    epsilon: float


class Normed(NamedTuple):
    """A sum, its norm, and what the backward pass reads again."""

    sum: Float[Tensor, "R D"]
    output: Float[Tensor, "R D"]
    mean: Float[Tensor, " R"]
    inverse: Float[Tensor, " R"]


class Kept(NamedTuple):
    """The results of a layer that its backward pass reads."""

    first: Normed
    weight: Float[Tensor, "P D"]
    projected: Float[Tensor, "B T P"]
    values: Float[Tensor, "B T H V"]
    error: Tensor
    checkpoints: Tensor
    second: Normed
    # of GELU
    slope: Float[Tensor, "R F"]
    hidden: Float[Tensor, "R F"]


def unroll(
    x: Float[Tensor, "B T D"],
    starts: Bool[Tensor, "B T"],
    layers: Sequence[tuple[Unrolled, LayerNumbers]],
    norm: tuple[Float[Tensor, " D"], Float[Tensor, " D"], float],
) -> tuple[Float[Tensor, "B T D"], list[OfLayer]]:
    """The normed stream after all layers, and their memories after the sequence.

    Args:
        x: The stream before the first layer.
        starts: Where an episode begins.
        layers: Tensors and numbers of each.
        norm: Scale, shift, and what is added to the variance, of the norm after the last layer.
    """
    *parameters, epsilon = norm
    settings = tuple(each for _, each in layers)
    tensors = [tensor for each, _ in layers for tensor in each]
    y, *ends = cast(Any, _Unroll).apply(settings, epsilon, x, starts, *tensors, *parameters)
    return y, ends


class _Unroll(torch.autograd.Function):
    """The stream through all layers and the last norm."""

    @override
    @staticmethod
    def forward(ctx: Any, *given: Any) -> tuple[Tensor, ...]:
        settings, epsilon, x, starts, *tensors, scale, shift = given
        layers = _split(Unrolled, tensors)
        stream, added, bias = x.contiguous().flatten(0, 1), None, None
        kept, ends = list[Kept](), list[Tensor]()
        for layer, numbers in zip(layers, settings, strict=True):
            first = _norm(stream, added, bias, layer.core_scale, layer.core_shift, numbers[2])
            through, end = _layer(first, layer, numbers, starts)
            added, bias = through.hidden @ layer.narrow.t(), layer.narrow_bias
            stream = through.second.sum
            kept.append(through)
            ends.append(end)
        last = _norm(stream, added, bias, scale, shift, epsilon)
        ctx.set_materialize_grads(False)
        ctx.settings, ctx.shape = settings, x.shape
        saved = [tensor for each in kept for tensor in _flat(each)]
        ctx.save_for_backward(starts, *tensors, scale, *saved, last.sum, last.mean, last.inverse)
        return last.output.view(x.shape), *ends

    @override
    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        count = len(ctx.settings) * len(Unrolled._fields)
        starts, *rest = ctx.saved_tensors
        layers, scale = _split(Unrolled, rest[:count]), rest[count]
        *saved, total, mean, inverse = rest[count + 1 :]
        to_y, *to_ends = gradients
        to_y = total.new_zeros(total.shape) if to_y is None else to_y.flatten(0, 1).contiguous()
        last = Normed(total, total, mean, inverse)
        to_stream, *to_norm, to_bias = _norm_back(last, scale, to_y, None)
        found = list[Tensor | None]()
        size = len(saved) // len(layers)
        for i in reversed(range(len(layers))):
            kept = _gathered(saved[i * size : (i + 1) * size])
            to_layer, to_stream, to_before = _layer_back(
                kept, layers[i], ctx.settings[i], starts, to_stream, to_ends[i]
            )
            found = [*to_layer, to_bias, *found]
            to_bias = to_before
        return None, None, to_stream.view(ctx.shape), None, *found, *to_norm


def _layer(
    first: Normed, layer: Unrolled, numbers: LayerNumbers, starts: Tensor
) -> tuple[Kept, Tensor]:
    """A layer up to the product that it adds to the stream; and its memory after the sequence."""
    weight = layer.project if layer.beta is None else torch.cat([layer.project, layer.beta])
    projected = (first.output @ weight.t()).view(*starts.shape, -1)
    scan = _scan(projected, layer, numbers, starts)
    values, end, error, checkpoints = KERNEL.forward(scan, True)
    added = values.view(-1, layer.output.shape[1]) @ layer.output.t()
    second = _norm(first.sum, added, None, layer.scale, layer.shift, numbers.epsilon)
    slope = second.output @ layer.widen.t()
    hidden = torch.empty_like(slope)
    _gelu("forward", slope, hidden, bias=layer.widen_bias)
    kept = Kept(first, weight, projected, values, error, checkpoints, second, slope, hidden)
    return kept, end


def _layer_back(
    kept: Kept,
    layer: Unrolled,
    numbers: LayerNumbers,
    starts: Tensor,
    to_stream: Tensor,
    to_end: Tensor | None,
) -> tuple[list[Tensor | None], Tensor, Tensor]:
    """The gradients of the tensors of a layer but for the last bias, and of the stream before it.

    Also the sum of the latter over all rows.
    """
    to_hidden, to_widen_bias = to_stream @ layer.narrow, torch.empty_like(layer.widen_bias)
    to_narrow = to_stream.t() @ kept.hidden
    _gelu("backward", kept.slope, to_hidden, to_bias=to_widen_bias)
    to_widen = to_hidden.t() @ kept.second.output
    to_stream, to_scale, to_shift, _ = _norm_back(
        kept.second, layer.scale, to_hidden @ layer.widen, to_stream
    )
    to_output = to_stream.t() @ kept.values.view(to_stream.shape[0], -1)
    to_values = (to_stream @ layer.output).view(kept.values.shape)
    to_end = torch.zeros_like(layer.state) if to_end is None else to_end
    to_projected, to_beta_bias, _, to_state, to_fresh = KERNEL.backward(
        _scan(kept.projected, layer, numbers, starts),
        [kept.error, kept.checkpoints],
        [to_values, to_end],
    )
    to_projected = to_projected.flatten(0, 1)
    to_weight = to_projected.t() @ kept.first.output
    to_project, to_beta = to_weight.tensor_split([len(layer.project)])
    to_stream, to_core_scale, to_core_shift, to_bias = _norm_back(
        kept.first, layer.core_scale, to_projected @ kept.weight, to_stream
    )
    found = [to_state, to_fresh, to_core_scale, to_core_shift, to_project, to_beta, to_beta_bias]
    found = [None if x is None else each for x, each in zip(layer, found, strict=False)]
    found += [to_output, to_scale, to_shift, to_widen, to_widen_bias, to_narrow]
    return found, to_stream, to_bias


def _scan(
    projected: Tensor, layer: Unrolled, numbers: LayerNumbers, starts: Tensor
) -> ProjectedScan:
    return ProjectedScan(
        projected,
        layer.beta_bias,
        None,
        layer.state,
        layer.fresh,
        starts,
        numbers.removes,
        EPSILON,
        numbers.max_beta,
    )


def _norm(
    x: Tensor,
    added: Tensor | None,
    bias: Tensor | None,
    scale: Tensor,
    shift: Tensor,
    epsilon: float,
) -> Normed:
    """The norm of ``x``, or of its sum with ``added``, in whose place the sum then is."""
    output, mean, inverse = torch.empty_like(x), x.new_empty(len(x)), x.new_empty(len(x))
    _run(
        SUM_NORM,
        "fwrl_sum_norm_forward",
        x,
        epsilon=epsilon,
        input=x,
        added=added,
        bias=bias,
        sum=added,
        scale=scale,
        shift=shift,
        output=output,
        mean=mean,
        inverse=inverse,
    )
    return Normed(x if added is None else added, output, mean, inverse)


def _norm_back(
    normed: Normed, scale: Tensor, to_output: Tensor, from_sum: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of the sum, in place of ``from_sum`` if given, and of scale, shift and bias."""
    to_scale, to_shift, to_bias = (torch.empty_like(scale) for _ in range(3))
    to_sum = torch.empty_like(to_output) if from_sum is None else from_sum
    _run(
        SUM_NORM,
        "fwrl_sum_norm_backward",
        to_output,
        sum=normed.sum,
        scale=scale,
        mean=normed.mean,
        inverse=normed.inverse,
        from_output=to_output,
        from_sum=from_sum,
        to_sum=to_sum,
        to_scale=to_scale,
        to_shift=to_shift,
        to_bias=to_bias,
    )
    return to_sum, to_scale, to_shift, to_bias


def _gelu(direction: str, rows: Tensor, output: Tensor, **others: Tensor) -> None:
    _run(BIAS_GELU, f"fwrl_bias_gelu_{direction}", rows, rows_in=rows, output=output, **others)


def _run(structure: Any, function: str, rows: Tensor, **fields: Tensor | float | None) -> None:
    """Call a function on rows; every tensor lies without gaps."""
    call = structure(rows=rows.shape[0], width=rows.shape[1])
    # an exponential, or two passes over a row, are worth some ten products
    call.threads = c.threads_for(10 * rows.numel())
    for name, x in fields.items():
        setattr(call, name, x.data_ptr() if isinstance(x, Tensor) else x)
    c.run(function, call)


def _split(kind: Any, tensors: Sequence[Any]) -> list[Any]:
    size = len(kind._fields)
    return [kind(*tensors[i : i + size]) for i in range(0, len(tensors), size)]


def _flat(kept: Kept) -> list[Tensor]:
    return [t for part in kept for t in (part if isinstance(part, Normed) else (part,))]


def _gathered(tensors: Sequence[Tensor]) -> Kept:
    """The reverse of ``_flat``."""
    size = len(Normed._fields)
    first, rest = Normed(*tensors[:size]), tensors[size:]
    second, slopes = Normed(*rest[5 : 5 + size]), rest[5 + size :]
    return Kept._make((first, *rest[:5], second, *slopes))
