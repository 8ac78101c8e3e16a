"""Advantage estimates for rollouts whose rows may hold several episodes."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def gae(
    reward: Float[Tensor, "N T"],
    value: Float[Tensor, "N T"],
    next_value: Float[Tensor, "N T"],
    last: Bool[Tensor, "N T"],
    discount: float,
    gae_lambda: float,
) -> Float[Tensor, "N T"]:
    """Generalised advantage estimates (Schulman et al. 2016), in units of reward.

    Args:
        reward: The reward of the action taken at ``t``.
        value: The critic's estimate before that action.
        next_value: The estimate after it: 0 where the episode terminated; where it was truncated,
            the bootstrap value of the final observation, not of the next episode's first one.
        last: ``terminated | truncated``. Later errors belong to another episode either way.
        discount: Per step, in [0, 1].
        gae_lambda: In [0, 1]; 0 trusts the critic, 1 trusts the rewards seen.
    """
    error = reward + discount * next_value - value
    keep = discount * gae_lambda * (~last).to(error.dtype)
    later = torch.zeros_like(reward[:, 0])
    advantage: list[Tensor] = []
    for error_t, keep_t in zip(reversed(error.unbind(1)), reversed(keep.unbind(1)), strict=True):
        later = torch.addcmul(error_t, keep_t, later)
        advantage.append(later)
    return torch.stack(advantage[::-1], dim=1)


def discounted_sums(
    reward: Float[Tensor, "N T"],
    last: Bool[Tensor, "N T"],
    before: Float[Tensor, " N"],
    discount: float,
) -> Float[Tensor, "N T"]:
    """The discounted sum of an episode's rewards up to and with each step, for normalisers.

    Args:
        reward: The reward of the action taken at ``t``.
        last: Where the action ended an episode; the sum begins anew after it.
        before: The sum before the first step, of episodes that go on.
        discount: Per step, in [0, 1].
    """
    keep = discount * (~last).to(reward.dtype)
    total = reward[:, 0] + discount * before
    sums = [total]
    for reward_t, keep_t in zip(reward.unbind(1)[1:], keep.unbind(1), strict=False):
        total = torch.addcmul(reward_t, keep_t, total)
        sums.append(total)
    return torch.stack(sums, dim=1)
