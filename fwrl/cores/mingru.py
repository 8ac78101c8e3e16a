"""The minimal gated recurrent unit: its gate does not see the state, so time is a parallel scan."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from typing_extensions import override

from fwrl.config import Count
from fwrl.core import About, MemoryCore, MemoryCoreConfig
from fwrl.kernels.associative_scan import linear_recurrence
from fwrl.state import at_least_float32


class MinGRUConfig(MemoryCoreConfig):
    """The minGRU (Feng et al. 2024) with the positive candidates of its version in log space.

    Note:
        Published programs scan logarithms, in which only positive numbers can be told; this scan
        multiplies, so it needs no logarithms, but keeps their candidate ``s`` for the same result.
        Episodes begin with zeros, as in the equations; the published program in log space begins
        with ``s(0) = 0.5``.
    """

    about: ClassVar[About] = About(
        update="h <- (1 - z) * h + z * s(g), s(g) = g + 1/2 if g > 0, else sigmoid(g); z, g from x",
        cost="2DE, and ED more if E > D",
        parallel=True,
        source="Feng et al. 2024",
    )
    kind: Literal["mingru"] = "mingru"
    expansion: Count = 1
    """Hidden units E, as a multiple of the input size. With more than one, a linear map brings
    them back to the input size."""

    @override
    def build(self, input_size: int) -> "MinGRU":
        return MinGRU(input_size, self)


class MinGRU(MemoryCore[Tensor]):
    """State: the hidden units ``[B, E]``."""

    remark = "its numbers have no keys and queries"

    def __init__(self, input_size: int, config: MinGRUConfig) -> None:
        super().__init__()
        self.input_size = self.output_size = input_size
        self.hidden_size = size = config.expansion * input_size
        # gates and candidates
        self.input = nn.Linear(input_size, 2 * size)
        narrows = config.expansion > 1
        self.output = nn.Linear(size, input_size, bias=False) if narrows else nn.Identity()

    @override
    def initial_state(self, batch_size: int, device: torch.device | None = None) -> Tensor:
        return torch.zeros(batch_size, self.hidden_size, device=device)

    @override
    def unroll(
        self, x: Float[Tensor, "B T D"], state: Tensor, starts: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T E"], Tensor]:
        gate, candidate = at_least_float32(self.input(x)).chunk(2, dim=-1)
        candidate = torch.where(candidate > 0, candidate + 0.5, candidate.sigmoid())
        # the sigmoid of the negative gate is what is left of 1, without its rounding
        hidden = linear_recurrence((-gate).sigmoid(), gate.sigmoid() * candidate, state, starts)
        return self.output(hidden), hidden[:, -1].clone()
