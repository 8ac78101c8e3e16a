"""What autocast must not shrink: states, addresses and everything that is added up over time."""

import torch
from jaxtyping import Float
from torch import Tensor


def at_least_float32(x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """The same numbers, in float64 if they are, else in float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
