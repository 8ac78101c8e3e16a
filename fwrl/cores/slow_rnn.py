"""A delta memory programmed by an LSTM (Irie et al. 2021): the slow network has a memory too."""

from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from typing_extensions import override

from fwrl.config import Count, head_size
from fwrl.core import About, MemoryCore, MemoryCoreConfig, Reads
from fwrl.cores.parts.layers import JoinHeads, split_heads
from fwrl.cores.parts.lstm import LSTMCell, LSTMState, unroll_lstm
from fwrl.feature_maps import FeatureMap, FeatureOptions
from fwrl.kernels import scan, scan_step
from fwrl.state import FastWeights
from fwrl.update_rules import ScanInputs, Write, delta_rule


class SlowRNNConfig(MemoryCoreConfig):
    """The hidden units of an LSTM are the queries, keys, values and strengths."""

    about: ClassVar[About] = About(
        update="W <- W + beta k (v - k W), y = q W; q, k, v, beta are an LSTM's hidden units",
        cost="4DE + 4E^2 + D^2 + 3HKV, E = 3D + H",
        parallel=False,
        source="Irie et al. 2021",
    )
    kind: Literal["slow_rnn"] = "slow_rnn"
    heads: Count = 4
    """Heads, each with fast weights of its own; a divisor of the input size."""
    forget_bias: float = 0.0
    """Added to the LSTM's forget gate; the published code adds nothing."""
    scale_output: bool = False
    """Divides what heads return by the root of their size, as the published language models."""

    @override
    def build(self, input_size: int) -> "SlowRNN":
        return SlowRNN(input_size, self)


class State(NamedTuple):
    """The state of the slow network, and the fast weights."""

    slow: LSTMState
    weights: FastWeights


class SlowRNN(MemoryCore[State]):
    """A delta memory after an LSTM; only the LSTM is inside the loop over time."""

    remark = "an LSTM makes keys, values and queries; what it remembers by itself is not shown"

    def __init__(self, input_size: int, config: SlowRNNConfig) -> None:
        super().__init__()
        self.input_size = self.output_size = input_size
        self.heads = config.heads
        self.size = size = head_size(config.kind, input_size, config.heads)
        self.slow = LSTMCell(input_size, self.heads * (3 * size + 1), config.forget_bias)
        self.feature_map = FeatureMap("elu_plus_one", FeatureOptions(size), "sum")
        self.output = JoinHeads(self.heads, size, input_size, config.scale_output)

    @override
    def initial_state(self, batch_size: int, device: torch.device | None = None) -> State:
        weights = torch.zeros(batch_size, self.heads, self.size, self.size, device=device)
        return State(self.slow.initial_state(batch_size, device), weights)

    @override
    def step(self, x: Float[Tensor, "B D"], state: State) -> tuple[Float[Tensor, "B E"], State]:
        hidden, slow = self.slow.advance(self.slow.input(x), state.slow)
        values, weights = scan_step(delta_rule, state.weights, *self._program(hidden))
        return self.output(values), State(slow, weights)

    @override
    def unroll(
        self, x: Float[Tensor, "B T D"], state: State, starts: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T E"], State]:
        hidden, slow = unroll_lstm(self.slow, x, state.slow, starts)
        values, weights = scan(delta_rule, state.weights, *self._program(hidden), starts)
        return self.output(values), State(slow, weights)

    @override
    def reads(
        self, x: Float[Tensor, "B T D"], state: State, starts: Bool[Tensor, "B T"]
    ) -> list[Reads]:
        hidden, _ = unroll_lstm(self.slow, x, state.slow, starts)
        inputs = ScanInputs(state.weights, *self._program(hidden), starts)
        return [Reads("fast weights", delta_rule, inputs)]

    def _program(self, hidden: Float[Tensor, "*BT P"]) -> tuple[Float[Tensor, "*BT H K"], Write]:
        """The queries and the writes."""
        sizes = [self.size] * 3 + [1]
        query, key, value, strength = split_heads(hidden, self.heads, sizes)
        write = Write(self.feature_map(key), value, strength.sigmoid())
        return self.feature_map(query), write
