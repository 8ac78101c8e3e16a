"""Encoders: any observation space becomes a vector of features.

Every encoder keeps the leading axes of its observations: streams, or streams and time. Images are
uint8 until they are encoded.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float, Shaped
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from agents.normalisers import RunningMoments
from agents.pictures import Picture, picture_in
from agents.spaces import MOST_CHOICES, one_line
from fwrl.config import Config, ConfigError

# Numbers that enter the network are cut off here. A stack that normalises nothing bears less.
LARGEST, LARGEST_BARE = 1e12, 1e6
# Symbols of a map that each have a channel of their own; larger ones are grades of brightness.
MOST_SYMBOLS = 16
# Numbers of an embedded symbol.
EMBEDDING = 32


class EncoderConfig(Config):
    """The encoder, which turns an observation and the previous action and reward into features."""

    former: ClassVar[Mapping[str, Any]] = {"channels": "before", "one_hot_up_to": MOST_CHOICES}

    image: Literal["auto", "nature", "impala", "grid", "vector"] = "auto"
    """The network for pictures. ``auto`` chooses by the shorter side: ``nature`` from 36 pixels,
    ``impala`` from 16, and below ``grid``, for maps of symbols such as MiniGrid's view. With
    ``vector`` nothing is read as a picture."""
    channels: Literal["auto", "first", "last", "before"] = "auto"
    """The axis of a picture's channels; ``auto`` tells it by the shape. Shape, type and bounds tell
    what is a picture; ``before`` takes only bytes along three axes for one, divides all by 255 and
    tells 16 symbols apart, as fwrl once did."""
    one_hot_up_to: int = Field(default=1024, ge=1, le=MOST_CHOICES)
    """The most symbols of a Discrete part, or of a factor of a MultiDiscrete one, that each have a
    feature of their own; symbols of a larger alphabet are embedded."""
    image_features: int = Field(default=512, ge=1, le=2**18)
    """Size of an image's feature vector."""
    previous_action: bool = True
    """Whether the previous action is among the features; zeros when an episode begins."""
    previous_reward: bool = True
    """Whether the previous reward is among the features; zero when an episode begins."""
    time_frequencies: int = Field(default=0, ge=0, le=64)
    """Number of sines, and of cosines, of the time since the episode began; their frequencies fall
    from 1 radian per step towards (excluded) 1/10,000. 0: none."""
    normalise_observations: bool = False
    """Running mean and variance of vector observations, kept inside the policy."""
    bfloat16: bool = False
    """Compute the encoder (and nothing else) in bfloat16; slower where the processor lacks it."""


def bounded(x: Float[Tensor, "*any"], largest: float = LARGEST) -> Float[Tensor, "*any"]:
    """Numbers cut off where sums of their squares would leave the range of 32 bits."""
    return x.clamp(-largest, largest)


