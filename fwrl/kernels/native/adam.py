"""Adam and the clipping of its gradient in C: one call, where PyTorch needs some eighty."""

import math
from collections.abc import Iterable
from ctypes import addressof, c_double, c_int64, c_void_p
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Adam, Optimizer

from fwrl.kernels.native import library as c

ADAM = c.structure(
    "Adam",
    {
        **dict.fromkeys(("arrays", "threads"), c_int64),
        **dict.fromkeys(("rate", "mean_decay", "square_decay", "epsilon", "longest"), c_double),
        **dict.fromkeys(("sizes", "values", "gradients", "means", "squares", "times"), c_void_p),
        "norm": c_void_p,
    },
)
# The settings of Adam that C knows by their default alone.
PLAIN = {"weight_decay": 0, "amsgrad": False, "maximize": False, "decoupled_weight_decay": False}
# Kept by the optimiser for each parameter: running means of the gradient and of its square.
KEPT = ("exp_avg", "exp_avg_sq")


def clipped_step(optimizer: Optimizer, longest: float | None) -> Float[Tensor, ""] | None:
    """The norm of the joint gradient, after a step of Adam along that gradient clipped to a norm.

    A gradient that is not finite changes nothing. The gradients are left as they are. Hooks before
    the optimiser's steps are called. None, and nothing has changed: C cannot take this step, such
    as the first one of a new optimiser.

    Args:
        optimizer: Whose step it is.
        longest: The norm; None: no limit.
    """
    if type(optimizer) is not Adam or len(optimizer.param_groups) != 1:
        return None
    group = optimizer.param_groups[0]
    if any(group[name] != value for name, value in PLAIN.items()):
        return None
    parameters = [each for each in group["params"] if each.grad is not None]
    states = [optimizer.state[each] for each in parameters]
    if not parameters or not all(states):
        return None
    gradients = [each.grad for each in parameters]
    kept = [[state[name] for state in states] for name in KEPT]
    times = [state["step"] for state in states]
    # what is kept has the type of its parameter
    tensors = [*parameters, *gradients, *kept[0], *kept[1]]
    if not (c.served(*parameters) and all(map(Tensor.is_contiguous, tensors))):
        return None
    sizes = [*map(Tensor.numel, parameters)]
    norm = torch.empty(())
    first, second = group["betas"]
    # they must outlive the call
    arrays = [
        (c_int64 * len(sizes))(*sizes),
        *map(_places, (parameters, gradients, *kept, times)),
    ]
    call: Any = ADAM(
        len(sizes),
        # a root and a quotient are worth some ten products
        c.threads_for(10 * sum(sizes)),
        *(float(group["lr"]), first, second, group["eps"]),
        math.inf if longest is None else longest,
        *map(addressof, arrays),
        norm.data_ptr(),
    )
    for hook in cast(Any, optimizer)._optimizer_step_pre_hooks.values():
        hook(optimizer, (), {})
    c.run("fwrl_adam", call)
    # as after any other change in place
    torch.autograd.graph.increment_version(parameters)
    return norm


def _places(tensors: Iterable[Tensor]) -> Any:
    found = [*map(Tensor.data_ptr, tensors)]
    return (c_void_p * len(found))(*found)
