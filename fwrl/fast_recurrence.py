"""Recurrent networks whose weights are fast: what the Delta RNN and the Delta LSTM share."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fwrl.feature_maps import FeatureMap, FeatureOptions, softmax
from fwrl.kernels import scan, scan_step
from fwrl.precision import without_autocast
from fwrl.recurrence import by_steps
from fwrl.shapes import FastWeights
from fwrl.slow_network import SlowNetwork
from fwrl.update_rules import Write, delta_rule

# What a recurrent network remembers beside its weights, the last output first.
Units = tuple[Tensor, ...]

# One time: what the feed-forward weights read, the recurrent weights, the units before; gives
# the output and the units.
Combine = Callable[[Tensor, Tensor, Units], tuple[Tensor, Units]]


class FastRecurrentState(NamedTuple):
    """Gates of one head are further heads of the two matrices, but not of the units."""

    feed_forward: FastWeights
    recurrent: FastWeights
    units: Units


class FastRecurrence(nn.Module):
    """Two delta memories per head and gate: one reads the input, one the network's last output.

    Both are written by what the slow network makes of the input alone. So the feed-forward one is
    scanned over all times at once, and only the recurrent one is inside the loop over time. The
    keys of the latter pass a softmax, as what reads it does in most versions.
    """

    def __init__(
        self,
        input_size: int,
        heads: int,
        size: int,
        feature_map: str = "elu_plus_one",
        gates: int = 1,
        units: int = 1,
    ) -> None:
        super().__init__()
        self.heads, self.size, self.gates, self.units = heads, size, gates, units
        # query, key, value, and the recurrent key and value; the strengths of both writes
        self.slow = SlowNetwork(input_size, gates * heads, [size] * 5 + [1] * 2)
        self.feature_map = FeatureMap(feature_map, FeatureOptions(size), "sum")

    def initial_state(
        self, batch_size: int, device: torch.device | None = None
    ) -> FastRecurrentState:
        """Zeros."""

        def weights() -> Tensor:
            heads = self.gates * self.heads
            return self.slow.zeros(batch_size, heads, self.size, self.size, device=device)

        units = [
            self.slow.zeros(batch_size, self.heads, self.size, device=device)
            for _ in range(self.units)
        ]
        return FastRecurrentState(weights(), weights(), tuple(units))

    def step(
        self, x: Float[Tensor, "B D"], state: FastRecurrentState, combine: Combine
    ) -> tuple[Float[Tensor, "B H V"], FastRecurrentState]:
        """The network's output at one time, and the new state."""
        query, write, recurrent = self._program(x)
        read, feed_forward = scan_step(delta_rule, state.feed_forward, query, write)
        with without_autocast(x.device):
            y, (weights, units) = _advance(combine, (read, *recurrent), state[1:])
        return y, FastRecurrentState(feed_forward, weights, units)

    def unroll(
        self,
        x: Float[Tensor, "B T D"],
        state: FastRecurrentState,
        starts: Bool[Tensor, "B T"],
        combine: Combine,
    ) -> tuple[Float[Tensor, "B T H V"], FastRecurrentState]:
        """The network's outputs at all times, and the last state."""
        query, write, recurrent = self._program(x)
        read, feed_forward = scan(delta_rule, state.feed_forward, query, write, starts)
        fresh = self.initial_state(x.shape[0], x.device)[1:]

        def advance(
            now: tuple[Tensor, ...], before: tuple[Tensor, Units]
        ) -> tuple[Tensor, tuple[Tensor, Units]]:
            return _advance(combine, now, before)

        with without_autocast(x.device):
            y, (weights, units) = by_steps(advance, (read, *recurrent), state[1:], starts, fresh)
        return y, FastRecurrentState(feed_forward, weights, units)

    def _program(
        self, x: Float[Tensor, "*BT D"]
    ) -> tuple[Tensor, Write, tuple[Tensor, Tensor, Tensor]]:
        """Where to read and what to write feed-forward, and what to write recurrently."""
        query, key, value, recurrent_key, recurrent_value, beta, recurrent_beta = self.slow(x)
        write = Write(self.feature_map(key), value, beta.sigmoid())
        recurrent = (softmax(recurrent_key), recurrent_value, recurrent_beta.sigmoid())
        return self.feature_map(query), write, recurrent


def _advance(
    combine: Combine, now: tuple[Tensor, ...], before: tuple[Tensor, Units]
) -> tuple[Tensor, tuple[Tensor, Units]]:
    read, key, value, beta = now
    weights, units = before
    weights = delta_rule(weights, Write(key, value, beta))
    y, units = combine(read, weights, units)
    return y, (weights, units)
