"""Distributions over actions, which are rows of numbers: choices, or parts of a range.

Of a bounded Box -1 is the lower bound and 1 the upper one.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from fwrl.kernels import steps_natively
from fwrl.kernels.native.choices import draw

# Where a function is computed to average it over a normal distribution, and the weights.
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(32)
# The least distance of a number drawn from a beta distribution from 0 and 1.
LEAST_SHARE = 1e-6


class Categorical(NamedTuple):
    """Independent choices, one per factor; shorter factors are padded with impossible choices."""

    log_probs: Float[Tensor, "*B A n"]

    def sample(self) -> Int[Tensor, "*B A"]:
        """A random action, by the Gumbel-max trick."""
        return self.draw()[0]

    def draw(self) -> tuple[Int[Tensor, "*B A"], Float[Tensor, "*B"]]:
        """A random action, and the logarithm of its probability."""
        noise = torch.empty_like(self.log_probs).exponential_()
        if self.log_probs.dim() == 3 and steps_natively(self.log_probs):
            return draw(self.log_probs, noise)
        action = (self.log_probs - noise.clamp_min_(1e-30).log()).argmax(-1)
        return action, self.log_prob(action)

    def mode(self) -> Int[Tensor, "*B A"]:
        """The most probable action."""
        return self.log_probs.argmax(-1)

    def log_prob(self, action: Int[Tensor, "*B A"]) -> Float[Tensor, "*B"]:
        """The logarithm of the action's probability."""
        return self.log_probs.gather(-1, action.unsqueeze(-1)).sum((-1, -2))

    def entropy(self) -> Float[Tensor, "*B"]:
        """The entropy in nats, summed over the factors."""
        return -(self.log_probs.exp() * self.log_probs).sum((-1, -2))


def _draw(self: Any) -> tuple[Float[Tensor, "*B A"], Float[Tensor, "*B"]]:
    """A random action, and the logarithm of its probability density."""
    action = self.sample()
    return action, self.log_prob(action)


class Gaussian(NamedTuple):
    """A normal distribution with independent components."""

    mean: Float[Tensor, "*B A"]
    log_std: Float[Tensor, "*B A"]

    def sample(self) -> Float[Tensor, "*B A"]:
        """A random action; no gradient runs through the choice."""
        return (self.mean + self.log_std.exp() * torch.randn_like(self.mean)).detach()

    draw = _draw

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

    def moments(self) -> tuple[Float[Tensor, "*B A"], Float[Tensor, "*B A"]]:
        """The mean and the standard deviation."""
        return self.mean, self.log_std.exp()

    def noise(self, action: Float[Tensor, "*B A"]) -> Float[Tensor, "*B A"]:
        """The distance of an action from the mean, in standard deviations."""
        return ((action - self.mean) * (-self.log_std).exp()).detach()

    def after(self, noise: Float[Tensor, "*B A"], correlation: float) -> "Gaussian":
        """The distribution of an action, given the noise of the one before it.

        Averaged over standard normal noise it is this distribution (Korenkevych et al. 2019).
        """
        mean = self.mean + correlation * self.log_std.exp() * noise
        return Gaussian(mean, self.log_std + 0.5 * math.log(1.0 - correlation**2))


class Squashed(NamedTuple):
    """The hyperbolic tangent of a normal distribution with independent components.

    Its actions are the numbers before that function, so that no probability needs its inverse.
    """

    mean: Float[Tensor, "*B A"]
    log_std: Float[Tensor, "*B A"]

    def sample(self) -> Float[Tensor, "*B A"]:
        """A random action; no gradient runs through the choice."""
        return self._normal().sample()

    draw = _draw

    def mode(self) -> Float[Tensor, "*B A"]:
        """The median: the most probable action may be a bound."""
        return self.mean

    def log_prob(self, action: Float[Tensor, "*B A"]) -> Float[Tensor, "*B"]:
        """The logarithm of the probability density of the tangent of the action."""
        return self._normal().log_prob(action) - _log_slope(action).sum(-1)

    def entropy(self) -> Float[Tensor, "*B"]:
        """The entropy in nats, summed over the components; averages by 32 points."""
        return self._normal().entropy() + self._average(_log_slope(self._points())).sum(-1)

    def moments(self) -> tuple[Float[Tensor, "*B A"], Float[Tensor, "*B A"]]:
        """The mean and the standard deviation of the tangents."""
        tangents = self._points().tanh()
        mean = self._average(tangents)
        return mean, self._average((tangents - mean.unsqueeze(-1)).square()).sqrt()

    def noise(self, action: Float[Tensor, "*B A"]) -> Float[Tensor, "*B A"]:
        """The distance of an action from the mean before squashing, in standard deviations."""
        return self._normal().noise(action)

    def after(self, noise: Float[Tensor, "*B A"], correlation: float) -> "Squashed":
        """The distribution of an action, given the noise of the one before it."""
        return Squashed(*self._normal().after(noise, correlation))

    def _normal(self) -> Gaussian:
        return Gaussian(self.mean, self.log_std)

    def _points(self) -> Float[Tensor, "*B A n"]:
        nodes = torch.as_tensor(NODES, dtype=self.mean.dtype, device=self.mean.device)
        return self.mean.unsqueeze(-1) + self.log_std.exp().unsqueeze(-1) * nodes

    def _average(self, values: Float[Tensor, "*B A n"]) -> Float[Tensor, "*B A"]:
        weights = torch.as_tensor(WEIGHTS / WEIGHTS.sum(), dtype=values.dtype, device=values.device)
        return values @ weights


def _log_slope(x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """The logarithm of the slope of the hyperbolic tangent, without rounding to zero."""
    return 2.0 * (math.log(2.0) - x - F.softplus(-2.0 * x))


class Beta(NamedTuple):
    """A beta distribution over the range of each component, with one hill (Chou et al. 2017)."""

    alpha: Float[Tensor, "*B A"]
    beta: Float[Tensor, "*B A"]

    def sample(self) -> Float[Tensor, "*B A"]:
        """A random action; no gradient runs through the choice."""
        share = self._shares().sample().clamp(LEAST_SHARE, 1.0 - LEAST_SHARE)
        return 2.0 * share - 1.0

    draw = _draw

    def mode(self) -> Float[Tensor, "*B A"]:
        """The most probable action."""
        above, below = self.alpha - 1.0 + LEAST_SHARE, self.beta - 1.0 + LEAST_SHARE
        return (above - below) / (above + below)

    def log_prob(self, action: Float[Tensor, "*B A"]) -> Float[Tensor, "*B"]:
        """The logarithm of the action's probability density."""
        return (self._shares().log_prob((action + 1.0) / 2.0) - math.log(2.0)).sum(-1)

    def entropy(self) -> Float[Tensor, "*B"]:
        """The entropy in nats, summed over the components."""
        return (self._shares().entropy() + math.log(2.0)).sum(-1)

    def moments(self) -> tuple[Float[Tensor, "*B A"], Float[Tensor, "*B A"]]:
        """The mean and the standard deviation."""
        shares = self._shares()
        return 2.0 * shares.mean - 1.0, 2.0 * shares.stddev

    def _shares(self) -> torch.distributions.Beta:
        return torch.distributions.Beta(self.alpha, self.beta, validate_args=False)


Distribution = Categorical | Gaussian | Squashed | Beta
