"""Fast weight memory: an LSTM that writes triples into a tensor and follows chains of them.

A triple binds a value to the tensor product of two parts of a key, so that the memory is a tensor
with three axes of size S; it is kept as fast weights with S * S rows and S columns.
"""

import math
from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from fwrl.config import Count, Size
from fwrl.core import About, MemoryCore, MemoryCoreConfig, by_steps
from fwrl.cores.parts.lstm import LSTMCell, LSTMState, unroll_lstm
from fwrl.kernels import recurs_natively
from fwrl.kernels.native import recurrences
from fwrl.state import FastWeights, at_least_float32, may_look, without_autocast
from fwrl.update_rules import Write, clipped_delta_rule, read


class FastWeightMemoryConfig(MemoryCoreConfig):
    """Fast weight memory; the defaults are those of its agents (Schlag et al. 2021b).

    The two published language models differ from the agents in four settings:

    ================  ======  =======  ==========
    setting           agents  catbAbI  word level
    ================  ======  =======  ==========
    ``scale_write``   True    True     False
    ``read_tanh``     "none"  "edges"  "all"
    ``residual``      True    False    True
    ``forget_bias``   0       1        0
    ``memory_size``   16      32       32
    ================  ======  =======  ==========

    Note:
        The LSTM has one bias per gate, where that of the paper has two that are added up; at the
        word level it has three layers there.
    """

    about: ClassVar[About] = About(
        update="W <- clip(W + beta/V k (v - k W)), k = vec(s r); n <- LN(vec(n e) W), R times",
        cost="4DE + 4E^2 + (R + 5)EV + (R + 4)V^3, R reads",
        parallel=False,
        source="Schlag et al. 2021b",
    )
    kind: Literal["fast_weight_memory"] = "fast_weight_memory"
    hidden_size: Size | None = None
    """Hidden units of the LSTM, and the size of the output; None: the input size."""
    memory_size: Size = 16
    """Size of a value and of each part of a key: the memory holds the third power of it."""
    reads: Count = 3
    """Reads in a chain; each asks for the value that the one before has found."""
    scale_write: bool = True
    """Divides the write strength by the memory size."""
    read_tanh: Literal["none", "edges", "all"] = "none"
    """Which parts of a read's address pass a tanh: none, the edges, or the first node as well."""
    residual: bool = True
    """Adds the value that was found to the output of the LSTM, in place of replacing it."""
    forget_bias: float = 0.0
    """Added to the forget gate of the LSTM."""

    @override
    def build(self, input_size: int) -> "FastWeightMemory":
        return FastWeightMemory(input_size, self)


class State(NamedTuple):
    """The state of the LSTM, and the fast weights of the single head."""

    slow: LSTMState
    memory: Float[Tensor, "B 1 K V"]


class Asked(NamedTuple):
    """The LSTM's instructions to the memory: one triple to write, then a chain of reads."""

    # both parts of the key, and the value
    triple: Float[Tensor, "*BT 3 V"]
    beta: Float[Tensor, "*BT 1"]
    # the node where the chain begins, and the edge that it takes from each node to the next
    path: Float[Tensor, "*BT P V"]


def bind(first: Float[Tensor, "*B S"], second: Float[Tensor, "*B R"]) -> Float[Tensor, "*B K"]:
    """The tensor product as a vector: a key that is found only by both of its parts."""
    return (first.unsqueeze(-1) * second.unsqueeze(-2)).flatten(start_dim=-2)


def follow(memory: FastWeights, path: Float[Tensor, "B P V"]) -> Float[Tensor, "B 1 V"]:
    """The node at which a chain of reads ends; each that it comes to is normalised."""
    node, *edges = path.split(1, dim=-2)
    for edge in edges:
        node = F.layer_norm(read(memory, bind(node, edge)), node.shape[-1:])
    return node


