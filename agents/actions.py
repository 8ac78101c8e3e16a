"""Action heads: from features to a distribution over the actions of any action space.

Inside the agent an action is a row of numbers: one choice for each factor of a discrete space, or
real numbers in units of half the range of a bounded Box.
"""

import math
from typing import Annotated, Any, Literal, cast

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float, Int
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from agents.distributions import Beta, Categorical, Gaussian, Squashed
from agents.spaces import ACTION_MASK, one_line
from fwrl.config import Config, ConfigError

# The logit of an impossible action. Its probability underflows to zero, and zero times it is zero;
# zero times infinity would be NaN.
IMPOSSIBLE = -1e9


PositiveStd = Annotated[float, Field(gt=0, le=1e6)]
# The largest range of a Box by which any number of 32 bits can be multiplied.
FARTHEST = 1e269


class ActionConfig(Config):
    """How actions in a Box of real numbers are drawn."""

    distribution: Literal["gaussian", "squashed", "beta"] = "gaussian"
    """``gaussian`` is clipped to the bounds. ``squashed`` is its hyperbolic tangent, and ``beta``
    a beta distribution with one hill; both stay within the bounds, which must be finite."""
    std: float = Field(default=1.0, gt=0, le=1e6)
    """The first standard deviation, before squashing, in units of half the range."""
    std_range: tuple[PositiveStd, PositiveStd] | None = None
    """Bounds that the standard deviation never reaches; None: there are none."""
    noise_correlation: float = Field(default=0.0, ge=0, lt=1)
    """Correlation of the noise of an action with that of the one before it, in training. Where
    independent noise averages out before it leads anywhere, as in MountainCarContinuous, 0.95 does
    not."""

    @model_validator(mode="after")
    def _fits(self) -> "ActionConfig":
        low, high = self.std_range or (0.0, math.inf)
        if not low < self.std < high:
            raise ValueError(
                f"std is {self.std:g}; it should be inside std_range, {low:g} to {high:g}"
            )
        if self.distribution == "beta":
            for name in ("std", "std_range", "noise_correlation"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"distribution is 'beta', which has no {name}; leave it out")
        return self


class DivergedError(RuntimeError):
    """A policy whose output is not finite. The message is one line."""


class CategoricalHead(nn.Module):
    """Discrete, MultiDiscrete and MultiBinary actions, with an optional mask."""

    kind = Categorical

    def __init__(self, space: spaces.Space[Any], input_size: int) -> None:
        super().__init__()
        self.space = space
        self.sizes = _factors(space)
        self.action_size = len(self.sizes)
        self.feature_size = sum(self.sizes)
        self.linear = _small_linear(input_size, self.feature_size)
        possible = np.arange(max(self.sizes)) < np.array(self.sizes)[:, np.newaxis]
        offsets = np.cumsum([0, *self.sizes[:-1]])
        start = np.asarray(getattr(space, "start", 0), np.int64)
        self.register_buffer("possible", torch.as_tensor(possible), persistent=False)
        self.register_buffer("offsets", torch.as_tensor(offsets), persistent=False)
        self.register_buffer("start", torch.as_tensor(start), persistent=False)

    @override
    def forward(self, x: Float[Tensor, "*B D"], mask: Tensor | None = None) -> Categorical:
        return self.distribution(self.linear(x), mask)

    def distribution(self, logits: Float[Tensor, "*B F"], mask: Tensor | None) -> Categorical:
        """The distribution over actions, given what ``linear`` made of the features."""
        if mask is not None:
            logits = logits.masked_fill(mask.reshape(logits.shape) == 0, IMPOSSIBLE)
        return Categorical(F.log_softmax(self._by_factor(logits), dim=-1))

    def _by_factor(self, logits: Tensor) -> Tensor:
        if len(set(self.sizes)) == 1:
            return logits.view(*logits.shape[:-1], self.action_size, self.sizes[0])
        possible = cast(Tensor, self.possible).expand(*logits.shape[:-1], -1, -1)
        # less probable than masked choices: if a mask allows nothing, padding must not be chosen
        padded = logits.new_full(possible.shape, 2 * IMPOSSIBLE)
        return padded.masked_scatter(possible, logits)

    def features(self, action: Int[Tensor, "*B A"]) -> Float[Tensor, "*B F"]:
        """The action as the encoder sees it in the next step."""
        one_hot = torch.zeros(*action.shape[:-1], self.feature_size, device=action.device)
        index = action if self.action_size == 1 else action + cast(Tensor, self.offsets)
        return one_hot.scatter_(-1, index, 1.0)

    def to_environment(self, action: Int[Tensor, "N A"]) -> NDArray[Any]:
        """The action in the form that the environment expects."""
        numbers = action.cpu().numpy()
        match self.space:
            case spaces.Discrete():
                return numbers[:, 0] + self.space.start
            case spaces.MultiDiscrete():
                return numbers.reshape(-1, *self.space.shape) + self.space.start
            case _:
                shape = cast(tuple[int, ...], self.space.shape)
                return numbers.reshape(-1, *shape).astype(np.int8)

    def environment_action(self, action: Int[Tensor, "N A"]) -> Tensor:
        """The same as tensors, for an exported policy, and for environments on a device."""
        shape = cast(tuple[int, ...], self.space.shape)
        numbers = action.reshape(-1, *shape)
        if isinstance(self.space, spaces.MultiBinary):
            return numbers.to(torch.int8)
        return numbers + cast(Tensor, self.start)


