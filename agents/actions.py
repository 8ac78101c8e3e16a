"""Action heads: from features to a distribution over the actions of any action space.

Inside the agent an action is a row of numbers: one choice for each factor of a discrete space, or
real numbers in units of half the range of a bounded Box.
"""

import math
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from agents.spaces import ACTION_MASK, one_line
from fwrl.config import ConfigError

# The logit of an impossible action. Its probability underflows to zero, and zero times it is zero;
# zero times infinity would be NaN.
IMPOSSIBLE = -1e9


# The largest range of a Box by which any number of 32 bits can be multiplied.
FARTHEST = 1e269


class DivergedError(RuntimeError):
    """A policy whose output is not finite. The message is one line."""


class Categorical(NamedTuple):
    """Independent choices, one per factor; shorter factors are padded with impossible choices."""

    log_probs: Float[Tensor, "*B A n"]

    def sample(self) -> Int[Tensor, "*B A"]:
        """A random action, by the Gumbel-max trick."""
        noise = torch.empty_like(self.log_probs).exponential_().clamp_min_(1e-30)
        return (self.log_probs - noise.log()).argmax(-1)

    def mode(self) -> Int[Tensor, "*B A"]:
        """The most probable action."""
        return self.log_probs.argmax(-1)

    def log_prob(self, action: Int[Tensor, "*B A"]) -> Float[Tensor, "*B"]:
        """The logarithm of the action's probability."""
        return self.log_probs.gather(-1, action.unsqueeze(-1)).squeeze(-1).sum(-1)

    def entropy(self) -> Float[Tensor, "*B"]:
        """The entropy in nats, summed over the factors."""
        return -(self.log_probs.exp() * self.log_probs).sum((-1, -2))


class Gaussian(NamedTuple):
    """A normal distribution with independent components."""

    mean: Float[Tensor, "*B A"]
    log_std: Float[Tensor, "*B A"]

    def sample(self) -> Float[Tensor, "*B A"]:
        """A random action; no gradient runs through the choice."""
        return (self.mean + self.log_std.exp() * torch.randn_like(self.mean)).detach()

    def mode(self) -> Float[Tensor, "*B A"]:
        """The most probable action."""
        return self.mean

    def log_prob(self, action: Float[Tensor, "*B A"]) -> Float[Tensor, "*B"]:
        """The logarithm of the action's probability density."""
        distance = ((action - self.mean) * (-self.log_std).exp()).square()
        return -0.5 * (distance + 2.0 * self.log_std + math.log(2.0 * math.pi)).sum(-1)

    def entropy(self) -> Float[Tensor, "*B"]:
        """The entropy in nats, summed over the components."""
        return (self.log_std + 0.5 * math.log(2.0 * math.pi * math.e)).sum(-1)


Distribution = Categorical | Gaussian


class CategoricalHead(nn.Module):
    """Discrete, MultiDiscrete and MultiBinary actions, with an optional mask."""

    def __init__(self, space: spaces.Space[Any], input_size: int) -> None:
        super().__init__()
        self.space = space
        self.sizes = _factors(space)
        self.action_size = len(self.sizes)
        self.feature_size = sum(self.sizes)
        self.linear = _small_linear(input_size, self.feature_size)
        width = max(self.sizes)
        possible = torch.arange(width) < torch.tensor(self.sizes).unsqueeze(-1)
        self.register_buffer("possible", possible, persistent=False)
        offsets = torch.tensor([0, *self.sizes[:-1]]).cumsum(0)
        self.register_buffer("offsets", offsets, persistent=False)

    @override
    def forward(self, x: Float[Tensor, "*B D"], mask: Tensor | None = None) -> Categorical:
        logits: Tensor = self.linear(x)
        if mask is not None:
            logits = logits.masked_fill(mask.reshape(logits.shape) == 0, IMPOSSIBLE)
        return Categorical(F.log_softmax(self._by_factor(logits), dim=-1))

    def _by_factor(self, logits: Tensor) -> Tensor:
        if len(set(self.sizes)) == 1:
            return logits.unflatten(-1, (self.action_size, self.sizes[0]))
        possible = cast(Tensor, self.possible).expand(*logits.shape[:-1], -1, -1)
        # less probable than masked choices: if a mask allows nothing, padding must not be chosen
        padded = logits.new_full(possible.shape, 2 * IMPOSSIBLE)
        return padded.masked_scatter(possible, logits)

    def features(self, action: Int[Tensor, "*B A"]) -> Float[Tensor, "*B F"]:
        """The action as the encoder sees it in the next step."""
        one_hot = torch.zeros(*action.shape[:-1], self.feature_size, device=action.device)
        return one_hot.scatter_(-1, action + cast(Tensor, self.offsets), 1.0)

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
        """The same as tensors, for an exported policy."""
        shape = cast(tuple[int, ...], self.space.shape)
        numbers = action.reshape(-1, *shape)
        if isinstance(self.space, spaces.MultiBinary):
            return numbers.to(torch.int8)
        return numbers + torch.as_tensor(np.asarray(cast(Any, self.space).start, np.int64))


