"""The matrix memory of xLSTM: gates that are exponentials, and reads that are averages."""

from typing import ClassVar, Literal, NamedTuple, cast

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from fwrl.config import Count, head_size
from fwrl.core import About, MemoryCore, MemoryCoreConfig, Reads
from fwrl.cores.parts.layers import NormHeads, ShortConvolution, split_heads
from fwrl.kernels import scan
from fwrl.kernels.associative_scan import max_recurrence
from fwrl.state import at_least_float32, one_before
from fwrl.update_rules import ScanInputs, Write, decayed_sum_rule

# Added to what reads are divided by, as published.
EPSILON = 1e-6
# The forget gates of the heads begin from the first to the second, before their sigmoid.
FORGET_BIASES = (3.0, 6.0)


class MLSTMConfig(MemoryCoreConfig):
    """The mLSTM of xLSTM (Beck et al. 2024).

    Note:
        Left out is what the published block has around its memory: wider inputs, and a shortcut
        past the memory. Its convolution is an option. The gates see the input, as in the equations;
        in the published program they see queries, keys and values.
    """

    about: ClassVar[About] = About(
        update="W <- f W + exp(i) k v, n <- f n + exp(i) k, y = o * norm(q W / max(|q n|, 1))",
        cost="5D^2 + 2DH + 3HK(V + 1)",
        parallel=True,
        source="Beck et al. 2024",
    )
    kind: Literal["mlstm"] = "mlstm"
    heads: Count = 4
    """Heads, each with a matrix and gates of its own; a divisor of the input size."""
    short_convolution: int = Field(default=0, ge=0, le=2**10)
    """Time steps that a causal convolution before queries and keys spans, 4 as published; a SiLU
    follows. 0: none."""

    @override
    def build(self, input_size: int) -> "MLSTM":
        return MLSTM(input_size, self)


class State(NamedTuple):
    """The matrices and the sums of keys, both divided by the exponential of the stabiliser."""

    # the last of the W = V + 1 columns is the sum of the keys
    weights: Float[Tensor, "B H K W"]
    stabiliser: Float[Tensor, "B H"]
    # the last inputs of the convolution, if there is one
    recent: Float[Tensor, "B R D"] | None = None


class MLSTM(MemoryCore[State]):
    """A decayed sum whose gates are divided by the largest of them in sight.

    What is written with ``exp(i)`` would overflow. The stabiliser ``m <- max(log f + m, i)`` is the
    largest exponent with which anything is still held. Divided by its exponential, all factors are
    1 at most, and reads are the same whatever it is, so it has no gradient.
    """

    remark = "what reads are divided by is taken as it was; a norm of each head and a gate follow"

    def __init__(self, input_size: int, config: MLSTMConfig) -> None:
        super().__init__()
        self.input_size = self.output_size = input_size
        self.heads, self.size = config.heads, head_size(config.kind, input_size, config.heads)
        span = config.short_convolution
        self.convolution = ShortConvolution(input_size, span, bias=True) if span else None
        # values, which pass a convolution by, then have a map of their own
        self.values = nn.Linear(input_size, input_size, bias=False) if span else None
        # queries, keys, and values without a convolution
        self.project = nn.Linear(input_size, (2 if span else 3) * input_size, bias=False)
        # input gates and forget gates, which at first do not depend on the input
        self.gates = nn.Linear(input_size, 2 * config.heads)
        nn.init.zeros_(self.gates.weight)
        forget = torch.linspace(*FORGET_BIASES, config.heads)
        self.gates.bias.data = torch.cat([0.1 * torch.randn(config.heads), forget])
        self.output_gate = nn.Linear(input_size, input_size)
        self.norm = NormHeads(config.kind, config.heads, self.size)
        self.output = nn.Linear(input_size, input_size, bias=False)

    @override
    def initial_state(self, batch_size: int, device: torch.device | None = None) -> State:
        weights = torch.zeros(batch_size, self.heads, self.size, self.size + 1, device=device)
        recent = None
        if self.convolution is not None:
            recent = self.convolution.initial_state(batch_size, device)
        return State(weights, torch.zeros(batch_size, self.heads, device=device), recent)

    @override
    def unroll(
        self, x: Float[Tensor, "B T D"], state: State, starts: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T E"], State]:
        query, write, stabiliser, recent = self._slow(x, state, starts)
        one = torch.ones_like(write.value[..., :1])
        write = write._replace(value=torch.cat([write.value, one], dim=-1))
        read, weights = scan(decayed_sum_rule, state.weights, query, write, starts)
        least = torch.exp(-stabiliser).unsqueeze(-1)
        divisor = torch.maximum(read[..., -1:].abs(), least) + EPSILON
        hidden = self.norm(read[..., :-1] / divisor)
        y = self.output(self.output_gate(x).sigmoid() * hidden)
        return y, State(weights, stabiliser[:, -1].clone(), recent)

    @override
    def reads(
        self, x: Float[Tensor, "B T D"], state: State, starts: Bool[Tensor, "B T"]
    ) -> list[Reads]:
        query, write, *_ = self._slow(x, state, starts)
        inputs = ScanInputs(state.weights[..., :-1], query, write, starts)
        return [Reads("matrix memory", decayed_sum_rule, inputs)]

    def _slow(
        self, x: Float[Tensor, "B T D"], state: State, starts: Bool[Tensor, "B T"]
    ) -> tuple[
        Float[Tensor, "B T H K"], Write, Float[Tensor, "B T H"], Float[Tensor, "B R D"] | None
    ]:
        """The queries, the writes, the stabilisers that divide these, and the last inputs."""
        query, key, value, recent = self._projected(x, state.recent, starts)
        entry, forget = at_least_float32(self.gates(x)).chunk(2, dim=-1)
        kept = F.logsigmoid(forget)
        stabiliser = max_recurrence(kept, entry, state.stabiliser, starts)
        before = one_before(state.stabiliser, stabiliser, starts)
        strength = torch.exp(entry - stabiliser).unsqueeze(-1)
        decay = torch.exp(kept + before - stabiliser).unsqueeze(-1)
        return query, Write(key * self.size**-0.5, value, strength, decay), stabiliser, recent

    def _projected(
        self,
        x: Float[Tensor, "B T D"],
        recent: Float[Tensor, "B R D"] | None,
        starts: Bool[Tensor, "B T"],
    ) -> tuple[Tensor, Tensor, Tensor, Float[Tensor, "B R D"] | None]:
        """Queries, keys and values, and the last inputs of the convolution."""
        if self.convolution is None or self.values is None:
            query, key, value = split_heads(self.project(x), self.heads, [self.size] * 3)
            return query, key, value, None
        mixed, recent = self.convolution(x, cast(Tensor, recent), starts)
        query, key = split_heads(self.project(F.silu(mixed)), self.heads, [self.size] * 2)
        (value,) = split_heads(self.values(x), self.heads, [self.size])
        return query, key, value, recent