class BoxUnits(nn.Module):
    """The units of a Box: where both bounds are finite, -1 is the lower one and 1 the upper one."""

    def __init__(self, space: spaces.Box) -> None:
        super().__init__()
        self.space = space
        low, high = (bound.reshape(-1).astype(np.float64) for bound in (space.low, space.high))
        bounded = np.isfinite(low) & np.isfinite(high)
        self.all_bounded = bool(bounded.all())
        lower, upper = np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)
        # halves first: the difference of the farthest bounds is infinite
        half_range = (upper / 2 - lower / 2).clip(max=FARTHEST)
        # zero times infinity would be NaN
        self.half_range = np.where(half_range == 0, 1.0, half_range)
        self.middle = upper / 2 + lower / 2
        farthest = float(np.finfo(cast(Any, space.dtype)).max)
        self.low, self.high = np.maximum(low, -farthest), np.minimum(high, farthest)
        self.dtype = torch.from_numpy(np.zeros(0, space.dtype)).dtype
        units = np.stack([self.half_range, self.middle, self.low, self.high])
        self.register_buffer("units", torch.as_tensor(units), persistent=False)

    def to_environment(self, numbers: Float[Tensor, "N A"]) -> NDArray[Any]:
        """Numbers in the environment's units, clipped to its bounds; finite unless NaN."""
        given = numbers.detach().cpu().double().numpy() * self.half_range + self.middle
        given = np.clip(given, self.low, self.high).reshape(-1, *self.space.shape)
        return given.astype(self.space.dtype)

    def environment_action(self, numbers: Float[Tensor, "N A"]) -> Tensor:
        """The same as tensors, for an exported policy, which raises nothing: the lowest for NaN."""
        half_range, middle, low, high = cast(Tensor, self.units).double().unbind(0)
        given = numbers.double() * half_range + middle
        given = torch.where(given.isnan(), low, given).clamp(low, high)
        return given.reshape(-1, *self.space.shape).to(self.dtype)


class GaussianHead(nn.Module):
    """Box actions by normal distributions, clipped to the bounds or squashed into them."""

    def __init__(self, space: spaces.Box, input_size: int, config: ActionConfig) -> None:
        super().__init__()
        self.box = BoxUnits(space)
        self.action_size = self.feature_size = int(np.prod(space.shape))
        self.squashed = config.distribution == "squashed"
        self.kind = Squashed if self.squashed else Gaussian
        self.mean = _small_linear(input_size, self.action_size)
        first, self.log_range = math.log(config.std), None
        if config.std_range is not None:
            low, high = map(math.log, config.std_range)
            self.log_range = low, high - low
            share = (first - low) / (high - low)
            first = math.log(share / (1.0 - share))
        self.log_std = nn.Parameter(torch.full((self.action_size,), first))

    @property
    def std(self) -> Float[Tensor, ""]:
        """The mean standard deviation of the components, in units of half the range."""
        return self._log_std().detach().exp().mean()

    def _log_std(self) -> Float[Tensor, " A"]:
        """The logarithms of the standard deviations; a sigmoid keeps them in their range."""
        if self.log_range is None:
            return self.log_std
        low, size = self.log_range
        return low + size * self.log_std.sigmoid()

    @override
    def forward(self, x: Float[Tensor, "*B D"], mask: Tensor | None = None) -> Gaussian | Squashed:
        return self.distribution(self.mean(x), mask)

    @property
    def linear(self) -> nn.Linear:
        """The map of the features to the means."""
        return self.mean

    def distribution(self, mean: Float[Tensor, "*B A"], mask: Tensor | None) -> Gaussian | Squashed:
        """The distribution over actions, given what ``linear`` made of the features."""
        assert mask is None, "make_head refuses masks of Box actions"
        return self.kind(mean, self._log_std().expand_as(mean))

    def features(self, action: Float[Tensor, "*B A"]) -> Float[Tensor, "*B A"]:
        """The action as the encoder sees it in the next step."""
        return action.tanh() if self.squashed else action.clamp(-3.0, 3.0)

    def to_environment(self, action: Float[Tensor, "N A"]) -> NDArray[Any]:
        """The action in the form that the environment expects."""
        return self.box.to_environment(action.tanh() if self.squashed else action)

    def environment_action(self, action: Float[Tensor, "N A"]) -> Tensor:
        """The same as tensors, for an exported policy, and for environments on a device."""
        return self.box.environment_action(action.tanh() if self.squashed else action)


