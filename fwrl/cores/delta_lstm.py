"""Delta LSTM (Irie et al. 2021): gates and cells whose weight matrices are all fast."""

from functools import partial
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from fwrl.config import Count, head_size
from fwrl.core import About, MemoryCoreConfig
from fwrl.cores.parts.fast_recurrence import FastNetwork, FastRecurrence, Units
from fwrl.feature_maps import softmax

# input gate, cell update, output gate: each has a feed-forward and a recurrent matrix
GATES = 3


class DeltaLSTMConfig(MemoryCoreConfig):
    """An LSTM with fast weights; the fourth version is that of the main results."""

    about: ClassVar[About] = About(
        update="c <- i * u + (1 - i) * c, h <- o * c; i, u, o from six delta memories of x and h",
        cost="16D^2 + 18HKV",
        parallel=False,
        source="Irie et al. 2021",
    )
    kind: Literal["delta_lstm"] = "delta_lstm"
    heads: Count = 4
    """Heads, each with fast weights of its own; a divisor of the input size."""
    version: Literal[1, 2, 3, 4] = 4
    """4 asks the recurrent memories softmax(h), and its update u is linear; 2 has sigmoid(u); 3 is
    2 and adds the feed-forward read of u to h; 1 has sigmoid(u), asks h itself, and returns
    softmax(o c)."""
    scale_output: bool = False
    """Divides what heads return by the root of their size, as the published language models."""

    @override
    def build(self, input_size: int) -> FastRecurrence:
        """The core for inputs of this size; its state's units are the last output and the cells."""
        size = head_size(self.kind, input_size, self.heads)
        advance = partial(_advance, self.version)
        network = FastNetwork(
            advance, gates=GATES, units=2, squash=self.version != 1, native=self.version == 4
        )
        return FastRecurrence(input_size, size, network, scale_output=self.scale_output)


def _advance(
    version: int, forward: Float[Tensor, "B H3 V"], back: Float[Tensor, "B H3 V"], units: Units
) -> tuple[Float[Tensor, "B H V"], Units]:
    _, cell = units
    input_gate, update, output_gate = (forward + back).chunk(GATES, dim=1)
    if version != 4:
        update = update.sigmoid()
    cell = torch.lerp(cell, update, input_gate.sigmoid())
    h = output_gate.sigmoid() * cell
    if version == 1:
        h = softmax(h)
    if version == 3:
        h = h + forward.chunk(GATES, dim=1)[1]
    return h, (h, cell)
