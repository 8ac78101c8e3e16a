"""Recurrent networks whose weights are fast: the core behind the Delta RNN and the Delta LSTM."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from typing_extensions import override

from fwrl.core import MemoryCore, Reads, by_steps
from fwrl.cores.parts.layers import JoinHeads, SlowNetwork, previous
from fwrl.feature_maps import FeatureMap, FeatureOptions, softmax
from fwrl.kernels import recurs_natively, scan, scan_step
from fwrl.kernels.native import recurrences
from fwrl.state import FastWeights, without_autocast
from fwrl.update_rules import ScanInputs, Write, delta_rule

# The vectors in the state beside the fast weights, the last output first.
Units = tuple[Tensor, ...]


class FastNetwork(NamedTuple):
    """The properties in which these recurrent networks differ."""

    # One time step: takes the feed-forward reads, the recurrent reads and the units before; returns
    # the output and the units.
    advance: Callable[[Tensor, Tensor, Units], tuple[Tensor, Units]]
    # Pairs of matrices of each head. They are further heads of the two memories: all heads of the
    # first gate, then all of the second.
    gates: int = 1
    # Vectors in the state of each head.
    units: int = 1
    # Whether the last output passes a softmax before it becomes the recurrent query.
    squash: bool = True
    # Whether the kernel in C computes it with so many gates and units.
    native: bool = False


# The feed-forward reads; key, value and strength of the recurrent writes.
Now = tuple[Tensor, Tensor, Tensor, Tensor]


class State(NamedTuple):
    """Both matrices of each head and gate, and the units of each head."""

    feed_forward: FastWeights
    recurrent: FastWeights
    units: Units


class FastRecurrence(MemoryCore[State]):
    """Two delta memories per head and gate: one reads the input, one the network's last output.

    The writes to both depend on the input alone. So the feed-forward memory is scanned over all
    time steps at once, and only the recurrent one is inside the loop over time. The recurrent keys
    pass a softmax, as the recurrent queries do in most versions.

    Args:
        input_size: A multiple of ``size``.
        size: Size of each head's keys and values.
        network: The network whose weights are fast.
        feature_map: Map of the feed-forward keys and queries, which are then scaled to a sum of 1.
        scale_output: Divide what the heads return by the root of their size.
    """

    remark = (
        "what is read recurrently is asked for by the last output, and gates or a softmax stand "
        "between the reads and the output"
    )

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
    def initial_state(self, batch_size: int, device: torch.device | None = None) -> State:
        def zeros(*shape: int) -> Tensor:
            return self.slow.zeros(batch_size, *shape, device=device)

        matrices = (self.slow.heads, self.size, self.size)
        units = [zeros(self.heads, self.size) for _ in range(self.network.units)]
        return State(zeros(*matrices), zeros(*matrices), tuple(units))

    @override
    def step(self, x: Float[Tensor, "B D"], state: State) -> tuple[Float[Tensor, "B E"], State]:
        query, write, recurrent = self._program(x)
        read, feed_forward = scan_step(delta_rule, state.feed_forward, query, write)
        read, key, value, beta = (part.unsqueeze(1) for part in (read, *recurrent))
        y, weights, units = self._recur((read, key, value, beta), state, None)
        return self.output(y.squeeze(1)), State(feed_forward, weights, units)

    @override
    def unroll(
        self, x: Float[Tensor, "B T D"], state: State, starts: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T E"], State]:
        query, write, recurrent = self._program(x)
        read, feed_forward = scan(delta_rule, state.feed_forward, query, write, starts)
        y, weights, units = self._recur((read, *recurrent), state, starts)
        return self.output(y), State(feed_forward, weights, units)

    @override
    def reads(
        self, x: Float[Tensor, "B T D"], state: State, starts: Bool[Tensor, "B T"]
    ) -> list[Reads]:
        query, write, recurrent = self._program(x)
        forward = ScanInputs(state.feed_forward, query, write, starts)
        read, _ = scan(delta_rule, *forward)
        y, *_ = self._recur((read, *recurrent), state, starts)
        query = self._recurrent_query(previous(y, state.units[0], starts))
        back = ScanInputs(state.recurrent, query, Write(*recurrent), starts)
        given = {"feed-forward memory": forward, "recurrent memory": back}
        return [Reads(name, delta_rule, inputs) for name, inputs in given.items()]

    def _recur(
        self, now: Now, state: State, starts: Bool[Tensor, "B T"] | None
    ) -> tuple[Float[Tensor, "B T H V"], Tensor, Units]:
        """The outputs of all time steps; without ``starts`` there is only one step."""
        with without_autocast(now[0].device):
            if self.network.native and recurs_natively(now[0], state.recurrent, *state.units):
                return _natively(now, state, starts)
            if starts is None:
                read, key, value, beta = (part.squeeze(1) for part in now)
                y, (weights, units) = self._advance((read, key, value, beta), state[1:])
                return y.unsqueeze(1), weights, units
            fresh = self.initial_state(len(starts), starts.device)[1:]
            y, (weights, units) = by_steps(self._advance, now, state[1:], starts, fresh)
            return y, weights, units

    def _program(
        self, x: Float[Tensor, "*BT D"]
    ) -> tuple[Tensor, Write, tuple[Tensor, Tensor, Tensor]]:
        """Queries and writes of the feed-forward memory, and the writes of the recurrent one."""
        query, key, value, recurrent_key, recurrent_value, beta, recurrent_beta = self.slow(x)
        write = Write(self.feature_map(key), value, beta.sigmoid())
        recurrent = (softmax(recurrent_key), recurrent_value, recurrent_beta.sigmoid())
        return self.feature_map(query), write, recurrent

    def _advance(
        self, now: Now, before: tuple[Tensor, Units]
    ) -> tuple[Float[Tensor, "B H V"], tuple[Tensor, Units]]:
        read, key, value, beta = now
        weights, units = before
        query = self._recurrent_query(units[0])
        back, weights = scan_step(delta_rule, weights, query, Write(key, value, beta))
        y, units = self.network.advance(read, back, units)
        return y, (weights, units)

    def _recurrent_query(self, last: Float[Tensor, "*BT H V"]) -> Float[Tensor, "*BT H2 V"]:
        """The last output as the query of all gates."""
        query = softmax(last) if self.network.squash else last
        return torch.cat([query] * self.network.gates, dim=-2)


def _natively(
    now: Now, state: State, starts: Bool[Tensor, "B T"] | None
) -> tuple[Float[Tensor, "B T H V"], Tensor, Units]:
    last, *cells = state.units
    cell = cells[0] if cells else None
    inputs = recurrences.FastRecurrence(*now, state.recurrent, last, cell, starts)
    y, weights, cell = recurrences.fast_recurrence(inputs)
    return y, weights, (y[:, -1].clone(), cell)[: len(state.units)]
