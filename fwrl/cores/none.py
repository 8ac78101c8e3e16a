"""No memory at all: the control that every result about memory needs."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from typing_extensions import override

from fwrl.config import Size
from fwrl.core import About, MemoryCore, MemoryCoreConfig


class NoMemoryConfig(MemoryCoreConfig):
    """A feed-forward layer with about as many parameters as the default fast weights."""

    about: ClassVar[About] = About(
        update="nothing is kept", cost="4D^2", parallel=True, source="a control"
    )
    kind: Literal["none"] = "none"
    hidden_size: Size | None = None
    """Hidden units; None: twice the input size."""

    @override
    def build(self, input_size: int) -> "NoMemory":
        return NoMemory(input_size, self)


class NoMemory(MemoryCore[tuple[()]]):
    """State: nothing. The output depends on the current input alone."""

    remark = "it remembers nothing"

    def __init__(self, input_size: int, config: NoMemoryConfig) -> None:
        super().__init__()
        self.input_size = self.output_size = input_size
        hidden_size = config.hidden_size or 2 * input_size
        self.layers = nn.Sequential(
            nn.Linear(input_size, hidden_size), nn.SiLU(), nn.Linear(hidden_size, input_size)
        )

    @override
    def initial_state(self, batch_size: int, device: torch.device | None = None) -> tuple[()]:
        return ()

    @override
    def step(
        self, x: Float[Tensor, "B D"], state: tuple[()]
    ) -> tuple[Float[Tensor, "B E"], tuple[()]]:
        return self.layers(x), ()

    @override
    def unroll(
        self, x: Float[Tensor, "B T D"], state: tuple[()], starts: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T E"], tuple[()]]:
        return self.layers(x), ()