class FastWeightMemory(MemoryCore[State]):
    """Fast weights that an LSTM programs.

    Writes and reads depend on the LSTM alone: they are known for all time steps before the
    memory's own recurrence begins.
    """

    remark = "it shortens its matrix after a write, and chains its reads"

    def __init__(self, input_size: int, config: FastWeightMemoryConfig) -> None:
        super().__init__()
        self.input_size = input_size
        self.output_size = config.hidden_size or input_size
        self.size = config.memory_size
        self.read_tanh, self.residual = config.read_tanh, config.residual
        self.strength = 1.0 / config.memory_size if config.scale_write else 1.0
        self.cell = LSTMCell(input_size, self.output_size, config.forget_bias)
        # two parts of a key, a value, and the write strength
        self.write = nn.Linear(self.output_size, 3 * self.size + 1)
        self.question = nn.Linear(self.output_size, (1 + config.reads) * self.size)
        self.output = nn.Linear(self.size, self.output_size)
        bound = math.sqrt(6.0 / (self.output_size + self.size))
        for layer in (self.write, self.question):
            nn.init.uniform_(layer.weight, -bound, bound)

    @override
    def initial_state(self, batch_size: int, device: torch.device | None = None) -> State:
        memory = torch.zeros(batch_size, 1, self.size**2, self.size, device=device)
        return State(self.cell.initial_state(batch_size, device), memory)

    @override
    def step(self, x: Float[Tensor, "B D"], state: State) -> tuple[Float[Tensor, "B E"], State]:
        hidden, slow = self.cell.advance(self.cell.input(x), state.slow)
        asked = self._ask(hidden)
        with without_autocast(x.device):
            if recurs_natively(*asked, state.memory):
                one = Asked(*(part.unsqueeze(1) for part in asked))
                node, memory = _natively(one, state.memory, None)
                node = node.squeeze(1)
            else:
                node, memory = _advance(asked, state.memory)
        return self._out(hidden, node), State(slow, memory)

    @override
    def unroll(
        self, x: Float[Tensor, "B T D"], state: State, starts: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T E"], State]:
        hidden, slow = unroll_lstm(self.cell, x, state.slow, starts)
        asked = self._ask(hidden)
        with without_autocast(x.device):
            if recurs_natively(*asked, state.memory):
                node, memory = _natively(asked, state.memory, starts)
            # where there are more times, comparing all of them costs more than the memory itself
            elif x.shape[1] <= 4 * self.size and _are_whole(starts):
                node, memory = recall_episode(asked)
            else:
                fresh = torch.zeros_like(state.memory)
                node, memory = by_steps(_advance, asked, state.memory, starts, fresh)
        return self._out(hidden, node), State(slow, memory)

    def _ask(self, hidden: Float[Tensor, "*BT E"]) -> Asked:
        """The writes and reads that follow from the hidden units."""
        written = at_least_float32(self.write(hidden))
        triple = written[..., :-1].tanh().unflatten(-1, (3, self.size))
        beta = self.strength * (written[..., -1:] + 1.0).sigmoid()
        path = at_least_float32(self.question(hidden)).unflatten(-1, (-1, self.size))
        if self.read_tanh == "edges":
            path = torch.cat([path[..., :1, :], path[..., 1:, :].tanh()], dim=-2)
        return Asked(triple, beta, path.tanh() if self.read_tanh == "all" else path)

    def _out(
        self, hidden: Float[Tensor, "*BT E"], node: Float[Tensor, "*BT V"]
    ) -> Float[Tensor, "*BT E"]:
        found = self.output(node)
        return hidden + found if self.residual else found


def _advance(asked: Asked, memory: FastWeights) -> tuple[Float[Tensor, "B V"], FastWeights]:
    first, second, value = asked.triple.split(1, dim=-2)
    write = Write(bind(first, second), value, asked.beta.unsqueeze(-2))
    memory = clipped_delta_rule(memory.to(write.key.dtype), write)
    return follow(memory, asked.path).squeeze(-2), memory


def _natively(
    asked: Asked, memory: FastWeights, starts: Bool[Tensor, "B T"] | None
) -> tuple[Float[Tensor, "B T V"], FastWeights]:
    inputs = recurrences.FastWeightMemory(*asked, memory.squeeze(1), starts)
    node, end = recurrences.fast_weight_memory(inputs)
    return node, end.unsqueeze(1)


def _are_whole(starts: Bool[Tensor, "B T"]) -> bool:
    """Whether every stream is known to begin at the first time and at no other."""
    return may_look(starts) and bool(starts[:, 0].all()) and not bool(starts[:, 1:].any())


def recall_episode(asked: Asked) -> tuple[Float[Tensor, "B T V"], FastWeights]:
    """The results of ``_advance`` over an episode that begins with an empty memory.

    The memory is then a sum over all writes, ``W = k[1] w[1] + k[2] w[2] + ...``, and ``key W``
    compares the key with the key of each write, as attention does. Keys are compared part by part;
    while there are few of them, W itself is neither computed nor kept for the backward pass.
    """
    first, second, value = asked.triple.unbind(-2)
    node, edges_of_all = asked.path[..., 0, :], asked.path[..., 1:, :]
    squares = first.square().sum(-1) * second.square().sum(-1)
    # each time's key, and each of its edges, against the keys of all times
    alike = (first @ first.mT) * (second @ second.mT)
    alike_edges = edges_of_all @ second.unsqueeze(1).mT
    keys = _streams_last(first)
    held = keys[:0]
    norm = squares.new_zeros(squares.shape[0])
    found: list[Tensor] = []
    columns = map(_streams_last, (alike, alike_edges, squares, value, asked.beta, node))
    for t, (like, edges, square, new, strength, origin) in enumerate(zip(*columns, strict=True)):
        old = (held * like[:t].unsqueeze(1)).sum(0)
        change = strength * (new - old)
        # |W + k c|^2 = |W|^2 + 2 (k W) c + |k|^2 |c|^2
        norm = norm + ((2.0 * old + square * change) * change).sum(0)
        held = torch.cat([held, change.unsqueeze(0)]) * norm.clamp_min(1.0).rsqrt()
        norm = norm.clamp_max(1.0)
        known, at = keys[: t + 1], origin
        for edge in edges[:, : t + 1]:
            weight = (known * at).sum(1) * edge
            at = _normalised((held * weight.unsqueeze(1)).sum(0))
        found.append(at)
    memory = bind(first, second).mT @ held.movedim(-1, 0)
    return torch.stack(found).permute(2, 0, 1), memory.unsqueeze(1)


def _streams_last(x: Tensor) -> Tensor:
    """The first axis as the last: sums over the others then run over many numbers side by side."""
    return x.movedim(0, -1).contiguous()


def _normalised(node: Float[Tensor, "V B"]) -> Float[Tensor, "V B"]:
    """``F.layer_norm`` of each stream."""
    node = node - node.mean(0)
    return node * (node.square().mean(0) + 1e-5).rsqrt()
