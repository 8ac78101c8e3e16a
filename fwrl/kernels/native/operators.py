"""Operators of PyTorch for loops in C, with gradients, and shapes for ``torch.compile``."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fwrl.kernels.native.loop import Inputs, Kernel, Loop


def register(loop: Loop[Inputs]) -> Callable[[Inputs], Sequence[Tensor]]:
    """Define ``torch.ops.fwrl.<name>``; returns what runs it on inputs and returns the outputs.

    Where nothing is differentiated or compiled, the dispatch of PyTorch is saved.
    """
    kernel, count = Kernel(loop), len(loop.outputs)
    name, back_name = f"fwrl::{loop.name}", f"fwrl::{loop.name}_backward"
    results = ", ".join(["Tensor"] * len(kernel.results))
    torch.library.define(name, f"({kernel.schema}, bool wanted) -> ({results})")
    torch.library.define(
        back_name, f"({kernel.schema}, Tensor[] saved, Tensor[] to_outputs) -> Tensor[]"
    )

    def forward(*given: Any) -> tuple[Tensor, ...]:
        return complete(kernel.forward(loop.inputs(*given[:-1]), given[-1]))

    def empty(*given: Any) -> tuple[Tensor, ...]:
        return complete(kernel.empty(loop.inputs(*given[:-1]), given[-1]))

    def complete(found: list[Tensor]) -> tuple[Tensor, ...]:
        # an operator always returns as many tensors
        missing = len(kernel.results) - len(found)
        return (*found, *(found[0].new_empty(0) for _ in range(missing)))

    def backward(*given: Any) -> list[Tensor]:
        return kernel.backward(loop.inputs(*given[:-2]), *given[-2:])

    def empty_gradients(*given: Any) -> list[Tensor]:
        return kernel.empty_gradients(loop.inputs(*given[:-2]))

    torch.library.impl(name, "CPU", forward)
    torch.library.impl(back_name, "CPU", backward)
    torch.library.register_fake(name, empty)
    torch.library.register_fake(back_name, empty_gradients)
    _give_gradient(name, kernel)
    operator = getattr(torch.ops.fwrl, loop.name)

    def run(inputs: Inputs) -> Sequence[Tensor]:
        tensors = [x for x in inputs if isinstance(x, Tensor)]
        wanted = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
        if wanted or torch.compiler.is_compiling():
            return operator(*inputs, wanted)[:count]
        return kernel.forward(inputs, False)

    return run


def _give_gradient(name: str, kernel: Kernel[Any]) -> None:
    loop, kept = kernel.loop, [list(kernel.results).index(n) for n in kernel.kept]

    def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        # results that are only saved have no gradients, and need no zeros for them
        ctx.set_materialize_grads(False)
        tensors = [x if isinstance(x, Tensor) else None for x in inputs[:-1]]
        ctx.others = [None if isinstance(x, Tensor) else x for x in inputs[:-1]]
        ctx.save_for_backward(*tensors, *(output[i] for i in kept))

    @once_differentiable
    def back(ctx: Any, *to_results: Tensor | None) -> tuple[Tensor | None, ...]:
        count = len(ctx.others)
        tensors, saved = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        given = [o if x is None else x for x, o in zip(tensors, ctx.others, strict=True)]
        to_outputs = list(to_results[: len(loop.outputs)])
        if any(x is None for x in to_outputs):
            # zeros for outputs that nothing used
            shapes = kernel.empty(loop.inputs(*given), False)
            to_outputs = [
                torch.zeros_like(shape) if x is None else x
                for x, shape in zip(to_outputs, shapes, strict=False)
            ]
        call = getattr(torch.ops.fwrl, f"{loop.name}_backward")
        found: list[Tensor | None] = list(call(*given, list(saved), to_outputs))
        found += [None] * (count + 1 - len(found))
        return tuple(None if x is None else g for x, g in zip((*tensors, None), found, strict=True))

    torch.library.register_autograd(name, back, setup_context=save)