class BetaHead(nn.Module):
    """Actions of a bounded Box by beta distributions."""

    kind = Beta

    def __init__(self, space: spaces.Box, input_size: int) -> None:
        super().__init__()
        self.box = BoxUnits(space)
        self.action_size = self.feature_size = int(np.prod(space.shape))
        self.linear = _small_linear(input_size, 2 * self.action_size)

    @override
    def forward(self, x: Float[Tensor, "*B D"], mask: Tensor | None = None) -> Beta:
        return self.distribution(self.linear(x), mask)

    def distribution(self, excess: Float[Tensor, "*B F"], mask: Tensor | None) -> Beta:
        """The distribution over actions, given what ``linear`` made of the features."""
        assert mask is None, "make_head refuses masks of Box actions"
        alpha, beta = (1.0 + F.softplus(excess)).chunk(2, dim=-1)
        return Beta(alpha, beta)

    def features(self, action: Float[Tensor, "*B A"]) -> Float[Tensor, "*B A"]:
        """The action as the encoder sees it in the next step."""
        return action

    def to_environment(self, action: Float[Tensor, "N A"]) -> NDArray[Any]:
        """The action in the form that the environment expects."""
        return self.box.to_environment(action)

    def environment_action(self, action: Float[Tensor, "N A"]) -> Tensor:
        """The same as tensors, for an exported policy, and for environments on a device."""
        return self.box.environment_action(action)


ActionHead = CategoricalHead | GaussianHead | BetaHead


def make_head(
    space: spaces.Space[Any],
    input_size: int,
    mask: spaces.Space[Any] | None = None,
    config: ActionConfig | None = None,
) -> ActionHead:
    """The head that maps ``input_size`` features to actions, with the space of their mask if any.

    Raises:
        ConfigError: If no head serves the space, or the mask does not fit the actions.
    """
    match space:
        case spaces.Discrete() | spaces.MultiDiscrete() | spaces.MultiBinary():
            if config not in (None, ActionConfig()):
                raise ConfigError(
                    f"action: the actions are in {one_line(space)}, and it is for a Box of real "
                    "numbers; leave it out"
                )
            head = CategoricalHead(space, input_size)
            choices = head.feature_size
        case spaces.Box() if np.issubdtype(space.dtype, np.floating):
            head, choices = _box_head(space, input_size, config or ActionConfig()), 0
        case _:
            raise ConfigError(
                f"env: no action head serves the action space {one_line(space)}; it should be "
                "Discrete, MultiDiscrete, MultiBinary or a Box of real numbers"
            )
    if mask is not None and int(np.prod(mask.shape or 0)) != choices:
        raise ConfigError(
            f"env: {ACTION_MASK} is in {one_line(mask)}; actions in {one_line(space)} need "
            + (f"one number for each of their {choices} choices" if choices else "no mask")
        )
    return head


def _box_head(space: spaces.Box, input_size: int, config: ActionConfig) -> GaussianHead | BetaHead:
    beta = config.distribution == "beta"
    head = BetaHead(space, input_size) if beta else GaussianHead(space, input_size, config)
    if config.distribution != "gaussian" and not head.box.all_bounded:
        raise ConfigError(
            f"action.distribution is {config.distribution!r}, which needs finite bounds, and the "
            f"actions are in {one_line(space)}; it should be 'gaussian'"
        )
    return head


def _factors(space: spaces.Space[Any]) -> list[int]:
    match space:
        case spaces.Discrete():
            return [int(space.n)]
        case spaces.MultiDiscrete():
            return [int(size) for size in space.nvec.flat]
        case spaces.MultiBinary():
            return [2] * int(np.prod(space.shape))
        case _:
            raise AssertionError(f"{space} has no factors")


def _small_linear(input_size: int, output_size: int) -> nn.Linear:
    """A layer with small weights: the first policy is nearly uniform, and explores."""
    linear = nn.Linear(input_size, output_size)
    nn.init.orthogonal_(linear.weight, 0.01)
    nn.init.zeros_(linear.bias)
    return linear
