"""What autograd and ``torch.compile`` see of the library: operators with a gradient each."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Operator(NamedTuple):
    """A function over time in C, and its way back.

    It takes ``inputs`` and whether a backward pass is wanted. Those that can have a gradient come
    first.
    """

    name: str
    # a named tuple, and its fields in the language of PyTorch's schemas
    inputs: Callable[..., Any]
    schema: str
    # what is returned, of which the first ``outputs`` can have gradients
    results: int
    outputs: int
    # which of the results the backward pass reads
    saved: tuple[int, ...]
    # (inputs, wanted) -> results
    forward: Callable[[Any, bool], Sequence[Tensor]]
    # the same with undefined numbers
    empty: Callable[[Any, bool], Sequence[Tensor]]
    # (inputs, what was saved, gradients of the outputs) -> gradients of the first inputs
    backward: Callable[[Any, Sequence[Tensor], Sequence[Tensor]], list[Tensor]]
    # the same with undefined numbers
    gradients: Callable[[Any], list[Tensor]]


def register(operator: Operator) -> Callable[[Any], Sequence[Tensor]]:
    """Define ``torch.ops.fwrl.<name>`` with its gradient; returns what runs it on inputs.

    What PyTorch need not see, as it is neither differentiated nor compiled, is spared its dispatch.
    """
    name, back_name = f"fwrl::{operator.name}", f"fwrl::{operator.name}_backward"
    results = ", ".join(["Tensor"] * operator.results)
    torch.library.define(name, f"({operator.schema}, bool wanted) -> ({results})")
    torch.library.define(
        back_name, f"({operator.schema}, Tensor[] saved, Tensor[] to_outputs) -> Tensor[]"
    )

    def forward(*given: Any) -> tuple[Tensor, ...]:
        return tuple(operator.forward(operator.inputs(*given[:-1]), given[-1]))

    def empty(*given: Any) -> tuple[Tensor, ...]:
        return tuple(operator.empty(operator.inputs(*given[:-1]), given[-1]))

    def backward(*given: Any) -> list[Tensor]:
        return operator.backward(operator.inputs(*given[:-2]), given[-2], given[-1])

    def gradients(*given: Any) -> list[Tensor]:
        return operator.gradients(operator.inputs(*given[:-2]))

    torch.library.impl(name, "CPU", forward)
    torch.library.impl(back_name, "CPU", backward)
    torch.library.register_fake(name, empty)
    torch.library.register_fake(back_name, gradients)
    _give_gradient(name, operator)
    seen = getattr(torch.ops.fwrl, operator.name)

    def run(inputs: Any) -> Sequence[Tensor]:
        tensors = [x for x in inputs if isinstance(x, Tensor)]
        wanted = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
        if wanted or torch.compiler.is_compiling():
            return seen(*inputs, wanted)
        return operator.forward(inputs, False)

    return run


def _give_gradient(name: str, operator: Operator) -> None:
    def keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        # results that are only kept have no gradients, and need no zeros for them
        ctx.set_materialize_grads(False)
        tensors = [x if isinstance(x, Tensor) else None for x in inputs[:-1]]
        ctx.others = [None if isinstance(x, Tensor) else x for x in inputs[:-1]]
        ctx.save_for_backward(*tensors, *(output[i] for i in operator.saved))

    @once_differentiable
    def back(ctx: Any, *to_results: Tensor | None) -> tuple[Tensor | None, ...]:
        count = len(ctx.others)
        tensors, saved = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        given = [o if x is None else x for x, o in zip(tensors, ctx.others, strict=True)]
        to_outputs = list(to_results[: operator.outputs])
        if any(x is None for x in to_outputs):
            # of what nobody used
            shapes = operator.empty(operator.inputs(*given), False)
            to_outputs = [
                torch.zeros_like(shape) if x is None else x
                for x, shape in zip(to_outputs, shapes, strict=False)
            ]
        call = getattr(torch.ops.fwrl, f"{operator.name}_backward")
        found: list[Tensor | None] = list(call(*given, list(saved), to_outputs))
        found += [None] * (count + 1 - len(found))
        return tuple(None if x is None else g for x, g in zip((*tensors, None), found, strict=True))

    torch.library.register_autograd(name, back, setup_context=keep)
