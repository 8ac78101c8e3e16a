"""Fast and Forgetful Memory: traces of the input that fade and turn at many different rates."""

import math
import sys
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from fwrl.config import Size
from fwrl.core import About, MemoryCore, MemoryCoreConfig
from fwrl.kernels.associative_scan import complex_recurrence
from fwrl.state import at_least_float32

# The share that the slowest trace keeps over the longest period, at the start of training.
FORGOTTEN = 0.01
# Rate of forgetting of the fastest trace at the start of training. It comes from the largest
# double, so that the published implementation could divide by 1,024 powers of its decay.
FASTEST = math.log(sys.float_info.max) / 1024 - 0.02


class FFMConfig(MemoryCoreConfig):
    """Fast and Forgetful Memory (Morad et al. 2023b), with its published initialisation.

    Note:
        The published scan divides by powers of the decays, therefore needs doubles and bounds the
        decays from below; this one multiplies only, in single precision, and needs no bound.
    """

    about: ClassVar[About] = About(
        update="S <- exp(-|a| + i b) * S + (W x) * sigmoid(G x), for all m rates a and c turns b",
        cost="2Dm + 2D^2 + 2Dmc + 4mc",
        parallel=True,
        source="Morad et al. 2023b",
    )
    kind: Literal["ffm"] = "ffm"
    memory_size: Size = 32
    """Traces m of the input, each with a rate of forgetting."""
    context_size: Size = 4
    """Frequencies c of each trace, by which relative times are told apart."""
    max_period: int = Field(default=1024, gt=0, le=2**31)
    """Period of the slowest rotation at the start of training, in time steps; the slowest trace is
    then almost forgotten. Rotations and decays are learned."""

    @override
    def build(self, input_size: int) -> "FFM":
        return FFM(input_size, self)


class FFM(MemoryCore[Tensor]):
    """State: ``[B, m, c, 2]``, the real and the imaginary part of each trace."""

    remark = "its traces have no keys and queries"

    def __init__(self, input_size: int, config: FFMConfig) -> None:
        super().__init__()
        self.input_size = self.output_size = input_size
        self.memory_size, self.context_size = config.memory_size, config.context_size
        slowest = -math.log(FORGOTTEN) / config.max_period
        self.rate = nn.Parameter(torch.linspace(-FASTEST, -slowest, config.memory_size))
        periods = torch.linspace(1, config.max_period, config.context_size)
        self.turn = nn.Parameter(2 * math.pi / periods)
        self.sizes = [config.memory_size, input_size, config.memory_size, input_size]
        # the written input, the skipped input, and a gate for each
        self.input = nn.Linear(input_size, sum(self.sizes))
        self.mix = nn.Linear(2 * config.memory_size * config.context_size, input_size)
        self.norm = nn.LayerNorm(input_size, elementwise_affine=False)

    def decays(self) -> Tensor:
        """The factor of each trace in one time step: ``[m, c]``, complex, of modulus 1 at most."""
        shape = self.memory_size, self.context_size
        length = (-self.rate.abs()).exp().unsqueeze(1)
        return torch.polar(length.expand(shape), self.turn.expand(shape))

    @override
    def initial_state(self, batch_size: int, device: torch.device | None = None) -> Tensor:
        return torch.zeros(batch_size, self.memory_size, self.context_size, 2, device=device)

    @override
    def unroll(
        self, x: Float[Tensor, "B T D"], state: Tensor, starts: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T E"], Tensor]:
        written, passing, write_gate, read_gate = self.input(x).split(self.sizes, dim=-1)
        written = at_least_float32(written) * write_gate.sigmoid()
        # nothing imaginary is written
        pairs = F.pad(written.unsqueeze(-1), (0, 1)).unsqueeze(-2)
        addend = pairs.expand(-1, -1, -1, self.context_size, -1)
        parts = complex_recurrence(self.decays(), addend, state, starts)
        read = self.norm(self.mix(parts.flatten(start_dim=2)))
        return torch.lerp(passing, read.to(passing.dtype), read_gate.sigmoid()), parts[
            :, -1
        ].clone()
