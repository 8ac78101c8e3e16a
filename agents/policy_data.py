"""The data of a policy: its inputs, its outputs, and all that it remembers."""

from typing import Any, NamedTuple

from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from agents.distributions import Distribution


class PolicyInput(NamedTuple):
    """The policy's input at one time step (leading axes ``[N]``) or at T of them (``[N, T]``)."""

    observation: Any
    previous_action: Shaped[Tensor, "*B A"]
    previous_reward: Float[Tensor, "*B"]
    elapsed: Int[Tensor, "*B"]
    """Steps since the episode began. 0 opens it; previous action and reward are then ignored."""

    @property
    def starts(self) -> Bool[Tensor, "*B"]:
        """Which observations open an episode."""
        return self.elapsed == 0


class PolicyOutput(NamedTuple):
    """A distribution over actions, and the critic's estimate of the return to come."""

    action: Distribution
    value: Float[Tensor, "*B"]
    """NaN where the policy has no critic."""
    raw_value: Float[Tensor, "*B K"]
    """The numbers of the critic's head, of which the value is made."""


class PolicyMemory(NamedTuple):
    """All that a policy remembers of its streams."""

    layers: tuple[Any, ...]
    """The state of each layer of the stack."""
    frames: Any = None
    """The observations before the present one that are seen with it, ``[N, frames, ...]``; None
    without a frame stack."""
    critic: "PolicyMemory | None" = None
    """The memory of a critic apart from the actor; None where they share all."""
