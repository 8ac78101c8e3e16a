"""How much of the fast weights survives one time: learned, and different from head to head."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from fwrl.precision import at_least_float32


class Decay(nn.Module):
    """A decay in (0, 1) for each head (Dao and Gu 2024), or each of its channels (Kimi Team 2025).

    The rates and the time steps start spread out, so that heads forget at different speeds. With
    channels the time steps come through a bottleneck of as many units as a head has channels.
    """

    def __init__(self, input_size: int, heads: int, channels: int = 1) -> None:
        super().__init__()
        self.channels = channels
        steps = heads * channels
        if channels == 1:
            self.step = nn.Linear(input_size, steps, bias=False)
        else:
            narrow = nn.Linear(input_size, channels, bias=False)
            self.step = nn.Sequential(narrow, nn.Linear(channels, steps, bias=False))
        self.log_rate = nn.Parameter(torch.empty(heads).uniform_(0, 16).clamp_min(1e-4).log())
        step = torch.empty(steps).uniform_(math.log(1e-3), math.log(1e-1)).exp()
        # the inverse of softplus
        self.step_bias = nn.Parameter(step + torch.log(-torch.expm1(-step)))

    @override
    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B H F"]:
        step = F.softplus(at_least_float32(self.step(x)) + self.step_bias)
        step = step.unflatten(-1, (-1, self.channels))
        return torch.exp(-self.log_rate.exp().unsqueeze(-1) * step)