class GaussianHead(nn.Module):
    """Box actions: where both bounds are finite, -1 is the lower one and 1 the upper one."""

    def __init__(self, space: spaces.Box, input_size: int) -> None:
        super().__init__()
        self.space = space
        self.action_size = self.feature_size = int(np.prod(space.shape))
        self.mean = _small_linear(input_size, self.action_size)
        self.log_std = nn.Parameter(torch.zeros(self.action_size))
        low, high = (bound.reshape(-1).astype(np.float64) for bound in (space.low, space.high))
        bounded = np.isfinite(low) & np.isfinite(high)
        lower, upper = np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)
        # halves first: the difference of the farthest bounds is infinite
        half_range = (upper / 2 - lower / 2).clip(max=FARTHEST)
        # zero times infinity would be NaN
        self.half_range = np.where(half_range == 0, 1.0, half_range)
        self.middle = upper / 2 + lower / 2
        farthest = float(np.finfo(cast(Any, space.dtype)).max)
        self.low, self.high = np.maximum(low, -farthest), np.minimum(high, farthest)

    @property
    def std(self) -> float:
        """The mean standard deviation of the components, in units of half the range."""
        return self.log_std.detach().exp().mean().item()

    @override
    def forward(self, x: Float[Tensor, "*B D"], mask: Tensor | None = None) -> Gaussian:
        assert mask is None, "make_head refuses masks of Box actions"
        mean: Tensor = self.mean(x)
        return Gaussian(mean, self.log_std.expand_as(mean))

    def features(self, action: Float[Tensor, "*B A"]) -> Float[Tensor, "*B A"]:
        """The action as the encoder sees it in the next step."""
        return action.clamp(-3.0, 3.0)

    def to_environment(self, action: Float[Tensor, "N A"]) -> NDArray[Any]:
        """The action in the environment's units, clipped to its bounds; finite unless NaN."""
        numbers = action.detach().cpu().double().numpy() * self.half_range + self.middle
        numbers = np.clip(numbers, self.low, self.high).reshape(-1, *self.space.shape)
        return numbers.astype(self.space.dtype)

    def environment_action(self, action: Float[Tensor, "N A"]) -> Tensor:
        """The same as tensors, for an exported policy, which raises nothing: the lowest for NaN."""
        half_range, middle = torch.as_tensor(self.half_range), torch.as_tensor(self.middle)
        low, high = torch.as_tensor(self.low), torch.as_tensor(self.high)
        numbers = action.double() * half_range + middle
        numbers = torch.where(numbers.isnan(), low, numbers).clamp(low, high)
        dtype = torch.as_tensor(np.zeros(0, self.space.dtype)).dtype
        return numbers.reshape(-1, *self.space.shape).to(dtype)


ActionHead = CategoricalHead | GaussianHead


def make_head(
    space: spaces.Space[Any], input_size: int, mask: spaces.Space[Any] | None = None
) -> ActionHead:
    """The head that maps ``input_size`` features to actions, with the space of their mask if any.

    Raises:
        ConfigError: If no head serves the space, or the mask does not fit the actions.
    """
    match space:
        case spaces.Discrete() | spaces.MultiDiscrete() | spaces.MultiBinary():
            head = CategoricalHead(space, input_size)
            choices = head.feature_size
        case spaces.Box() if np.issubdtype(space.dtype, np.floating):
            head, choices = GaussianHead(space, input_size), 0
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
