"""Recurrent Delta Net (Irie et al. 2021): each read helps to make the next query and write."""

from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from typing_extensions import override

from fwrl.config import Count, head_size
from fwrl.core import About, MemoryCore, MemoryCoreConfig, Reads, by_steps
from fwrl.cores.parts.layers import JoinHeads, SlowNetwork, previous
from fwrl.feature_maps import softmax
from fwrl.kernels import recurs_natively, scan_step
from fwrl.kernels.native import recurrences
from fwrl.state import FastWeights, at_least_float32, map_tensors, without_autocast
from fwrl.update_rules import ScanInputs, Write, delta_rule


class RecurrentDeltaConfig(MemoryCoreConfig):
    """A delta memory whose slow network sees the memory's last output."""

    about: ClassVar[About] = About(
        update="W <- W + beta k (v - k W), y = q W; q, k, v, beta from x and tanh(y)",
        cost="4D^2 + 6HKV",
        parallel=False,
        source="Irie et al. 2021",
    )
    kind: Literal["recurrent_delta"] = "recurrent_delta"
    heads: Count = 4
    """Heads, each with fast weights of its own; a divisor of the input size."""
    scale_output: bool = False
    """Divides what heads return by the root of their size, as the published language models."""

    @override
    def build(self, input_size: int) -> "RecurrentDelta":
        return RecurrentDelta(input_size, self)


class State(NamedTuple):
    """The fast weights, and the value last read from them."""

    weights: FastWeights
    y: Float[Tensor, "B H V"]


class RecurrentDelta(MemoryCore[State]):
    """Each head sees its own last output only."""

    remark = (
        "the last read has its part in the next keys, values and queries, which the "
        "map takes as they were"
    )

    def __init__(self, input_size: int, config: RecurrentDeltaConfig) -> None:
        super().__init__()
        self.input_size = self.output_size = input_size
        self.size = size = head_size(config.kind, input_size, config.heads)
        # query and key, value, strength: one product
        self.parts = [2 * size, size, 1]
        self.slow = SlowNetwork(input_size, config.heads, [sum(self.parts)])
        self.recurrent = nn.Parameter(torch.empty(config.heads, size, sum(self.parts)))
        nn.init.normal_(self.recurrent, std=size**-0.5)
        self.output = JoinHeads(config.heads, size, input_size, config.scale_output)

    @override
    def initial_state(self, batch_size: int, device: torch.device | None = None) -> State:
        shape = (batch_size, self.slow.heads, self.size)
        weights = self.slow.zeros(*shape, self.size, device=device)
        return State(weights, self.slow.zeros(*shape, device=device))

    @override
    def step(self, x: Float[Tensor, "B D"], state: State) -> tuple[Float[Tensor, "B E"], State]:
        y, state = self._recur(self.slow(x)[0].unsqueeze(1), state, None)
        return self.output(y.squeeze(1)), state

    @override
    def unroll(
        self, x: Float[Tensor, "B T D"], state: State, starts: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T E"], State]:
        y, state = self._recur(self.slow(x)[0], state, starts)
        return self.output(y), state

    @override
    def reads(
        self, x: Float[Tensor, "B T D"], state: State, starts: Bool[Tensor, "B T"]
    ) -> list[Reads]:
        (projected,) = self.slow(x)
        y, _ = self._recur(projected, state, starts)
        last = previous(y, state.y, starts)
        query, write = self._program(projected.flatten(0, 1), last.flatten(0, 1))

        def in_time(field: Tensor) -> Tensor:
            return field.unflatten(0, (len(starts), -1))

        query, write = map_tensors(in_time, (query, write))
        inputs = ScanInputs(state.weights, query, write, starts)
        return [Reads("fast weights", delta_rule, inputs)]

    def _recur(
        self, projected: Float[Tensor, "B T H P"], state: State, starts: Bool[Tensor, "B T"] | None
    ) -> tuple[Float[Tensor, "B T H V"], State]:
        """The values read at all time steps; without ``starts`` there is only one step."""
        recurrent = at_least_float32(self.recurrent)
        with without_autocast(projected.device):
            if recurs_natively(projected, recurrent, *state):
                inputs = recurrences.RecurrentDelta(projected, recurrent, *state, starts)
                y, weights = recurrences.recurrent_delta(inputs)
                return y, State(weights, y[:, -1].clone())
            if starts is None:
                y, state = self._advance(projected.squeeze(1), state)
                return y.unsqueeze(1), state
            fresh = self.initial_state(len(starts), starts.device)
            return by_steps(self._advance, projected, state, starts, fresh)

    def _advance(
        self, projected: Float[Tensor, "B H P"], state: State
    ) -> tuple[Float[Tensor, "B H V"], State]:
        y, weights = scan_step(delta_rule, state.weights, *self._program(projected, state.y))
        return y, State(weights, y)

    def _program(
        self, projected: Float[Tensor, "B H P"], last: Float[Tensor, "B H V"]
    ) -> tuple[Float[Tensor, "B H K"], Write]:
        """The query and the write of one time step, given the value read before."""
        # one product per head, over the batch
        recurrent = torch.bmm(last.tanh().transpose(0, 1), at_least_float32(self.recurrent))
        parts = (projected + recurrent.transpose(0, 1)).split(self.parts, dim=-1)
        address, value, strength = parts
        query, key = softmax(address.unflatten(-1, (2, self.size))).unbind(-2)
        return query, Write(key, value, strength.sigmoid())
