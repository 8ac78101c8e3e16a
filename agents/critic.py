"""Critics: how the numbers of the value head become values, and how they are learned."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from gymnasium import spaces
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from agents.normalisers import RunningMoments
from agents.spaces import ACTION_MASK, MOST_PARTS, one_line, without_keys
from fwrl.config import Config, ConfigError, nearest

# Classes of a value, and the largest one, squashed; both as published.
CLASSES, LARGEST_CLASS = 255, 20.0


class CriticConfig(Config):
    """The critic, which estimates the return to come."""

    former: ClassVar[Mapping[str, Any]] = {"head": "linear"}

    head: Literal["linear", "popart", "two_hot"] = "popart"
    """``linear``: a number in units of reward. ``popart``: a number in units of the running
    deviation of returns, from their running mean (van Hasselt et al. 2016). ``two_hot``:
    probabilities of classes of the value, squashed by ``symlog`` (Hafner et al. 2023)."""

    memory: Literal["shared", "own", "none"] = "shared"
    """``shared``: values are read from what the actor remembers. ``own``: from an encoder, layers
    and a memory of the critic's own, of the same configuration. ``none``: the same without a
    memory, for a critic that is shown the whole state."""
    observation: tuple[str, ...] = Field(default=(), max_length=MOST_PARTS)
    """Keys of a Dict observation that the critic reads beside all others and the actor does not see
    (asymmetric actor-critic, Pinto et al. 2018). The critic then needs a ``memory`` of its own, or
    ``none``; a policy that is exported needs these keys no more."""

    @model_validator(mode="after")
    def _what_is_shared_hides_nothing(self) -> "CriticConfig":
        if self.observation and self.memory == "shared":
            raise ValueError(
                f"observation is {list(self.observation)}, which a shared memory would show to the "
                "actor; memory should be own or none"
            )
        return self


def actor_space(space: spaces.Space[Any], config: CriticConfig) -> spaces.Space[Any]:
    """The part of an observation space that the actor sees.

    Raises:
        ConfigError: If the critic's own keys are not keys of the space, or the actor needs one.
    """
    if not config.observation:
        return space
    said = f"critic.observation is {list(config.observation)}"
    if not isinstance(space, spaces.Dict):
        raise ConfigError(
            f"{said}; it should be empty: observations are {one_line(space)}, no Dict"
        )
    keys = [key for key in space if key != ACTION_MASK]
    for key in config.observation:
        if key == ACTION_MASK:
            raise ConfigError(f"{said}; the actor needs {key!r}, leave it out")
        if key not in keys:
            raise ConfigError(f"{said}; observations have no {key!r}, {nearest(key, keys)}")
    if set(keys) <= set(config.observation):
        raise ConfigError(f"{said}; it should leave a key to the actor")
    return without_keys(space, config.observation)


class LinearCritic:
    """Values are the numbers of the head, and the loss is their squared error."""

    size = 1

    def values(self, raw: Float[Tensor, "*B 1"]) -> Float[Tensor, "*B"]:
        """The values, in units of reward."""
        return raw.squeeze(-1)

    def loss(
        self,
        raw: Float[Tensor, "*B 1"],
        before: Float[Tensor, "*B"],
        target: Float[Tensor, "*B"],
        clip: float | None,
    ) -> Float[Tensor, ""]:
        """The mean loss.

        Args:
            raw: The numbers of the head.
            before: The values when the policy acted.
            target: The estimated returns.
            clip: Distance of a value from the one before at which its gradient stops.
        """
        return squared_error(raw.squeeze(-1), before, target, clip)

    def unit(self) -> float:
        """The size of what the head says, in units of reward."""
        return 1.0

    def include(self, target: Float[Tensor, "N T"], head: nn.Linear) -> None:
        """Nothing: there are no statistics."""


class PopArtCritic(nn.Module):
    """Values as distances from the mean return, in units of its standard deviation.

    When the statistics move, the head is corrected so that every value stays what it was (van
    Hasselt et al. 2016). Before the first update all values are 0: no reward has been seen.
    """

    size = 1
    mean: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.moments = RunningMoments(1)
        self.register_buffer("mean", torch.zeros(1))
        self.register_buffer("scale", torch.zeros(1))

    def values(self, raw: Float[Tensor, "*B 1"]) -> Float[Tensor, "*B"]:
        """The values, in units of reward."""
        return torch.addcmul(self.mean, raw, self.scale).squeeze(-1)

    def loss(
        self,
        raw: Float[Tensor, "*B 1"],
        before: Float[Tensor, "*B"],
        target: Float[Tensor, "*B"],
        clip: float | None,
    ) -> Float[Tensor, ""]:
        """As that of `LinearCritic`, in units of the deviation; so is ``clip``."""
        unit = self.unit()
        before, target = (before - self.mean) / unit, (target - self.mean) / unit
        return squared_error(raw.squeeze(-1), before, target, clip)

    def unit(self) -> Float[Tensor, "1"]:
        """The deviation, in units of reward; 1 while all returns have been the same."""
        return torch.where(self.scale > 0, self.scale, 1.0)

    @torch.no_grad()
    def include(self, target: Float[Tensor, "N T"], head: nn.Linear) -> None:
        """Include the estimated returns of a rollout, and correct the head."""
        old_mean, old_scale, old_unit = self.mean.clone(), self.scale.clone(), self.unit()
        self.moments.update(target.unsqueeze(-1))
        self.mean.copy_(self.moments.mean)
        self.scale.copy_(self.moments.variance.sqrt())
        # a head whose numbers did not count yet has nothing to keep
        keep, unit = old_scale > 0, self.unit()
        head.weight.mul_(torch.where(keep, old_unit / unit, 1.0))
        shifted = (head.bias * old_unit + old_mean - self.mean) / unit
        head.bias.copy_(torch.where(keep, shifted, head.bias))


class TwoHotCritic:
    """Values as means over classes, whose probabilities the head says (Hafner et al. 2023).

    The classes are equally spaced in ``symlog``, the logarithm of the size plus 1 with its sign. A
    target belongs to the two classes next to it, in proportion to its nearness.
    """

    size = CLASSES

    def values(self, raw: Float[Tensor, "*B K"]) -> Float[Tensor, "*B"]:
        """The values, in units of reward."""
        squashed = raw.softmax(-1) @ self._classes(raw)
        return squashed.sign() * torch.expm1(squashed.abs())

    def loss(
        self,
        raw: Float[Tensor, "*B K"],
        before: Float[Tensor, "*B"],  # noqa: ARG002
        target: Float[Tensor, "*B"],
        clip: float | None,  # noqa: ARG002
    ) -> Float[Tensor, ""]:
        """The mean cross entropy; there is no ``clip``."""
        squashed = target.sign() * torch.log1p(target.abs())
        place = (squashed / LARGEST_CLASS).clamp(-1, 1).add(1) * ((CLASSES - 1) / 2)
        below = place.floor().clamp(max=CLASSES - 2)
        log_probs, share = F.log_softmax(raw, -1), place - below
        index = torch.stack([below, below + 1], -1).long()
        chosen = log_probs.gather(-1, index)
        return -(chosen[..., 0] * (1 - share) + chosen[..., 1] * share).mean()

    def unit(self) -> float:
        """1: rewards are not scaled."""
        return 1.0

    def include(self, target: Float[Tensor, "N T"], head: nn.Linear) -> None:
        """Nothing: there are no statistics."""

    @staticmethod
    def _classes(raw: Tensor) -> Float[Tensor, " K"]:
        return torch.linspace(-LARGEST_CLASS, LARGEST_CLASS, CLASSES, device=raw.device)


Critic = LinearCritic | PopArtCritic | TwoHotCritic

CRITICS: Mapping[str, type[Critic]] = {
    "linear": LinearCritic,
    "popart": PopArtCritic,
    "two_hot": TwoHotCritic,
}


def squared_error(
    value: Float[Tensor, "*B"],
    before: Float[Tensor, "*B"],
    target: Float[Tensor, "*B"],
    clip: float | None,
) -> Float[Tensor, ""]:
    """The mean squared error, whose gradient stops where a value has moved by more than a clip."""
    error = (value - target).square()
    if clip is not None:
        moved = (value - before).clamp(-clip, clip)
        error = torch.max(error, (before + moved - target).square())
    return error.mean()
