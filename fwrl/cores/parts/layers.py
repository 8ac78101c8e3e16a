"""Layers that several memories share: a residual gate, a short convolution, decays, heads."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from fwrl.config import ConfigError
from fwrl.kernels import recurs_natively
from fwrl.kernels.native.convolution import convolution
from fwrl.state import at_least_float32, time_in_episode

ConvolutionInit = Literal["present", "random"]
# Scales the read of each head to unit size, ``layer`` after taking off its mean.
HeadNorm = Literal["none", "rms", "layer"]


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
        """The stream after a layer that read the stream ``x`` and returned ``y``."""
        reset, update, candidate = self.from_layer(y.relu()).chunk(3, dim=-1)
        stream_reset, stream_update = self.from_stream(x).chunk(2, dim=-1)
        reset = (reset + stream_reset).sigmoid()
        update = (update + stream_update - self.bias).sigmoid()
        candidate = (candidate + self.from_reset(reset * x)).tanh()
        return x + update * (candidate - x)


class ShortConvolution(nn.Module):
    """A causal depthwise convolution over the last few time steps of the episode.

    It lets a memory bind inputs that follow one another, as a key and its value (Fu et al. 2023).

    Args:
        channels: Each is convolved by itself.
        size: The time steps that it spans.
        bias: Whether a learned offset is added.
        init: Its weights at first: ``present`` lets inputs pass as they are, ``random`` is uniform.
    """

    def __init__(
        self, channels: int, size: int, bias: bool = False, init: ConvolutionInit = "random"
    ) -> None:
        super().__init__()
        self.size = size
        if init == "present":
            weight = torch.zeros(size, channels)
            weight[0] = 1
        else:
            weight = torch.empty(size, channels).uniform_(-1, 1) * size**-0.5
        self.weight = nn.Parameter(weight)
        offset = torch.empty(channels).uniform_(-1, 1) * size**-0.5 if bias else None
        self.bias = None if offset is None else nn.Parameter(offset)

    def initial_state(
        self, batch_size: int, device: torch.device | None = None
    ) -> Float[Tensor, "B R P"]:
        """The inputs before an episode: R = size - 1 zeros per channel."""
        return torch.zeros(batch_size, self.size - 1, self.weight.shape[1], device=device)

    @override
    def forward(
        self, x: Float[Tensor, "B T P"], recent: Float[Tensor, "B R P"], starts: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T P"], Float[Tensor, "B R P"]]:
        """The convolved sequence, and the last R times of it."""
        x = at_least_float32(x)
        weight = self.weight.to(x.dtype)
        if recurs_natively(x, weight, recent) and not torch.compiler.is_exporting():
            y, recent = convolution(x, weight, recent, starts)
            return y if self.bias is None else y + self.bias, recent
        past = self.size - 1
        before = torch.full_like(starts[:, 0], self.size, dtype=recent.dtype)
        seen = time_in_episode(starts, before).unsqueeze(-1)
        whole = torch.cat([recent.to(x.dtype), x], dim=1)
        # the weight of the present is the first
        y = weight[0] * x
        if self.bias is not None:
            y = y + self.bias.to(x.dtype)
        for age in range(1, self.size):
            earlier = whole[:, past - age : past - age + x.shape[1]]
            y = y + weight[age] * torch.where(seen > age, earlier, 0.0)
        ages = torch.arange(past, 0, -1, device=x.device).unsqueeze(-1)
        kept = whole[:, whole.shape[1] - past :]
        return y, torch.where(seen[:, -1:] >= ages, kept, 0.0)


class Decay(nn.Module):
    """A decay in (0, 1) for each head (Dao and Gu 2024), or each of its channels (Kimi Team 2025).

    The rates and the time steps start spread out, so that heads forget at different speeds. With
    channels the time steps come through a bottleneck of as many units as a head has channels.

    Args:
        slowest: The smallest rate at the start of training; the largest is 16.
    """

    def __init__(
        self, input_size: int, heads: int, channels: int = 1, slowest: float = 0.0
    ) -> None:
        super().__init__()
        self.channels = channels
        steps = heads * channels
        if channels == 1:
            self.step = nn.Linear(input_size, steps, bias=False)
        else:
            narrow = nn.Linear(input_size, channels, bias=False)
            self.step = nn.Sequential(narrow, nn.Linear(channels, steps, bias=False))
        self.log_rate = nn.Parameter(torch.empty(heads))
        self.step_bias = nn.Parameter(torch.empty(steps))
        # on the meta device each operation would import PyTorch's compiler, which takes seconds
        if not self.log_rate.is_meta:
            self._draw(slowest)

    @torch.no_grad()
    def _draw(self, slowest: float) -> None:
        self.log_rate.uniform_(slowest, 16).clamp_(min=1e-4).log_()
        step = torch.empty_like(self.step_bias).uniform_(math.log(1e-3), math.log(1e-1)).exp()
        # the inverse of softplus
        self.step_bias.copy_(step + torch.log(-torch.expm1(-step)))

    def time_steps(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B H F"]:
        """How much time passes before each input, above 0."""
        step = F.softplus(at_least_float32(self.step(x)) + self.step_bias)
        return step.unflatten(-1, (-1, self.channels))

    def over(self, time_steps: Float[Tensor, "*B H F"]) -> Float[Tensor, "*B H F"]:
        """The share that is left after so much time."""
        return torch.exp(-self.log_rate.exp().unsqueeze(-1) * time_steps)

    @override
    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B H F"]:
        return self.over(self.time_steps(x))


def split_heads(
    projected: Float[Tensor, "*BT E"], heads: int, sizes: Sequence[int]
) -> tuple[Tensor, ...]:
    """The parts of each head, ``[*BT, H, size]`` for each of the sizes, in float32 or more."""
    return at_least_float32(projected).unflatten(-1, (heads, -1)).split(list(sizes), dim=-1)


def previous(
    x: Float[Tensor, "B T H K"], before: Float[Tensor, "B H K"], starts: Bool[Tensor, "B T"]
) -> Float[Tensor, "B T H K"]:
    """Each time step's predecessor in the episode: ``before`` at the first, zeros at starts."""
    shifted = torch.cat([before.unsqueeze(1), x[:, :-1]], dim=1)
    return torch.where(starts[:, :, None, None], 0.0, shifted)


