"""Linear recurrent unit: a diagonal complex recurrence, the plainest of the state-space models."""

import math
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor, nn
from typing_extensions import override

from fwrl.config import Size
from fwrl.core import About, MemoryCore, MemoryCoreConfig
from fwrl.cores.parts.diagonal import diagonal_states

Modulus = Annotated[float, Field(ge=0, le=1)]


class LRUConfig(MemoryCoreConfig):
    """The plainest diagonal memory (Orvieto et al. 2023).

    It computes the same kind of recurrence as ``s5``, without its time steps, its special
    initialisation and its gate.

    Note:
        The eigenvalues begin in the ring of the long tasks of that work, not in the whole disc,
        most of which forgets within ten times.
    """

    about: ClassVar[About] = About(
        update="h <- lambda * h + gamma * B x, y = Re(C h) + D x; lambda complex, in the unit disc",
        cost="4DN + 6N",
        parallel=True,
        source="Orvieto et al. 2023",
    )
    kind: Literal["lru"] = "lru"
    state_size: Size | None = None
    """Complex numbers N in the state; None: the input size."""
    min_modulus: Modulus = 0.9
    """Smallest modulus of the eigenvalues at the start of training: the share of the past that the
    fastest of them keeps in one time step."""
    max_modulus: Modulus = 0.999
    """Largest modulus of the eigenvalues at the start of training."""
    max_phase: Annotated[float, Field(gt=0, le=2 * math.pi)] = 2 * math.pi
    """Largest phase of the eigenvalues at the start of training, in radians per time step."""

    @model_validator(mode="after")
    def _ring(self) -> "LRUConfig":
        if self.min_modulus >= self.max_modulus:
            raise ValueError(
                f"min_modulus is {self.min_modulus}; use less than max_modulus, {self.max_modulus}"
            )
        return self

    @override
    def build(self, input_size: int) -> "LRU":
        return LRU(input_size, self)


class LRU(MemoryCore[Tensor]):
    """State: ``[B, N, 2]``, the real and the imaginary part of ``h``."""

    remark = "its numbers have no keys and queries"

    def __init__(self, input_size: int, config: LRUConfig) -> None:
        super().__init__()
        self.input_size = self.output_size = input_size
        self.state_size = size = config.state_size or input_size
        # moduli uniform over the area of the ring; neither 0 nor 1 has the logarithms below
        low, high = config.min_modulus**2, config.max_modulus**2
        modulus = torch.empty(size).uniform_(low, high).sqrt().clamp(1e-6, 1 - 1e-6)
        self.nu_log = nn.Parameter((-modulus.log()).log())
        self.theta_log = nn.Parameter((config.max_phase * (1 - torch.rand(size))).log())
        self.gamma_log = nn.Parameter((1 - modulus.square()).log() / 2)
        # B, and C without the sign of its imaginary part, as real matrices
        self.input = nn.Linear(input_size, 2 * size, bias=False)
        self.output = nn.Linear(2 * size, input_size, bias=False)
        nn.init.normal_(self.input.weight, std=(2 * input_size) ** -0.5)
        nn.init.normal_(self.output.weight, std=size**-0.5)
        self.skip = nn.Parameter(torch.randn(input_size))

    def eigenvalues(self) -> Tensor:
        """The factor of each number of the state in one time step: ``[N]``, complex."""
        return torch.polar((-self.nu_log.exp()).exp(), self.theta_log.exp())

    @override
    def initial_state(self, batch_size: int, device: torch.device | None = None) -> Tensor:
        return torch.zeros(batch_size, self.state_size, 2, device=device)

    @override
    def unroll(
        self, x: Float[Tensor, "B T D"], state: Tensor, starts: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T E"], Tensor]:
        # this keeps the size of the state near that of the input, however slow the forgetting
        scale = self.gamma_log.exp()
        parts = diagonal_states(self.input(x), scale, self.eigenvalues(), state, starts)
        return self.output(parts.flatten(-2)) + self.skip * x, parts[:, -1].clone()
