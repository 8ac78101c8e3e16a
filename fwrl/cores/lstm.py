"""Long short-term memory (Hochreiter and Schmidhuber 1997): the usual memory of recurrent PPO."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from typing_extensions import override

from fwrl.config import Size
from fwrl.core import About, MemoryCore, MemoryCoreConfig
from fwrl.cores.parts.lstm import LSTMCell, LSTMState, unroll_lstm


class LSTMConfig(MemoryCoreConfig):
    """A baseline with the gates of ``torch.nn.LSTM``."""

    about: ClassVar[About] = About(
        update="c <- f * c + i * tanh(g), h <- o * tanh(c); i, f, g, o from x and h",
        cost="4DE + 4E^2",
        parallel=False,
        source="Hochreiter and Schmidhuber 1997",
    )
    kind: Literal["lstm"] = "lstm"
    hidden_size: Size | None = None
    """Hidden units, the size of the output; None: the input size."""
    forget_bias: float = 1.0
    """Added to the forget gate, which so begins open (Jozefowicz et al. 2015)."""

    @override
    def build(self, input_size: int) -> "LSTM":
        return LSTM(input_size, self)


class LSTM(MemoryCore[LSTMState]):
    """State: ``LSTMState``. Only the recurrent projection is inside the loop over time."""

    remark = "its gates multiply what it remembers by functions of what it remembers"

    def __init__(self, input_size: int, config: LSTMConfig) -> None:
        super().__init__()
        self.input_size = input_size
        self.output_size = config.hidden_size or input_size
        self.cell = LSTMCell(input_size, self.output_size, config.forget_bias)

    @override
    def initial_state(self, batch_size: int, device: torch.device | None = None) -> LSTMState:
        return self.cell.initial_state(batch_size, device)

    @override
    def step(
        self, x: Float[Tensor, "B D"], state: LSTMState
    ) -> tuple[Float[Tensor, "B E"], LSTMState]:
        return self.cell.advance(self.cell.input(x), state)

    @override
    def unroll(
        self, x: Float[Tensor, "B T D"], state: LSTMState, starts: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T E"], LSTMState]:
        return unroll_lstm(self.cell, x, state, starts)