class Flat(nn.Module):
    """A vector of real numbers, normalised or not."""

    def __init__(self, space: spaces.Box, normalise: bool) -> None:
        super().__init__()
        self.axes = len(space.shape)
        self.output_size = int(np.prod(space.shape))
        self.moments = RunningMoments(self.output_size) if normalise else None

    @override
    def forward(self, observation: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
        flat = self.flatten(observation)
        return flat if self.moments is None else self.moments.normalise(flat)

    def flatten(self, observation: Tensor) -> Tensor:
        """The observation with its own axes flattened into one."""
        leading = observation.shape[: observation.dim() - self.axes]
        return bounded(observation.reshape(*leading, self.output_size).float())


class OneHot(nn.Module):
    """One-hot codes of one symbol, or of several along ``axes`` axes, each of its own alphabet."""

    def __init__(self, sizes: Sequence[int], starts: Sequence[int], axes: int) -> None:
        super().__init__()
        self.axes, self.sizes = axes, sizes
        self.output_size = sum(sizes)
        offsets = np.cumsum([0, *sizes[:-1]]) - np.array(starts)
        self.register_buffer("offsets", torch.tensor(offsets), persistent=False)

    @override
    def forward(self, observation: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
        offsets = cast(Tensor, self.offsets)
        leading = observation.shape[: observation.dim() - self.axes]
        index = observation.reshape(*leading, offsets.numel()).long() + offsets
        features = torch.zeros(*index.shape[:-1], self.output_size, device=index.device)
        return features.scatter_(-1, index, 1.0)


class Embedded(nn.Module):
    """Symbols of large alphabets: two small tables give each symbol a row of its own.

    The row is the product of one for the quotient and one for the remainder of the symbol, divided
    by the root of the largest alphabet (Shi et al. 2020). Factors share the tables; those of small
    alphabets are one-hot.
    """

    def __init__(self, sizes: Sequence[int], starts: Sequence[int], axes: int, limit: int) -> None:
        super().__init__()
        self.axes, self.sizes = axes, sizes
        large = [i for i, size in enumerate(sizes) if size > limit]
        small = [i for i, size in enumerate(sizes) if size <= limit]
        self.register_buffer("large", torch.tensor(large), persistent=False)
        self.register_buffer("small", torch.tensor(small), persistent=False)
        self.register_buffer("starts", torch.tensor([starts[i] for i in large]), persistent=False)
        self.rows = math.isqrt(max(sizes) - 1) + 1
        self.quotients, self.remainders = (nn.Embedding(self.rows, EMBEDDING) for _ in range(2))
        self.one_hot = None
        self.output_size = len(large) * EMBEDDING
        if small:
            self.one_hot = OneHot([sizes[i] for i in small], [starts[i] for i in small], axes=1)
            self.output_size += self.one_hot.output_size

    @override
    def forward(self, observation: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
        leading = observation.shape[: observation.dim() - self.axes]
        symbols = observation.reshape(*leading, len(self.sizes)).long()
        large = symbols.index_select(-1, cast(Tensor, self.large)) - cast(Tensor, self.starts)
        rows = self.quotients(large // self.rows) * self.remainders(large % self.rows)
        features = rows.flatten(-2)
        if self.one_hot is None:
            return features
        small = self.one_hot(symbols.index_select(-1, cast(Tensor, self.small)))
        return torch.cat([features, small], dim=-1)


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
        body = nature(channels) if picture.network == "nature" else impala(channels)
        with torch.no_grad():
            size = body(torch.zeros(1, channels, picture.height, picture.width)).numel()
        summary = _orthogonal(nn.Linear(size, features))
        self.network = nn.Sequential(body, nn.Flatten(), summary, nn.ReLU())
        self.output_size = features

    @override
    def forward(self, observation: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
        pixels, leading = in_rows(observation, self.picture, last=False)
        low, high = self.picture.low, self.picture.high
        pixels = bounded(pixels.float()) if pixels.is_floating_point() else pixels.float()
        pixels = pixels if low == 0 else pixels - low
        return self.network(pixels.div(high - low)).float().reshape(*leading, self.output_size)


def in_rows(observation: Tensor, picture: Picture, last: bool) -> tuple[Tensor, torch.Size]:
    """Pictures along one axis, with channels last or first, and the axes that they had before."""
    axis = picture.channel_axis
    axes = 2 if axis is None else 3
    leading = observation.shape[: observation.dim() - axes]
    pixels = observation.reshape(-1, *observation.shape[observation.dim() - axes :])
    if axis is None:
        return pixels.unsqueeze(-1 if last else 1), leading
    if last:
        return (pixels if axis else pixels.movedim(1, -1)), leading
    return (pixels.movedim(-1, 1) if axis else pixels), leading


def nature(channels: int) -> nn.Sequential:
    """The convolutions of the DQN paper (Mnih et al. 2015), orthogonally initialised."""
    return nn.Sequential(
        _orthogonal(nn.Conv2d(channels, 32, 8, stride=4)),
        nn.ReLU(),
        _orthogonal(nn.Conv2d(32, 64, 4, stride=2)),
        nn.ReLU(),
        _orthogonal(nn.Conv2d(64, 64, 3)),
        nn.ReLU(),
    )


def _orthogonal(layer: nn.Conv2d | nn.Linear) -> nn.Module:
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


class Parts(nn.Module):
    """Dict and Tuple observations: the concatenated features of their parts."""

    def __init__(self, parts: Mapping[Any, nn.Module]) -> None:
        super().__init__()
        self.keys = list(parts)
        self.parts = nn.ModuleList(parts.values())
        self.output_size = sum(cast(int, part.output_size) for part in parts.values())

    @override
    def forward(self, observation: Any) -> Float[Tensor, "..."]:
        features = [part(observation[key]) for key, part in zip(self.keys, self.parts, strict=True)]
        return torch.cat(features, dim=-1)


def update_moments(encoder: nn.Module, observation: Any) -> None:
    """Update every normaliser inside the encoder with observations."""
    match encoder:
        case Flat() if encoder.moments is not None:
            encoder.moments.update(encoder.flatten(observation))
        case Parts():
            for key, part in zip(encoder.keys, encoder.parts, strict=True):
                update_moments(part, observation[key])
        case _:
            pass


def reading(encoder: nn.Module) -> str:
    """How an encoder reads observations, in words."""
    match encoder:
        case Grid() | Image():
            return str(encoder.picture)
        case OneHot() | Embedded():
            many, how = len(encoder.sizes), ", embedded" * isinstance(encoder, Embedded)
            what = f"one of {encoder.sizes[0]:,} symbols" if many == 1 else f"{many:,} symbols"
            return what + how
        case Parts():
            parts = zip(encoder.keys, encoder.parts, strict=True)
            return "; ".join(f"{key}: {reading(part)}" for key, part in parts)
        case _:
            size = cast(int, encoder.output_size)
            return f"vector of {size:,}" if size != 1 else "number"


def make_encoder(space: spaces.Space[Any], config: EncoderConfig) -> nn.Module:
    """The encoder for a space, a module with an ``output_size``.

    Raises:
        ConfigError: If no encoder takes the space.
    """
    match space:
        case spaces.Discrete():
            return _symbols([int(space.n)], [int(space.start)], 0, config.one_hot_up_to)
        case spaces.MultiDiscrete():
            sizes, starts = space.nvec.flatten().tolist(), space.start.flatten().tolist()
            return _symbols(sizes, starts, space.nvec.ndim, config.one_hot_up_to)
        case spaces.MultiBinary():
            return Flat(spaces.Box(0, 1, space.shape), normalise=False)
        case spaces.Box():
            picture = picture_in(space, config.image, config.channels)
            if picture is None:
                return Flat(space, config.normalise_observations)
            if picture.network == "grid":
                return Grid(picture, config.image_features, graded=config.channels != "before")
            return Image(picture, config.image_features)
        case spaces.Dict() if space.spaces:
            return Parts({name: make_encoder(part, config) for name, part in space.spaces.items()})
        case spaces.Tuple() if space.spaces:
            return Parts({i: make_encoder(part, config) for i, part in enumerate(space.spaces)})
        case _:
            raise ConfigError(
                f"env: no encoder takes the observation space {one_line(space)}; it should be made "
                "of Discrete, MultiDiscrete, MultiBinary, Box, Dict and Tuple"
            )


def _symbols(sizes: list[int], starts: list[int], axes: int, limit: int) -> nn.Module:
    if max(sizes) <= limit:
        return OneHot(sizes, starts, axes)
    return Embedded(sizes, starts, axes, limit)


def sines(elapsed: Shaped[Tensor, "*B"], frequencies: int) -> Float[Tensor, "*B F"]:
    """Sine and cosine of a time at geometrically spaced frequencies (Vaswani et al. 2017)."""
    exponents = torch.arange(frequencies, device=elapsed.device) / max(frequencies, 1)
    angles = elapsed.float().unsqueeze(-1) * torch.exp(-math.log(10_000.0) * exponents)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
