"""Networks for pictures and for maps of symbols.

Like all encoders they keep the leading axes of their observations: streams, or streams and time.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from agents.normalisers import bounded
from agents.pictures import Picture

# Symbols of a map that each have a channel of their own; larger ones are grades of brightness.
MOST_SYMBOLS = 16


class Grid(nn.Module):
    """A small map of symbols such as MiniGrid's view: a code for each symbol, two convolutions."""

    def __init__(self, picture: Picture, features: int, graded: bool) -> None:
        super().__init__()
        self.picture = picture
        codes = symbol_codes(int(picture.high), graded)
        self.register_buffer("codes", codes, persistent=False)
        self.network = nn.Sequential(
            nn.Conv2d(picture.channels * codes.shape[1], 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * picture.height * picture.width, features),
            nn.ReLU(),
        )
        self.output_size = features

    @override
    def forward(self, observation: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
        symbols, leading = in_rows(observation, self.picture, last=True)
        codes = cast(Tensor, self.codes)
        planes = F.embedding(symbols.long().clamp(0, len(codes) - 1), codes)
        planes = planes.flatten(-2).movedim(-1, 1)
        return self.network(planes).reshape(*leading, self.output_size)


def symbol_codes(largest: int, graded: bool) -> Float[Tensor, "symbols channels"]:
    """A row for each symbol up to the largest: one-hot for the first ones.

    MiniGrid declares 255 but knows eleven objects, six colours and three states. Where there are
    more, they are grades of brightness: shares of two neighbouring channels, below zero so that
    they are like none of the first. If not ``graded``, they are all the last of the first.
    """
    size = min(largest + 1, MOST_SYMBOLS)
    symbols = torch.arange(largest + 1)
    codes = F.one_hot(symbols.clamp(max=size - 1), size).float()
    if graded and largest >= size:
        grade = symbols[size:, None] * ((size - 1) / largest)
        codes[size:] = -(1 - (grade - torch.arange(size)).abs()).clamp(min=0)
    return codes


class Image(nn.Module):
    """A convolutional network for pictures with channels first, last or absent."""

    def __init__(self, picture: Picture, features: int) -> None:
        super().__init__()
        self.picture = picture
        channels = picture.channels
        body = BODIES[picture.network](channels)
        first = body[0]
        self.stride = first.stride[0] if isinstance(first, SpaceToDepthConv) else 1
        with torch.no_grad():
            zeros = torch.zeros(1, channels, picture.height, picture.width)
            size = body(space_to_depth(zeros, self.stride)).numel()
        summary = orthogonal(nn.Linear(size, features))
        self.network = nn.Sequential(body, nn.Flatten(), summary, nn.ReLU())
        self.output_size = features

    @override
    def forward(self, observation: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
        pixels, leading = in_rows(observation, self.picture, last=False)
        if self.stride > 1:
            pixels = space_to_depth(pixels, self.stride)
        shares = _shares(pixels, self.picture.low, self.picture.high)
        return self.network(shares).float().reshape(*leading, self.output_size)


def _shares(pixels: Tensor, low: float, high: float) -> Tensor:
    """Pixels as shares of their range."""
    if pixels.dtype == torch.uint8 and low == 0 and torch.is_autocast_enabled(pixels.device.type):
        # bfloat16 holds every byte exactly
        return pixels.to(torch.get_autocast_dtype(pixels.device.type)).div(high)
    pixels = bounded(pixels.float()) if pixels.is_floating_point() else pixels.float()
    return (pixels if low == 0 else pixels - low).div(high - low)


def in_rows(observation: Tensor, picture: Picture, last: bool) -> tuple[Tensor, torch.Size]:
    """Pictures along one axis, with channels last or first, and the axes that they had before.

    The channels of a pixel lie side by side in memory in either case, as suits convolutions.
    """
    axis, height, width = picture.channel_axis, picture.height, picture.width
    axes = 2 if axis is None else 3
    leading = observation.shape[: observation.dim() - axes]
    pixels = observation.reshape(-1, *observation.shape[observation.dim() - axes :])
    if axis == 0:
        pixels = pixels.movedim(1, -1)
    # the strides of a single channel, too, say that it comes last
    pixels = pixels.reshape(-1, height, width * picture.channels)
    pixels = pixels.unflatten(-1, (width, picture.channels))
    return (pixels if last else pixels.movedim(-1, 1)), leading


def space_to_depth(
    pixels: Shaped[Tensor, "B c height width"], size: int
) -> Shaped[Tensor, "B {size}*{size}*c height//{size} width//{size}"]:
    """Blocks of ``size`` times ``size`` pixels as channels; what fills no block is cut off.

    Channels are innermost in memory, before and after.
    """
    rows = pixels.movedim(1, -1)
    height, width = (side - side % size for side in rows.shape[1:3])
    rows = rows[:, :height, :width].contiguous().flatten(2).unflatten(1, (height // size, size))
    rows = rows.unflatten(-1, (width // size, size * pixels.shape[1])).transpose(2, 3)
    in_words = rows.element_size() * rows.shape[-1] % 4 == 0 and not torch.compiler.is_exporting()
    # four bytes are moved as fast as one
    blocks = rows.view(torch.int32).contiguous().view(rows.dtype) if in_words else rows
    return blocks.flatten(3).movedim(-1, 1)


class SpaceToDepthConv(nn.Conv2d):
    """A convolution whose kernel is a multiple of its stride, of pixels by `space_to_depth`.

    The result is that of ``nn.Conv2d`` on the pixels themselves, and so are the parameters. A
    kernel that covers few channels is the slowest part of a network for pictures: its rows are too
    short for the units of the processor that multiply matrices.
    """

    @override
    def forward(self, input: Float[Tensor, "B C H W"]) -> Float[Tensor, "B k h w"]:
        stride = self.stride[0]
        height, width = (side // stride for side in self.kernel_size)
        blocks = self.weight.unflatten(2, (height, stride)).unflatten(4, (width, stride))
        weight = blocks.permute(0, 2, 4, 3, 5, 1).flatten(3).movedim(-1, 1)
        return F.conv2d(input, weight, self.bias)


def nature(channels: int, widths: Sequence[int] = (32, 64, 64)) -> nn.Sequential:
    """The convolutions of the DQN paper (Mnih et al. 2015), orthogonally initialised."""
    first, second, third = widths
    return nn.Sequential(
        orthogonal(SpaceToDepthConv(channels, first, 8, stride=4)),
        nn.ReLU(),
        orthogonal(nn.Conv2d(first, second, 4, stride=2)),
        nn.ReLU(),
        orthogonal(nn.Conv2d(second, third, 3)),
        nn.ReLU(),
    )


def orthogonal(layer: nn.Conv2d | nn.Linear) -> nn.Module:
    """The layer, initialised to preserve the variance of its input through a ReLU."""
    nn.init.orthogonal_(layer.weight, math.sqrt(2))
    nn.init.zeros_(cast(Tensor, layer.bias))
    return layer


class ResidualBlock(nn.Module):
    """Two convolutions with a skip connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    @override
    def forward(self, x: Float[Tensor, "B c h w"]) -> Float[Tensor, "B c h w"]:
        return x + self.second(F.relu(self.first(F.relu(x))))


def impala(channels: int) -> nn.Sequential:
    """The large residual network of IMPALA (Espeholt et al. 2018): 16, 32, 32 channels."""
    layers: list[nn.Module] = []
    for width in (16, 32, 32):
        layers += [
            nn.Conv2d(channels, width, 3, padding=1),
            nn.MaxPool2d(3, stride=2, padding=1),
            ResidualBlock(width),
            ResidualBlock(width),
        ]
        channels = width
    return nn.Sequential(*layers, nn.ReLU())


BODIES: dict[str, Callable[[int], nn.Sequential]] = {
    "nature": nature,
    "small": partial(nature, widths=(16, 32, 32)),
    "impala": impala,
}
