"""Recurrent Delta Net (Irie et al. 2021): what was read decides what is written and read next."""

from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from typing_extensions import override

from fwrl.config import Count, head_size
from fwrl.core import About, MemoryCore, MemoryCoreConfig, by_steps
from fwrl.cores.parts.layers import JoinHeads, SlowNetwork
from fwrl.feature_maps import softmax
from fwrl.kernels import recurs_natively, scan_step
from fwrl.kernels.native import recurrent_delta
from fwrl.state import FastWeights, at_least_float32, without_autocast
from fwrl.update_rules import Write, delta_rule


class RecurrentDeltaConfig(MemoryCoreConfig):
    """A slow network that sees the last output of the fast one."""

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


class RecurrentDeltaState(NamedTuple):
    """The fast weights, and what was last read from them."""

    weights: FastWeights
    y: Float[Tensor, "B H V"]


class RecurrentDelta(MemoryCore[RecurrentDeltaState]):
    """State: ``RecurrentDeltaState``. Each head sees its own last output only."""

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
    def initial_state(
        self, batch_size: int, device: torch.device | None = None
    ) -> RecurrentDeltaState:
        shape = (batch_size, self.slow.heads, self.size)
        weights = self.slow.zeros(*shape, self.size, device=device)
        return RecurrentDeltaState(weights, self.slow.zeros(*shape, device=device))

    @override
    def step(
        self, x: Float[Tensor, "B D"], state: RecurrentDeltaState
    ) -> tuple[Float[Tensor, "B E"], RecurrentDeltaState]:
        (projected,) = self.slow(x)
        inputs = self._inputs(projected.unsqueeze(1), state, None)
        with without_autocast(x.device):
            if recurs_natively(*inputs[:4]):
                y, state = _natively(inputs)
                y = y.squeeze(1)
            else:
                y, state = self._advance(projected, state)
        return self.output(y), state

    @override
    def unroll(
        self, x: Float[Tensor, "B T D"], state: RecurrentDeltaState, starts: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T E"], RecurrentDeltaState]:
        (projected,) = self.slow(x)
        inputs = self._inputs(projected, state, starts)
        with without_autocast(x.device):
            if recurs_natively(*inputs[:4]):
                y, state = _natively(inputs)
            else:
                fresh = self.initial_state(x.shape[0], x.device)
                y, state = by_steps(self._advance, projected, state, starts, fresh)
        return self.output(y), state

    def _inputs(
        self,
        projected: Float[Tensor, "B T H P"],
        state: RecurrentDeltaState,
        starts: Bool[Tensor, "B T"] | None,
    ) -> recurrent_delta.Inputs:
        recurrent = at_least_float32(self.recurrent)
        return recurrent_delta.Inputs(projected, recurrent, *state, starts)

    def _advance(
        self, projected: Float[Tensor, "B H P"], state: RecurrentDeltaState
    ) -> tuple[Float[Tensor, "B H V"], RecurrentDeltaState]:
        # one product per head, over the batch
        recurrent = torch.bmm(state.y.tanh().transpose(0, 1), at_least_float32(self.recurrent))
        parts = (projected + recurrent.transpose(0, 1)).split(self.parts, dim=-1)
        address, value, strength = parts
        query, key = softmax(address.unflatten(-1, (2, self.size))).unbind(-2)
        write = Write(key, value, strength.sigmoid())
        y, weights = scan_step(delta_rule, state.weights, query, write)
        return y, RecurrentDeltaState(weights, y)


def _natively(
    inputs: recurrent_delta.Inputs,
) -> tuple[Float[Tensor, "B T H V"], RecurrentDeltaState]:
    y, weights = recurrent_delta.unroll(inputs)
    return y, RecurrentDeltaState(weights, y[:, -1].clone())
