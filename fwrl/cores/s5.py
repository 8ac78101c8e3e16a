"""S5: a diagonal state-space model in continuous time, with learned time steps and a gate."""

import math
from functools import cache
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Bool, Complex, Float
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from fwrl.config import ConfigError, Count
from fwrl.core import About, MemoryCore, MemoryCoreConfig
from fwrl.cores.parts.diagonal import diagonal_states

TimeStep = Annotated[float, Field(gt=0, le=100)]
# The largest real part of a rate: a number that grows would overflow in long episodes.
SLOWEST = -1e-4


class S5Config(MemoryCoreConfig):
    """The layer S5 (Smith et al. 2023), with the resets and the gate of Lu et al. (2023).

    Each number of the state turns and fades at a learned rate, over a learned time step within
    which its input is held. The rates begin as those of HiPPO-N, the normal part of the matrix that
    remembers a signal by Legendre polynomials (Gu et al. 2020).

    Note:
        Left out is the layer norm that Lu et al. put before the activation. The state is of this
        size in numbers that are stored; with their conjugates it is twice as large, and so named
        in those works.
    """

    about: ClassVar[About] = About(
        update="h <- exp(l s) * h + (exp(l s) - 1) / l * B x, y = g(2 Re(C h) + D x); l complex, "
        "g a gated GELU",
        cost="4DN + 8N + 2D^2",
        parallel=True,
        source="Smith et al. 2023; Lu et al. 2023",
    )
    kind: Literal["s5"] = "s5"
    state_size: Count | None = None
    """Complex numbers N in the state, each for itself and its conjugate; None: half the input
    size."""
    blocks: Count = 1
    """Blocks of equal rates at the start of training; a divisor of N. More blocks have fewer fast
    turns."""
    min_time_step: TimeStep = 0.001
    """Shortest time step at the start of training; HiPPO-N fades by half in 1.4 units of time."""
    max_time_step: TimeStep = 0.1
    """Longest time step at the start of training."""
    gate: Literal["full", "half", "none"] = "full"
    """Factor of the output g after its GELU: ``full`` is (W g) * sigmoid(V g), of Lu et al.,
    ``half`` is g * sigmoid(V g), of Smith et al."""

    @model_validator(mode="after")
    def _ordered(self) -> "S5Config":
        if self.min_time_step >= self.max_time_step:
            raise ValueError(
                f"min_time_step is {self.min_time_step}; use less than max_time_step, "
                f"{self.max_time_step}"
            )
        return self

    @override
    def build(self, input_size: int) -> "S5":
        return S5(input_size, self)


class S5(MemoryCore[Tensor]):
    """State: ``[B, N, 2]``, the real and the imaginary part of ``h``."""

    remark = "its numbers have no keys and queries"

    def __init__(self, input_size: int, config: S5Config) -> None:
        super().__init__()
        self.input_size = self.output_size = input_size
        self.state_size = size = config.state_size or max(input_size // 2, 1)
        if size % config.blocks:
            raise ConfigError(
                f"s5: state_size {size} does not divide into {config.blocks} blocks; "
                f"use a multiple of {config.blocks}"
            )
        rates, vectors = hippo_normal(size // config.blocks, torch.get_default_device())
        self.rate = nn.Parameter(torch.view_as_real(rates.repeat(config.blocks)).float())
        low, high = math.log(config.min_time_step), math.log(config.max_time_step)
        self.time_step_log = nn.Parameter(torch.empty(size).uniform_(low, high))
        # B, and C without the sign of its imaginary part, as real matrices
        self.input = nn.Linear(input_size, 2 * size, bias=False)
        self.output = nn.Linear(2 * size, input_size, bias=False)
        self._turn_into(vectors, config.blocks)
        self.skip = nn.Parameter(torch.randn(input_size))
        gates = {"full": 2, "half": 1, "none": 0}[config.gate]
        self.gate = nn.Linear(input_size, gates * input_size) if gates else None

    @torch.no_grad()
    def _turn_into(self, vectors: Complex[Tensor, "N2 N"], blocks: int) -> None:
        """Draw B and C for the state of HiPPO-N, and express them in its eigenvectors."""
        size, width = 2 * self.state_size, self.input_size
        vectors = vectors.to(torch.complex64)
        b = (torch.randn(size, width) * width**-0.5).unflatten(0, (blocks, -1))
        b = vectors.mH @ b.to(vectors.dtype)
        self.input.weight.copy_(torch.view_as_real(b).permute(0, 1, 3, 2).reshape(size, width))
        c = torch.view_as_complex(torch.randn(width, size, 2) * size**-0.5)
        c = c.unflatten(1, (blocks, -1)) @ vectors
        self.output.weight.copy_(torch.view_as_real(c.conj().resolve_conj()).reshape(width, size))

    def discretised(self) -> tuple[Complex[Tensor, " N"], Complex[Tensor, " N"]]:
        """The factors of the state and of its input in one time step, the input being held."""
        # in real numbers: exported programs know no quotients and powers of complex ones
        real, imaginary = self.rate[:, 0].clamp(max=SLOWEST), self.rate[:, 1]
        step = self.time_step_log.exp()
        length, turn = (real * step).exp(), imaginary * step
        across, up = length * turn.cos() - 1, length * turn.sin()
        scale = torch.complex(across * real + up * imaginary, up * real - across * imaginary)
        return torch.polar(length, turn), scale / (real.square() + imaginary.square())

    @override
    def initial_state(self, batch_size: int, device: torch.device | None = None) -> Tensor:
        return torch.zeros(batch_size, self.state_size, 2, device=device)

    @override
    def unroll(
        self, x: Float[Tensor, "B T D"], state: Tensor, starts: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T E"], Tensor]:
        factor, scale = self.discretised()
        parts = diagonal_states(self.input(x), scale, factor, state, starts)
        # each number and its conjugate have the same real part
        y = F.gelu(2 * self.output(parts.flatten(-2)) + self.skip * x, approximate="tanh")
        return self._gated(y), parts[:, -1].clone()

    def _gated(self, y: Float[Tensor, "B T E"]) -> Float[Tensor, "B T E"]:
        if self.gate is None:
            return y
        *linear, logit = self.gate(y).split(y.shape[-1], dim=-1)
        return (linear[0] if linear else y) * logit.sigmoid()


@cache
def hippo_normal(
    half: int, device: torch.device
) -> tuple[Complex[Tensor, " N"], Complex[Tensor, "N2 N"]]:
    """Half of the eigenvalues of HiPPO-N, whose conjugates are the others, and their eigenvectors.

    HiPPO-N is HiPPO-LegS plus a matrix of rank one that makes it normal: minus a half, and a skew
    matrix.
    """
    root = (2 * torch.arange(2 * half, dtype=torch.float64, device=device) + 1).sqrt()
    below = torch.outer(root, root).tril(-1)
    turns, vectors = torch.linalg.eigh(-0.5j * (below.mT - below))
    return torch.complex(torch.full_like(turns, -0.5), turns)[:half], vectors[:, :half]
