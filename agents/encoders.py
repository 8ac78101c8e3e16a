"""Encoders: any observation space becomes a vector of features.

Every encoder keeps the leading axes of its observations: streams, or streams and time. Images are
uint8 until they are encoded.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector.utils import batch_space
from jaxtyping import Float, Shaped
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from agents.frames import frames_as_channels
from agents.normalisers import RunningMoments, bounded
from agents.picture_encoders import Grid, Image, orthogonal
from agents.pictures import Picture, picture_in
from agents.spaces import MOST_CHOICES, one_line
from fwrl.config import Config, ConfigError, Size

# Observations that may be seen together.
MOST_FRAMES = 256
# Numbers of an embedded symbol.
EMBEDDING = 32


class EncoderConfig(Config):
    """The encoder, which turns an observation and the previous action and reward into features."""

    former: ClassVar[Mapping[str, Any]] = {"channels": "before", "one_hot_up_to": MOST_CHOICES}

    frame_stack: int = Field(default=1, ge=1, le=MOST_FRAMES)
    """Observations that are seen together: the present one and those before it, of which the policy
    remembers as many as it needs. An episode's first one stands for those that would be before it.
    Pictures become one picture with the channels of all."""
    image: Literal["auto", "nature", "small", "impala", "grid", "vector"] = "auto"
    """The network for pictures. ``auto`` chooses by the shorter side: ``nature`` from 36 pixels,
    ``impala`` from 16, and below ``grid``, for maps of symbols such as MiniGrid's view. ``small``
    is ``nature`` with half the channels, several times as fast. With ``vector`` nothing is read as
    a picture."""
    channels: Literal["auto", "first", "last", "before"] = "auto"
    """The axis of a picture's channels; ``auto`` tells it by the shape. Shape, type and bounds tell
    what is a picture; ``before`` takes only bytes along three axes for one, divides all by 255 and
    tells 16 symbols apart, as fwrl once did."""
    one_hot_up_to: int = Field(default=1024, ge=1, le=MOST_CHOICES)
    """The most symbols of a Discrete part, or of a factor of a MultiDiscrete one, that each have a
    feature of their own; symbols of a larger alphabet are embedded."""
    image_features: int = Field(default=512, ge=1, le=2**18)
    """Size of an image's feature vector."""
    registered: str | None = None
    """Name of an encoder of one's own for the whole observation, which a module has registered
    that the command imports (``--import MODULE``); None: the ones above."""
    hidden: tuple[Size, ...] = Field(default=(), max_length=64)
    """Sizes of dense layers between all features and the memory, each followed by a ReLU."""
    previous_action: bool = True
    """Whether the previous action is among the features; zeros when an episode begins."""
    previous_reward: bool = True
    """Whether the previous reward is among the features; zero when an episode begins."""
    normalise_reward: bool | None = None
    """Divide the previous reward by the running standard deviation of the discounted return, kept
    inside the policy; null: unless ``critic.head`` is ``linear``."""
    time_frequencies: int = Field(default=0, ge=0, le=64)
    """Number of sines, and of cosines, of the time since the episode began; their frequencies fall
    from 1 radian per step towards (excluded) 1/10,000. 0: none."""
    normalise_observations: bool = False
    """Running mean and variance of vector observations, kept inside the policy."""
    bfloat16: bool = False
    """Compute the encoder (and nothing else) in bfloat16; slower where the processor lacks it."""


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
        self.shifted = bool(offsets.any())
        self.register_buffer("offsets", torch.tensor(offsets), persistent=False)

    @override
    def forward(self, observation: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
        leading = observation.shape[: observation.dim() - self.axes]
        index = observation.reshape(*leading, len(self.sizes)).long()
        if self.shifted:
            index = index + cast(Tensor, self.offsets)
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


class Frames(nn.Module):
    """Several frames of one part of the observation, ``[..., N, *shape]``."""

    def __init__(self, encoder: nn.Module, count: int, picture: Picture | None) -> None:
        """The frames as one picture, or else each by itself.

        Args:
            encoder: The encoder of the picture of all frames, or of one frame.
            count: N.
            picture: The reading of one frame; None if it is no picture.
        """
        super().__init__()
        self.encoder, self.count, self.picture = encoder, count, picture
        size = cast(int, encoder.output_size)
        self.output_size = size if picture is not None else count * size

    @override
    def forward(self, observation: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
        if self.picture is None:
            return self.encoder(observation).flatten(-2)
        return self.encoder(frames_as_channels(observation, self.picture.channel_axis))


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
        case Frames():
            # of single observations, as they come
            update_moments(encoder.encoder, observation)
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
        case Frames():
            one = encoder.picture
            return f"{encoder.count} frames, each {one or reading(encoder.encoder)}"
        case OneHot() | Embedded():
            many, how = len(encoder.sizes), ", embedded" * isinstance(encoder, Embedded)
            what = f"one of {encoder.sizes[0]:,} symbols" if many == 1 else f"{many:,} symbols"
            return what + how
        case Parts():
            parts = zip(encoder.keys, encoder.parts, strict=True)
            return "; ".join(f"{key}: {reading(part)}" for key, part in parts)
        case Flat():
            size = encoder.output_size
            return f"vector of {size:,}" if size != 1 else "number"
        case _:
            return f"{cast(int, encoder.output_size):,} features by {type(encoder).__name__}"


# Encoders that imported modules have registered, by name.
_REGISTERED: dict[str, Callable[[spaces.Space[Any]], nn.Module]] = {}


def register_encoder(name: str, make: Callable[[spaces.Space[Any]], nn.Module]) -> None:
    """Register an encoder for ``encoder.registered``, from a module that commands import.

    Args:
        name: How configurations call it.
        make: Makes the encoder for an observation space: a module with an ``output_size`` that maps
            tensors with any leading axes, nested as in the space, to features with the same axes.
            With a frame stack the space is that of N observations, as ``batch_space`` makes it.

    Raises:
        ValueError: If another one has this name.
    """
    if _REGISTERED.get(name, make) is not make:
        raise ValueError(f"another encoder is registered as {name!r}")
    _REGISTERED[name] = make


def make_encoder(space: spaces.Space[Any], config: EncoderConfig) -> nn.Module:
    """The encoder for a space, a module with an ``output_size``.

    With a frame stack it reads ``[..., N, *shape]`` in place of ``[..., *shape]``.

    Raises:
        ConfigError: If no encoder takes the space.
    """
    if config.registered is None:
        return _built_in(space, config)
    name, make = config.registered, _REGISTERED.get(config.registered)
    if make is None:
        known = f"one of {', '.join(_REGISTERED)}" if _REGISTERED else "registered, but none is"
        raise ConfigError(
            f"encoder.registered is {name!r}; it should be {known}; the module that registers it "
            "is imported by `--import MODULE`"
        )
    try:
        encoder = make(batch_space(space, config.frame_stack) if config.frame_stack > 1 else space)
        size = cast(Any, encoder).output_size
    # its author may raise anything
    except Exception as error:
        raise ConfigError(
            f"encoder.registered is {name!r}: {type(error).__name__}: {error}"
        ) from error
    if type(size) is not int:
        raise ConfigError(
            f"encoder.registered is {name!r}: its output_size is {size!r}; it should be a number"
        )
    return encoder


def _built_in(space: spaces.Space[Any], config: EncoderConfig) -> nn.Module:
    match space:
        case spaces.Dict() if space.spaces:
            return Parts({name: _built_in(part, config) for name, part in space.spaces.items()})
        case spaces.Tuple() if space.spaces:
            return Parts({i: _built_in(part, config) for i, part in enumerate(space.spaces)})
        case _:
            return _leaf_encoder(space, config)


def _leaf_encoder(space: spaces.Space[Any], config: EncoderConfig) -> nn.Module:
    """The encoder for a space without parts, of which it reads one frame or several."""
    count, picture = config.frame_stack, None
    if isinstance(space, spaces.Box):
        picture = picture_in(space, config.image, config.channels)
    if count == 1:
        return _one_frame(space, picture, config)
    if picture is None:
        return Frames(_one_frame(space, None, config), count, None)
    axis = 0 if picture.channel_axis is None else picture.channel_axis
    together = picture._replace(channels=count * picture.channels, channel_axis=axis)
    return Frames(_one_frame(space, together, config), count, picture)


def _one_frame(
    space: spaces.Space[Any], picture: Picture | None, config: EncoderConfig
) -> nn.Module:
    match space:
        case spaces.Discrete():
            return _symbols([int(space.n)], [int(space.start)], 0, config.one_hot_up_to)
        case spaces.MultiDiscrete():
            sizes, starts = space.nvec.flatten().tolist(), space.start.flatten().tolist()
            return _symbols(sizes, starts, space.nvec.ndim, config.one_hot_up_to)
        case spaces.MultiBinary():
            return Flat(spaces.Box(0, 1, space.shape), normalise=False)
        case spaces.Box():
            if picture is None:
                return Flat(space, config.normalise_observations)
            if picture.network == "grid":
                return Grid(picture, config.image_features, graded=config.channels != "before")
            return Image(picture, config.image_features)
        case _:
            raise ConfigError(
                f"env: no encoder takes the observation space {one_line(space)}; it should be made "
                "of Discrete, MultiDiscrete, MultiBinary, Box, Dict and Tuple"
            )


def _symbols(sizes: list[int], starts: list[int], axes: int, limit: int) -> nn.Module:
    if max(sizes) <= limit:
        return OneHot(sizes, starts, axes)
    return Embedded(sizes, starts, axes, limit)


def dense_layers(input_size: int, sizes: Sequence[int]) -> nn.Sequential:
    """Dense layers of these sizes, each followed by a ReLU; none is the identity."""
    layers: list[nn.Module] = []
    for before, size in zip([input_size, *sizes], sizes, strict=False):
        layers += [orthogonal(nn.Linear(before, size)), nn.ReLU()]
    return nn.Sequential(*layers)


def sines(elapsed: Shaped[Tensor, "*B"], frequencies: int) -> Float[Tensor, "*B F"]:
    """Sine and cosine of a time at geometrically spaced frequencies (Vaswani et al. 2017)."""
    exponents = torch.arange(frequencies, device=elapsed.device) / max(frequencies, 1)
    angles = elapsed.float().unsqueeze(-1) * torch.exp(-math.log(10_000.0) * exponents)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
