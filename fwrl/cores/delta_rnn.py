"""Delta RNN (Irie et al. 2021): a recurrent network both of whose weight matrices are fast."""

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
from fwrl.shapes import FastWeights
from fwrl.slow_network import JoinHeads, head_size
from fwrl.update_rules import read


class DeltaRNNConfig(Config):
    """The second version is that of the main results."""

    about: ClassVar[About] = About(
        update="W, R <- delta rule from x, y <- q W + softmax(y) R",
        cost="6D^2 + 6HKV",
        parallel=False,
        source="Irie et al. 2021",
    )
    kind: Literal["delta_rnn"] = "delta_rnn"
    heads: PositiveInt = 4
    version: Literal[1, 2] = 2
    """1 squashes the sum, y <- softmax(q W + y R); 2 only what is read back."""
    feature_map: Literal["elu_plus_one", "softmax"] = "elu_plus_one"
    """Of the keys and queries of W; the published agents for games took softmax."""
    scale_output: bool = False
    """Divides what heads return by the root of their size, as the published language models."""

    def build(self, input_size: int) -> "DeltaRNN":
        """The core for inputs of this size."""
        return DeltaRNN(input_size, self)


class DeltaRNN(MemoryCore[FastRecurrentState]):
    """State: ``FastRecurrentState``, with the last output as its only units."""

    def __init__(self, input_size: int, config: DeltaRNNConfig) -> None:
        super().__init__()
        self.input_size = self.output_size = input_size
        self.version = config.version
        size = head_size(config.kind, input_size, config.heads)
        self.fast = FastRecurrence(input_size, config.heads, size, config.feature_map)
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
        y, state = self.fast.step(x, state, self._combine)
        return self.output(y), state

    @override
    def unroll(
        self, x: Float[Tensor, "B T D"], state: FastRecurrentState, starts: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T E"], FastRecurrentState]:
        y, state = self.fast.unroll(x, state, starts, self._combine)
        return self.output(y), state

    def _combine(
        self, forward: Float[Tensor, "B H V"], recurrent: FastWeights, units: Units
    ) -> tuple[Float[Tensor, "B H V"], Units]:
        (y,) = units
        if self.version == 1:
            y = softmax(forward + read(recurrent, y))
        else:
            y = forward + read(recurrent, softmax(y))
        return y, (y,)
