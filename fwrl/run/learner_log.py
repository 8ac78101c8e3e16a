"""Measures of the learner that explain a run: what rules the trunk, and what a rollout tells."""

from collections.abc import Sequence

import torch
from torch import Tensor

from agents.policy import RecurrentPolicy
from agents.ppo import PPOConfig, losses, normalised
from agents.rollout import Rollout
from fwrl.state import take_rows, tensors_in

# Rows of a rollout that are measured, which is enough for a mean.
ROWS = 4


def learner_metrics(
    policy: RecurrentPolicy, rollout: Rollout, config: PPOConfig
) -> dict[str, float]:
    """Measures over a rollout, or its first rows, read again with the present parameters."""
    batch = take_rows(rollout, slice(0, ROWS))
    # where an episode opens, the reward that closed the one before
    sizes = rollout.inputs.previous_reward.abs()
    large = (sizes > 0) & (sizes >= sizes.max() / 2)
    found: dict[str, float] = {}
    # the losses meet only in a trunk that both heads read
    if policy.config.critic.memory == "shared":
        found["train/value_gradient_ratio"] = _gradient_ratio(policy, batch, config)
    return found | {
        "rollout/large_reward_share": large.float().mean().item(),
        "rollout/observation_share": _changing(batch, policy.config.critic.observation),
    }


def _gradient_ratio(policy: RecurrentPolicy, batch: Rollout, config: PPOConfig) -> float:
    """The length of the value loss's gradient at the trunk, divided by the policy loss's."""
    with torch.no_grad():
        trunk, _ = policy.trunk(batch.inputs, batch.memory)
    trunk = trunk.detach().requires_grad_()
    with torch.enable_grad():
        output, advantage = policy.heads(trunk, batch.inputs), batch.advantage
        output = policy.after(output, batch.noise)
        advantage = advantage / policy.critic.unit()
        if config.normalise_advantage and advantage.numel() > 1:
            moments = advantage.mean(), advantage.std()
            advantage = normalised(advantage, *moments, policy.critic, config)
        found = losses(policy.critic, output, batch, advantage, config, config.clip)
        both = config.value_weight * found.value, found.policy
        lengths = [torch.autograd.grad(loss, trunk)[0].norm() for loss in both]
    return (lengths[0] / lengths[1]).item()


def _changing(batch: Rollout, hidden: Sequence[str]) -> float:
    """The share of the numbers in an observation that ever change, but for keys that are hidden."""
    observation = batch.inputs.observation
    if hidden:
        observation = {key: part for key, part in observation.items() if key not in hidden}
    leaves = [_numbers(leaf) for leaf in tensors_in(observation)]
    changing = torch.cat([(leaf != leaf[:1]).any(0) for leaf in leaves])
    return changing.float().mean().item()


def _numbers(leaf: Tensor) -> Tensor:
    """A row for each time step of each stream."""
    return leaf.flatten(0, 1).reshape(leaf.shape[0] * leaf.shape[1], -1)
