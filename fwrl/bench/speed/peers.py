"""The peers of a memory's pass over sequences; all read the same sequences.

A *run* is a forward and a backward pass, with the gradients of the input and of all parameters.
Peers that handle starts clear the state where an episode begins, as ours do. Peers in one call
cannot; they show the cost of an LSTM without resets.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from fwrl.bench.speed.timing import Run
from fwrl.core import MemoryCore

STEPPED = "nn.LSTM step by step"
CELL_LOOP = "LSTMCell loop"
ONE_CALL = "nn.LSTM in one call, no starts"
GRU_CALL = "nn.GRU in one call, no starts"
ATTENTION = "causal attention"
LINEAR_MAPS = "its linear maps alone"


class Sequences(NamedTuple):
    """The sequences that all read."""

    x: Float[Tensor, "B T D"]
    starts: Bool[Tensor, "B T"]


class Pass(NamedTuple):
    """A forward pass over the sequences, and the tensors that get gradients."""

    forward: Callable[[], Tensor]
    leaves: list[Tensor]

    @property
    def run(self) -> Run:
        """Forward and backward."""
        return lambda: torch.autograd.grad(
            self.forward().square().mean(), self.leaves, allow_unused=True
        )


def sequences(
    batch: int, times: int, width: int, episode: int, device: torch.device, seed: int
) -> Sequences:
    """Random inputs in which an episode starts about every ``episode`` time steps."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, times, width, generator=generator).to(device).requires_grad_()
    starts = torch.rand(batch, times, generator=generator) < 1 / episode
    return Sequences(x, starts.to(device))


def core_pass(core: MemoryCore[Any], given: Sequences) -> Pass:
    """A core's ``unroll``."""
    x, starts = given
    state = core.initial_state(x.shape[0], x.device)
    return _pass(lambda: core.unroll(x, state, starts)[0], given, core)


def linear_maps(core: MemoryCore[Any], given: Sequences) -> Pass:
    """Every linear map in a core once, over all times: about as much as a feed-forward layer."""
    layers = [layer for layer in core.modules() if isinstance(layer, nn.Linear)]
    shape, device = given.x.shape[:2], given.x.device
    inputs = [
        torch.randn(*shape, layer.in_features, device=device, requires_grad=True)
        for layer in layers
    ]

    def forward() -> Tensor:
        outputs = [layer(x).flatten() for layer, x in zip(layers, inputs, strict=True)]
        return torch.cat(outputs)

    leaves = [leaf for layer in layers for leaf in layer.parameters()]
    return Pass(forward, [*inputs, *leaves])


def peers(given: Sequences, heads: int) -> dict[str, Pass]:
    """Recurrent networks and attention as wide as the input."""
    width, device = given.x.shape[-1], given.x.device
    lstm = nn.LSTM(width, width, batch_first=True).to(device)
    stepped = nn.LSTM(width, width).to(device)
    cell = nn.LSTMCell(width, width).to(device)
    gru = nn.GRU(width, width, batch_first=True).to(device)
    attention = CausalAttention(width, heads).to(device)
    return {
        STEPPED: _pass(lambda: _step_by_step(stepped, given), given, stepped),
        CELL_LOOP: _pass(lambda: _loop(cell, given), given, cell),
        ONE_CALL: _pass(lambda: lstm(given.x)[0], given, lstm),
        GRU_CALL: _pass(lambda: gru(given.x)[0], given, gru),
        ATTENTION: _pass(lambda: attention(given.x, given.starts), given, attention),
    }


def _pass(forward: Callable[[], Tensor], given: Sequences, module: nn.Module) -> Pass:
    return Pass(forward, [given.x, *module.parameters()])


def _step_by_step(lstm: nn.LSTM, given: Sequences) -> Tensor:
    """One call for each time, for no call may cross the beginning of an episode."""
    x, keep = given.x.transpose(0, 1), _keep(given.starts)
    hidden = cell = torch.zeros(1, x.shape[1], lstm.hidden_size, device=x.device)
    outputs: list[Tensor] = []
    for x_t, keep_t in zip(x.split(1), keep, strict=True):
        y, (hidden, cell) = lstm(x_t, (keep_t * hidden, keep_t * cell))
        outputs.append(y)
    return torch.cat(outputs)


def _loop(cell: nn.LSTMCell, given: Sequences) -> Tensor:
    hidden = memory = torch.zeros(given.x.shape[0], cell.hidden_size, device=given.x.device)
    outputs: list[Tensor] = []
    for x_t, keep_t in zip(given.x.unbind(1), _keep(given.starts), strict=True):
        hidden, memory = cell(x_t, (keep_t * hidden, keep_t * memory))
        outputs.append(hidden)
    return torch.stack(outputs, dim=1)


def _keep(starts: Bool[Tensor, "B T"]) -> tuple[Tensor, ...]:
    """The factor of the state at each time, zero at starts: these peers' way to reset."""
    return (~starts).float().unsqueeze(-1).unbind(1)


class CausalAttention(nn.Module):
    """Softmax attention of each time to the times before it in the same episode."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.project = nn.Linear(width, 3 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)

    @override
    def forward(self, x: Float[Tensor, "B T D"], starts: Bool[Tensor, "B T"]) -> Tensor:
        """The output of the attention at each time."""
        episode = starts.cumsum(dim=1)
        allowed = (episode.unsqueeze(1) == episode.unsqueeze(2)).tril().unsqueeze(1)
        heads = self.project(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        read = F.scaled_dot_product_attention(*heads.unbind(0), attn_mask=allowed)
        return self.output(read.transpose(1, 2).flatten(2))


def bytes_saved(given: Pass) -> int:
    """Bytes that a forward pass keeps for the backward pass, without the parameters."""
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        # held until all bytes are counted, so that no address is used twice
        output = given.forward()
    for parameter in given.leaves[1:]:
        storages.pop(parameter.untyped_storage().data_ptr(), None)
    del output
    return sum(storages.values())
