"""Parts that several memories are made of: a gated unit in time, one in depth, a convolution."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from fwrl.precision import at_least_float32
from fwrl.recurrence import time_in_episode


class LSTMState(NamedTuple):
    """What the gates read, and what they keep."""

    hidden: Float[Tensor, "B E"]
    cell: Float[Tensor, "B E"]


class LSTMCell(nn.Module):
    """Long short-term memory (Hochreiter and Schmidhuber 1997), the gates of ``torch.nn.LSTM``.

    ``input`` is applied to all times at once; only the recurrent projection waits for the state.
    """

    def __init__(self, input_size: int, hidden_size: int, forget_bias: float = 1.0) -> None:
        super().__init__()
        self.hidden_size, self.forget_bias = hidden_size, forget_bias
        self.input = nn.Linear(input_size, 4 * hidden_size)
        self.recurrent = nn.Linear(hidden_size, 4 * hidden_size, bias=False)

    def initial_state(self, batch_size: int, device: torch.device | None = None) -> LSTMState:
        """Zeros."""
        zeros = torch.zeros(batch_size, self.hidden_size, device=device)
        return LSTMState(zeros, zeros.clone())

    def advance(
        self, projected: Float[Tensor, "B E4"], state: LSTMState
    ) -> tuple[Float[Tensor, "B E"], LSTMState]:
        """One time, given what ``input`` made of it: the new hidden units, and the new state."""
        hidden = state.hidden.to(self.recurrent.weight.dtype)
        gates = projected + F.linear(hidden, self.recurrent.weight)
        # the state stays float32 where autocast made the gates smaller
        write, keep, new, show = at_least_float32(gates).chunk(4, dim=-1)
        kept = (keep + self.forget_bias).sigmoid() * state.cell
        cell = kept + write.sigmoid() * new.tanh()
        hidden = show.sigmoid() * cell.tanh()
        return hidden, LSTMState(hidden, cell)


class Gate(nn.Module):
    """The gated residual connection of GTrXL (Parisotto et al. 2020).

    A gated recurrent unit from layer to layer in place of from time to time. Its bias lets the
    stream pass almost unchanged at first.
    """

    def __init__(self, width: int, bias: float = 2.0) -> None:
        super().__init__()
        self.bias = bias
        self.from_layer = nn.Linear(width, 3 * width, bias=False)
        self.from_stream = nn.Linear(width, 2 * width, bias=False)
        self.from_reset = nn.Linear(width, width, bias=False)

    @override
    def forward(self, x: Float[Tensor, "*B D"], y: Float[Tensor, "*B D"]) -> Tensor:
        """The stream ``x`` after the layer that made ``y`` of it."""
        reset, update, new = self.from_layer(y.relu()).chunk(3, dim=-1)
        stream_reset, stream_update = self.from_stream(x).chunk(2, dim=-1)
        reset = (reset + stream_reset).sigmoid()
        update = (update + stream_update - self.bias).sigmoid()
        new = (new + self.from_reset(reset * x)).tanh()
        return x + update * (new - x)


class ShortConvolution(nn.Module):
    """A causal convolution of each channel by itself over the last few times of the episode.

    It lets a memory bind what follows one another, as a key and then its value (Fu et al. 2023).
    """

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.weight = nn.Parameter(torch.empty(size, channels).uniform_(-1, 1) * size**-0.5)

    def initial_state(
        self, batch_size: int, device: torch.device | None = None
    ) -> Float[Tensor, "B R P"]:
        """What came before an episode: R = size - 1 times of nothing."""
        return torch.zeros(batch_size, self.size - 1, self.weight.shape[1], device=device)

    @override
    def forward(
        self, x: Float[Tensor, "B T P"], recent: Float[Tensor, "B R P"], starts: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T P"], Float[Tensor, "B R P"]]:
        """The convolved sequence, and the last R times of it."""
        x = at_least_float32(x)
        past = self.size - 1
        before = torch.full_like(starts[:, 0], self.size, dtype=recent.dtype)
        seen = time_in_episode(starts, before).unsqueeze(-1)
        whole = torch.cat([recent.to(x.dtype), x], dim=1)
        # the weight of the present is the first
        y = self.weight[0].to(x.dtype) * x
        for age in range(1, self.size):
            earlier = whole[:, past - age : past - age + x.shape[1]]
            y = y + self.weight[age].to(x.dtype) * torch.where(seen > age, earlier, 0.0)
        ages = torch.arange(past, 0, -1, device=x.device).unsqueeze(-1)
        kept = whole[:, whole.shape[1] - past :]
        return y, torch.where(seen[:, -1:] >= ages, kept, 0.0)
