"""What autocast must not shrink: states, addresses and everything that is added up over time."""

from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Float
from torch import Tensor


def at_least_float32(x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """The same numbers, in float64 if they are, else in float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """A block that computes in the precision of its inputs; free where autocast is off already."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()
