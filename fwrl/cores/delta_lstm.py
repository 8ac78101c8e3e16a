"""Delta LSTM (Irie et al. 2021): gates and cells whose weight matrices are all fast."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import PositiveInt
from torch import Tensor
from typing_extensions import override

from fwrl.config import Config
from fwrl.core import About, MemoryCore
from fwrl.fast_recurrence import FastRecurrence, FastRecurrentState, Units
from fwrl.feature_maps import softmax
from fwrl.slow_network import JoinHeads, head_size
from fwrl.update_rules import read

# input gate, update, output gate: each has a feed-forward and a recurrent matrix
GATES = 3


class DeltaLSTMConfig(Config):
    """The fourth version is that of the main results."""

    about: ClassVar[About] = About(
        update="c <- i u + (1 - i) c, h <- o c; i, u, o from six delta memories of x and h",
        cost="16D^2 + 18HKV",
        parallel=False,
        source="Irie et al. 2021",
    )
    kind: Literal["delta_lstm"] = "delta_lstm"
    heads: PositiveInt = 4
    version: Literal[1, 2, 3, 4] = 4
    """4 reads back softmax(h), and its update is linear; 2 squashes the update to (0, 1); 3 is 2
    and adds what the update's feed-forward memory read to h; 1 squashes the update, reads h back as
    it is, and returns softmax(o c)."""
    scale_output: bool = False
    """Divides what heads return by the root of their size, as the published language models."""

    def build(self, input_size: int) -> "DeltaLSTM":
        """The core for inputs of this size."""
        return DeltaLSTM(input_size, self)


class DeltaLSTM(MemoryCore[FastRecurrentState]):
    """State: ``FastRecurrentState``, with the last output and the cells as its units.

    The gates of all heads are heads of one memory: first all input gates, then all updates, then
    all output gates.
    """

    def __init__(self, input_size: int, config: DeltaLSTMConfig) -> None:
        super().__init__()
        self.input_size = self.output_size = input_size
        self.version = config.version
        size = head_size(config.kind, input_size, config.heads)
        self.fast = FastRecurrence(input_size, config.heads, size, gates=GATES, units=2)
        self.output = JoinHeads(config.heads, size, input_size, config.scale_output)

    @override
    def initial_state(
        self, batch_size: int, device: torch.device | None = None
    ) -> FastRecurrentState:
        return self.fast.initial_state(batch_size, device)

    @override
    def step(
        self, x: Float[Tensor, "B D"], state: FastRecurrentState
    ) -> tuple[Float[Tensor, "B E"], FastRecurrentState]:
        h, state = self.fast.step(x, state, self._combine)
        return self.output(h), state

    @override
    def unroll(
        self, x: Float[Tensor, "B T D"], state: FastRecurrentState, starts: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T E"], FastRecurrentState]:
        h, state = self.fast.unroll(x, state, starts, self._combine)
        return self.output(h), state

    def _combine(
        self,
        forward: Float[Tensor, "B H3 V"],
        recurrent: Float[Tensor, "B H3 K V"],
        units: Units,
    ) -> tuple[Float[Tensor, "B H V"], Units]:
        h, cell = units
        back = h if self.version == 1 else softmax(h)
        gates = forward + read(recurrent, back.repeat(1, GATES, 1))
        write, update, show = gates.chunk(GATES, dim=1)
        if self.version != 4:
            update = update.sigmoid()
        cell = torch.lerp(cell, update, write.sigmoid())
        h = show.sigmoid() * cell
        if self.version == 1:
            h = softmax(h)
        if self.version == 3:
            h = h + forward.chunk(GATES, dim=1)[1]
        return h, (h, cell)
