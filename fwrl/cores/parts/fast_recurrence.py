"""Recurrent networks whose weights are fast: the core behind the Delta RNN and the Delta LSTM."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from typing_extensions import override

from fwrl.core import MemoryCore, by_steps
from fwrl.cores.parts.layers import JoinHeads, SlowNetwork
from fwrl.feature_maps import FeatureMap, FeatureOptions, softmax
from fwrl.kernels import recurs_natively, scan, scan_step
from fwrl.kernels.native import fast_recurrence
from fwrl.state import FastWeights, without_autocast
from fwrl.update_rules import Write, delta_rule

# What a recurrent network remembers beside its weights, the last output first.
Units = tuple[Tensor, ...]


class FastNetwork(NamedTuple):
    """What distinguishes one recurrent network from another."""

    # One time: what the feed-forward weights read, what the recurrent ones read, and the units
    # before; gives the output and the units.
    advance: Callable[[Tensor, Tensor, Units], tuple[Tensor, Units]]
    # How many pairs of matrices each head has. They are further heads of the two matrices: all
    # heads of the first gate, then all of the second.
    gates: int = 1
    # How many vectors each head remembers.
    units: int = 1
    # Whether the last output passes a softmax before it is what the recurrent weights are asked.
    squash: bool = True
    # Whether the kernel in C computes it with so many gates and units.
    native: bool = False


# What is read feed-forward; key, value and strength of what is written recurrently.
Now = tuple[Tensor, Tensor, Tensor, Tensor]


class FastRecurrentState(NamedTuple):
    """Both matrices of each head and gate, and the units of each head."""

    feed_forward: FastWeights
    recurrent: FastWeights
    units: Units


class FastRecurrence(MemoryCore[FastRecurrentState]):
    """Two delta memories per head and gate: one reads the input, one the network's last output.

    Both are written by what the slow network makes of the input alone. So the feed-forward one is
    scanned over all times at once, and only the recurrent one is inside the loop over time. The
    keys of the latter pass a softmax, as what reads it does in most versions.

    Args:
        input_size: A multiple of ``size``.
        size: Of each head's keys and values.
        network: What the matrices are the weights of.
        feature_map: Of the feed-forward keys and queries, whose sums are made 1.
        scale_output: Divide what the heads return by the root of their size.
    """

    def __init__(
        self,
        input_size: int,
        size: int,
        network: FastNetwork,
        feature_map: str = "elu_plus_one",
        scale_output: bool = False,
    ) -> None:
        super().__init__()
        self.input_size = self.output_size = input_size
        self.heads, self.size, self.network = input_size // size, size, network
        # query, key, value, and the recurrent key and value; the strengths of both writes
        self.slow = SlowNetwork(input_size, network.gates * self.heads, [size] * 5 + [1] * 2)
        self.feature_map = FeatureMap(feature_map, FeatureOptions(size), "sum")
        self.output = JoinHeads(self.heads, size, input_size, scale_output)

    @override
    def initial_state(
        self, batch_size: int, device: torch.device | None = None
    ) -> FastRecurrentState:
        def zeros(*shape: int) -> Tensor:
            return self.slow.zeros(batch_size, *shape, device=device)

        matrices = (self.slow.heads, self.size, self.size)
        units = [zeros(self.heads, self.size) for _ in range(self.network.units)]
        return FastRecurrentState(zeros(*matrices), zeros(*matrices), tuple(units))

    @override
    def step(
        self, x: Float[Tensor, "B D"], state: FastRecurrentState
    ) -> tuple[Float[Tensor, "B E"], FastRecurrentState]:
        query, write, recurrent = self._program(x)
        read, feed_forward = scan_step(delta_rule, state.feed_forward, query, write)
        with without_autocast(x.device):
            if self._is_native(read, state):
                read, key, value, beta = (part.unsqueeze(1) for part in (read, *recurrent))
                y, weights, units = _natively((read, key, value, beta), state, None)
                y = y.squeeze(1)
            else:
                y, (weights, units) = self._advance((read, *recurrent), state[1:])
        return self.output(y), FastRecurrentState(feed_forward, weights, units)

    @override
    def unroll(
        self, x: Float[Tensor, "B T D"], state: FastRecurrentState, starts: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T E"], FastRecurrentState]:
        query, write, recurrent = self._program(x)
        read, feed_forward = scan(delta_rule, state.feed_forward, query, write, starts)
        now = (read, *recurrent)
        with without_autocast(x.device):
            if self._is_native(read, state):
                y, weights, units = _natively(now, state, starts)
            else:
                fresh = self.initial_state(x.shape[0], x.device)[1:]
                y, (weights, units) = by_steps(self._advance, now, state[1:], starts, fresh)
        return self.output(y), FastRecurrentState(feed_forward, weights, units)

    def _is_native(self, read: Tensor, state: FastRecurrentState) -> bool:
        return self.network.native and recurs_natively(read, state.recurrent, *state.units)

    def _program(
        self, x: Float[Tensor, "*BT D"]
    ) -> tuple[Tensor, Write, tuple[Tensor, Tensor, Tensor]]:
        """Where to read and what to write feed-forward, and what to write recurrently."""
        query, key, value, recurrent_key, recurrent_value, beta, recurrent_beta = self.slow(x)
        write = Write(self.feature_map(key), value, beta.sigmoid())
        recurrent = (softmax(recurrent_key), recurrent_value, recurrent_beta.sigmoid())
        return self.feature_map(query), write, recurrent

    def _advance(
        self, now: Now, before: tuple[Tensor, Units]
    ) -> tuple[Float[Tensor, "B H V"], tuple[Tensor, Units]]:
        read, key, value, beta = now
        weights, units = before
        query = softmax(units[0]) if self.network.squash else units[0]
        query = query.repeat(1, self.network.gates, 1)
        back, weights = scan_step(delta_rule, weights, query, Write(key, value, beta))
        y, units = self.network.advance(read, back, units)
        return y, (weights, units)


def _natively(
    now: Now, state: FastRecurrentState, starts: Bool[Tensor, "B T"] | None
) -> tuple[Float[Tensor, "B T H V"], Tensor, Units]:
    last, *cells = state.units
    cell = cells[0] if cells else None
    inputs = fast_recurrence.Inputs(*now, state.recurrent, last, cell, starts)
    y, weights, cell = fast_recurrence.unroll(inputs)
    return y, weights, (y[:, -1].clone(), cell)[: len(state.units)]
