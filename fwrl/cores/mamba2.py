"""Mamba-2: a decaying sum of outer products between a short convolution and a gate."""

from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from fwrl.config import Count, Size, head_size
from fwrl.core import About, MemoryCore, MemoryCoreConfig, Reads
from fwrl.cores.parts.layers import Decay, ShortConvolution
from fwrl.kernels import scan
from fwrl.state import FastWeights, at_least_float32
from fwrl.update_rules import ScanInputs, Write, decayed_sum_rule

# Added to the mean square under the root of the norm.
EPSILON = 1e-5


class Mamba2Config(MemoryCoreConfig):
    """The layer of Mamba-2 (Dao and Gu 2024), whose state-space model is a ``decayed_sum``.

    In its terms the key is B, the query C, the value the input of the state-space model, and the
    write strength the time step, which also decides how much decays. Keys and queries are the same
    for all heads.

    Note:
        That work's language models have ``state_size=128`` and heads of 64 values.
    """

    about: ClassVar[About] = About(
        update="W <- exp(-a s) W + s k v, y = norm((q W + d v) * silu(z)); q, k, v, z, s from x",
        cost="3DE + 2DN + 3EN, E = expand D, N = state_size",
        parallel=True,
        source="Dao and Gu 2024",
    )
    kind: Literal["mamba2"] = "mamba2"
    expand: Count = 2
    """Values of all heads together, as a multiple of the input size."""
    heads: Count = 4
    """Heads, each with a decay and a state of its own; a divisor of all values."""
    state_size: Size = 64
    """Features of keys and queries: numbers of the state for each value."""
    short_convolution: int = Field(default=4, ge=0, le=2**10)
    """Time steps that a causal convolution of values, keys and queries spans; 1: the present, with
    a learned scale and offset; 0: none."""

    @override
    def build(self, input_size: int) -> "Mamba2":
        return Mamba2(input_size, self)


class State(NamedTuple):
    """The state of the state-space model, and the last inputs of the convolution."""

    weights: FastWeights
    recent: Float[Tensor, "B R P"]


class Mamba2(MemoryCore[State]):
    """The weights in its state are ``[B, H, N, V]``, N features of keys and V values a head."""

    remark = (
        "a short convolution mixes the last inputs before they are written or asked; the present "
        "value is added, and a gate and a norm of all heads follow"
    )

    def __init__(self, input_size: int, config: Mamba2Config) -> None:
        super().__init__()
        self.input_size = self.output_size = input_size
        self.heads, self.features = config.heads, config.state_size
        self.inner = config.expand * input_size
        self.head_size = head_size("mamba2", self.inner, config.heads)
        convolved = self.inner + 2 * self.features
        # the gate, values, keys and queries: one product
        self.project = nn.Linear(input_size, self.inner + convolved, bias=False)
        self.decay = Decay(input_size, config.heads, slowest=1.0)
        size = config.short_convolution
        self.convolution = ShortConvolution(convolved, size, bias=True) if size else None
        self.skip = nn.Parameter(torch.ones(config.heads, 1))
        self.norm = nn.RMSNorm(self.inner, eps=EPSILON)
        self.output = nn.Linear(self.inner, input_size, bias=False)

    @override
    def initial_state(self, batch_size: int, device: torch.device | None = None) -> State:
        shape = batch_size, self.heads, self.features, self.head_size
        if self.convolution is None:
            recent = torch.zeros(batch_size, 0, 0, device=device)
        else:
            recent = self.convolution.initial_state(batch_size, device)
        return State(torch.zeros(shape, device=device), recent)

    @override
    def unroll(
        self, x: Float[Tensor, "B T D"], state: State, starts: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T E"], State]:
        query, write, gate, recent = self._slow(x, state.recent, starts)
        read, weights = scan(decayed_sum_rule, state.weights, query, write, starts)
        values = (read + self.skip * write.value).flatten(start_dim=-2)
        return self.output(self.norm(values * F.silu(gate))), State(weights, recent)

    @override
    def reads(
        self, x: Float[Tensor, "B T D"], state: State, starts: Bool[Tensor, "B T"]
    ) -> list[Reads]:
        query, write, _, _ = self._slow(x, state.recent, starts)
        inputs = ScanInputs(state.weights, query, write, starts)
        return [Reads("state", decayed_sum_rule, inputs)]

    def _slow(
        self, x: Float[Tensor, "B T D"], recent: Float[Tensor, "B R P"], starts: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T H K"], Write, Float[Tensor, "B T F"], Float[Tensor, "B R P"]]:
        """The queries, the writes, the gate, and the convolution's new state."""
        gate, rest = at_least_float32(self.project(x)).tensor_split([self.inner], dim=-1)
        if self.convolution is not None:
            rest, recent = self.convolution(rest, recent, starts)
        value, key, query = F.silu(rest).split([self.inner, self.features, self.features], -1)
        every_head = (-1, -1, self.heads, -1)
        key, query = (each.unsqueeze(-2).expand(every_head) for each in (key, query))
        time_steps = self.decay.time_steps(x)
        value = value.unflatten(-1, (self.heads, self.head_size))
        return query, Write(key, value, time_steps, self.decay.over(time_steps)), gate, recent
