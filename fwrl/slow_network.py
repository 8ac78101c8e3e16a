"""What stands around the fast weights of each head: the projections into heads and out of them."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from fwrl.precision import at_least_float32


def split_heads(
    projected: Float[Tensor, "*BT E"], heads: int, sizes: Sequence[int]
) -> tuple[Tensor, ...]:
    """The parts of each head, ``[*BT, H, size]`` for each of the sizes, in float32 or more."""
    return at_least_float32(projected).unflatten(-1, (heads, -1)).split(list(sizes), dim=-1)


class SlowNetwork(nn.Module):
    """One projection without biases: what the fast weights of each head are to store and to read.

    Nothing is applied to the parts: which is a key, a value or a strength the caller knows.
    """

    def __init__(self, input_size: int, heads: int, sizes: Sequence[int]) -> None:
        super().__init__()
        self.heads, self.sizes = heads, tuple(sizes)
        self.project = nn.Linear(input_size, heads * sum(sizes), bias=False)

    @override
    def forward(self, x: Float[Tensor, "*BT D"]) -> tuple[Tensor, ...]:
        return split_heads(self.project(x), self.heads, self.sizes)

    def zeros(self, *shape: int, device: torch.device | None) -> Tensor:
        """Zeros in the precision of what the network returns."""
        dtype = torch.promote_types(self.project.weight.dtype, torch.float32)
        return torch.zeros(shape, dtype=dtype, device=device)


class JoinHeads(nn.Module):
    """The projection of what all heads read, without biases.

    Args:
        scaled: Multiply what is read by ``1 / sqrt(V)`` first.
    """

    def __init__(self, heads: int, value_size: int, output_size: int, scaled: bool) -> None:
        super().__init__()
        self.scale = value_size**-0.5 if scaled else 1.0
        self.linear = nn.Linear(heads * value_size, output_size, bias=False)

    @override
    def forward(self, values: Float[Tensor, "*BT H V"]) -> Float[Tensor, "*BT E"]:
        return self.linear(self.scale * values.flatten(start_dim=-2))
