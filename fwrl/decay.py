"""How fast memories forget: a learned decay per head, which the input moves."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from fwrl.precision import at_least_float32


class Decay(nn.Module):
    """How much of each head's fast weights survives one time, in (0, 1) (Dao and Gu 2024).

    The rates and the time steps start spread out, so that heads forget at different speeds.
    """

    def __init__(self, input_size: int, heads: int) -> None:
        super().__init__()
        self.step = nn.Linear(input_size, heads, bias=False)
        self.log_rate = nn.Parameter(torch.empty(heads).uniform_(0, 16).clamp_min(1e-4).log())
        step = torch.empty(heads).uniform_(math.log(1e-3), math.log(1e-1)).exp()
        # the inverse of softplus
        self.step_bias = nn.Parameter(step + torch.log(-torch.expm1(-step)))

    @override
    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B H"]:
        step = F.softplus(at_least_float32(self.step(x)) + self.step_bias)
        return torch.exp(-self.log_rate.exp() * step)