def head_norm(name: HeadNorm, size: int) -> nn.Module:
    """The norm of the reads of heads of this size; ``layer`` has no learned scales."""
    match name:
        case "rms":
            return nn.RMSNorm(size)
        case "layer":
            return nn.LayerNorm(size, elementwise_affine=False)
        case "none":
            return nn.Identity()


class SlowNetwork(nn.Module):
    """One projection without biases for the keys, values, queries and strengths of all heads.

    The caller knows which part is which, and applies feature maps and sigmoids.
    """

    def __init__(self, input_size: int, heads: int, sizes: Sequence[int]) -> None:
        super().__init__()
        self.heads, self.sizes = heads, tuple(sizes)
        self.project = nn.Linear(input_size, heads * sum(sizes), bias=False)

    @override
    def forward(self, x: Float[Tensor, "*BT D"]) -> tuple[Tensor, ...]:
        return split_heads(self.project(x), self.heads, self.sizes)

    def zeros(self, *shape: int, device: torch.device | None) -> Tensor:
        """Zeros in the precision of the network's outputs."""
        dtype = torch.promote_types(self.project.weight.dtype, torch.float32)
        return torch.zeros(shape, dtype=dtype, device=device)


class JoinHeads(nn.Module):
    """The projection of the reads of all heads, without biases.

    Args:
        scaled: Multiply the reads by ``1 / sqrt(V)`` first.
    """

    def __init__(self, heads: int, value_size: int, output_size: int, scaled: bool) -> None:
        super().__init__()
        self.scale = value_size**-0.5 if scaled else 1.0
        self.linear = nn.Linear(heads * value_size, output_size, bias=False)

    @override
    def forward(self, values: Float[Tensor, "*BT H V"]) -> Float[Tensor, "*BT E"]:
        return self.linear(self.scale * values.flatten(start_dim=-2))


class NormHeads(nn.Module):
    """Layer normalisation of what each head returns, with learned scales and no biases.

    Raises:
        ConfigError: If a head is a single number, whose distance from its own mean is zero.
    """

    def __init__(self, kind: str, heads: int, size: int) -> None:
        super().__init__()
        if size == 1:
            raise ConfigError(
                f"{kind}: heads is {heads}, which leaves one number to each, and its norm makes it "
                f"zero; use at most {heads // 2}"
            )
        self.scale = nn.Parameter(torch.ones(heads, size))

    @override
    def forward(self, values: Float[Tensor, "*BT H V"]) -> Float[Tensor, "*BT E"]:
        scaled = self.scale * F.layer_norm(values, values.shape[-1:])
        return scaled.flatten(start_dim=-2)
