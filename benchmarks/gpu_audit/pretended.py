"""Pretended CUDA tensors: shapes, types and devices without numbers, and without a GPU.

PyTorch's ``FakeTensorMode`` runs every operation on them as a GPU would, but for the numbers. A
tensor on the wrong device is an error there, and so is every number that the host asks for.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override


class Crossing(RuntimeError):
    """Numbers go from one device to another where they should stay."""


class _NoCrossing(TorchDispatchMode):
    """Refuses copies between host and device: both make the host wait, or cannot be captured."""

    @override
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        function = func
        result = function(*args, **(kwargs or {}))
        copies = function in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
        if copies:
            source = args[1] if function is torch.ops.aten.copy_.default else args[0]
            devices = {source.device.type, result.device.type}
            # a single number of the host is an argument of the kernel
            if len(devices) > 1 and not (source.device.type == "cpu" and source.dim() == 0):
                raise Crossing(f"a tensor goes from {source.device} to {result.device}")
        return result


@contextmanager
def pretended_cuda() -> Iterator[None]:
    """A block whose tensors are made on a pretended CUDA device, unless another one is named."""
    with ExitStack() as stack:
        stack.enter_context(FakeTensorMode())
        stack.enter_context(torch.device("cuda"))
        yield


@contextmanager
def nothing_crosses() -> Iterator[None]:
    """A block in which no numbers go from the device to the host or back."""
    with _NoCrossing():
        yield


def backward(loss: Tensor) -> None:
    """``loss.backward()``, one node of the graph after another.

    PyTorch's own engine has a queue for every device that exists, and none does here. What the
    nodes compute is the same, the gradients written by hand included.
    """
    order, gradients = _from_the_loss(loss.grad_fn), defaultdict(dict)
    gradients[loss.grad_fn][0] = torch.ones_like(loss)
    for node in order:
        given = gradients.pop(node, {})
        if hasattr(node, "variable"):
            old = node.variable.grad
            node.variable.grad = given[0] if old is None else old + given[0]
            continue
        if not given:
            continue
        found = _call(node, given)
        for (following, index), gradient in zip(node.next_functions, found, strict=True):
            if following is not None and gradient is not None:
                new = _fitted(gradient, following._input_metadata[index])
                before = gradients[following].get(index)
                gradients[following][index] = new if before is None else before + new


def _from_the_loss(root: Any) -> list[Any]:
    """All nodes, each before those that its gradients go to."""
    order, seen, stack = [], set(), [(root, False)]
    while stack:
        node, expanded = stack.pop()
        if expanded:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack += [(each, False) for each, _ in node.next_functions if each is not None]
    return order[::-1]


def _call(node: Any, given: dict[int, Tensor]) -> tuple[Any, ...]:
    gradients = [given.get(index) for index in range(len(node._input_metadata))]
    # a gradient written by hand is a method of its node, which is given zeros for none
    by_hand = getattr(node, "apply", None)
    if by_hand is not None:
        gradients = [
            torch.zeros(like.shape, dtype=like.dtype, device=like.device) if x is None else x
            for x, like in zip(gradients, node._input_metadata, strict=True)
        ]
    with torch.no_grad():
        found = (by_hand or node)(*gradients)
    found = found if isinstance(found, tuple) else (found,)
    if by_hand is None:
        return found
    # one for each argument, those included that are no tensors
    wanted = iter(g for g, needed in zip(found, node.needs_input_grad, strict=True) if needed)
    return tuple(None if each is None else next(wanted) for each, _ in node.next_functions)


def _fitted(gradient: Tensor, like: Any) -> Tensor:
    """The gradient in the shape and type of what it is the gradient of, as PyTorch's engine does.

    Raises:
        Crossing: If it is on another device.
    """
    if gradient.device != like.device:
        what = f"gradient of {tuple(like.shape)} on {like.device}"
        raise Crossing(f"the {what} is on {gradient.device}")
    return gradient.sum_to_size(like.shape).to(like.dtype)
