"""Proximal policy optimisation (Schulman et al. 2017) on whole streams.

A minibatch replays each of its streams from the memory state it began with, so the gradient runs
through everything that the memory did since; nothing is padded and no time step is shuffled.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal, NamedTuple, cast

import torch
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.optim import Optimizer

from agents.distributed import (
    average,
    average_gradients,
    copy_from_first,
    num_processes,
    start_mean_and_std,
)
from agents.policy import RecurrentPolicy
from agents.rollout import Rollout, explained_variance
from fwrl.config import Config
from fwrl.feature_maps.random import redraw_when_due


class PPOConfig(Config):
    """The algorithm's numbers. The defaults suit vector observations; Atari has its own file."""

    synonyms: ClassVar[Mapping[str, str]] = {
        "n_steps": "num_steps",
        "rollout": "num_steps",
        "n_epochs": "epochs",
        "update_epochs": "epochs",
        "num_minibatches": "minibatches",
        "lr": "learning_rate",
        "gamma": "discount",
        "clip_range": "clip",
        "clip_coef": "clip",
        "clip_range_vf": "value_clip",
        "ent_coef": "entropy_weight",
        "entropy_coef": "entropy_weight",
        "vf_coef": "value_weight",
        "value_coef": "value_weight",
        "normalize_advantage": "normalise_advantage",
        "bptt_horizon": "sequence_length",
        "seq_len": "sequence_length",
        "anneal_lr": "learning_rate_schedule",
    }

    num_steps: int = Field(default=128, ge=1)
    """Steps in each environment between two updates."""
    sequence_length: int | None = Field(default=None, ge=1)
    """Steps through which gradients flow; a divisor of num_steps. None: all of them."""
    epochs: int = Field(default=4, ge=1)
    """Passes over a rollout."""
    minibatches: int = Field(default=4, ge=1)
    """Updates per pass, each on whole rows of a rollout: at most ``env.num_envs`` of them, or that
    times the pieces that ``sequence_length`` makes."""
    learning_rate: float = Field(default=3e-4, gt=0)
    """Step size of Adam at the start of the run."""
    learning_rate_schedule: Literal["constant", "linear"] = "constant"
    """``linear`` falls to zero at the end of the run."""
    adam_epsilon: float = Field(default=1e-5, gt=0)
    """Added to the root of the mean squared gradient before it divides a step."""
    discount: float = Field(default=0.99, ge=0, le=1)
    """Factor on a reward for each step that it lies ahead; 0 counts the next reward only."""
    gae_lambda: float = Field(default=0.95, ge=0, le=1)
    """Of generalised advantage estimation: 0 trusts the values, 1 the returns."""
    clip: float = Field(default=0.2, gt=0)
    """How far a probability ratio may move from 1 before its gradient stops."""
    clip_schedule: Literal["constant", "linear"] = "constant"
    """Of ``clip``; ``linear`` falls to zero at the end of the run."""
    value_clip: float | None = Field(default=None, gt=0)
    """How far a value may move from the old one before its gradient stops; None: any distance."""
    value_weight: float = Field(default=0.5, ge=0)
    """Factor of the value loss in the loss."""
    entropy_weight: float = Field(default=0.01, ge=0)
    """Factor of the entropy, in nats, which the loss rewards."""
    normalise_advantage: bool = True
    """To mean 0 and standard deviation 1 in each minibatch, of all processes together."""
    max_grad_norm: float | None = Field(default=0.5, gt=0)
    """Longer gradients are shortened to it; None: never."""
    target_kl: float | None = Field(default=None, gt=0)
    """Stop a rollout's updates when approx_kl passes 1.5 times this; None: never."""

    @model_validator(mode="after")
    def _pieces_are_equal(self) -> "PPOConfig":
        if self.sequence_length is not None and self.num_steps % self.sequence_length:
            raise ValueError(
                f"sequence_length is {self.sequence_length}; it should divide num_steps "
                f"({self.num_steps})"
            )
        return self


class Schedule(NamedTuple):
    """The numbers of a configuration that change with the progress of a run."""

    learning_rate: float
    clip: float


def schedule(config: PPOConfig, remaining: float) -> Schedule:
    """The values when ``remaining`` of the run (1 at its start, 0 at its end) is still to come."""
    linear = max(remaining, 0.0)
    return Schedule(
        config.learning_rate * (linear if config.learning_rate_schedule == "linear" else 1.0),
        config.clip * (linear if config.clip_schedule == "linear" else 1.0),
    )


def ppo_loss(
    policy: RecurrentPolicy, batch: Rollout, config: PPOConfig, clip: float
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
    """The clipped surrogate loss, and what to log of it."""
    advantage = batch.advantage
    varies = advantage.numel() * num_processes() > 1
    # those of the other processes arrive while the policy reads
    moments = start_mean_and_std(advantage) if config.normalise_advantage and varies else None
    output, _ = policy.unroll(batch.inputs, batch.memory)
    log_ratio = output.action.log_prob(batch.action) - batch.log_prob
    ratio = log_ratio.exp()
    if moments is not None:
        mean, std = moments()
        advantage = (advantage - mean) / (std + 1e-8)
    policy_loss = -torch.min(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage).mean()

    error = (output.value - batch.value_target).square()
    if config.value_clip is not None:
        moved = (output.value - batch.value).clamp(-config.value_clip, config.value_clip)
        error = torch.max(error, (batch.value + moved - batch.value_target).square())
    value_loss = error.mean()
    entropy = output.action.entropy().mean()
    loss = policy_loss + config.value_weight * value_loss - config.entropy_weight * entropy
    metrics = {
        "train/loss": loss,
        "train/policy_gradient_loss": policy_loss,
        "train/value_loss": value_loss,
        "train/entropy_loss": -entropy,
        # the low-variance estimator of Schulman's note "Approximating KL divergence" (2020)
        "train/approx_kl": (ratio - 1 - log_ratio).mean(),
        "train/clip_fraction": ((ratio - 1).abs() > clip).float().mean(),
    }
    return loss, {name: metric.detach() for name, metric in metrics.items()}


def ppo_update(
    policy: RecurrentPolicy,
    optimizer: Optimizer,
    rollout: Rollout,
    config: PPOConfig,
    remaining: float = 1.0,
) -> dict[str, float]:
    """Improve the policy on one rollout, and on those of the other processes if there are any.

    A minibatch whose gradient has NaN or infinity in it changes nothing, and is counted.

    Args:
        policy: Its normalisers count the rollout in, unless a minibatch was left out, and its
            random features are redrawn if that is due, once the updates are through.
        optimizer: Of the policy's parameters.
        rollout: Made by this policy.
        config: The algorithm's numbers.
        remaining: Share of the run that is still to come, for the schedules.

    Returns:
        Each metric's mean over the minibatches of this process.
    """
    now = schedule(config, remaining)
    for group in optimizer.param_groups:
        group["lr"] = now.learning_rate
    limit = math.inf if config.target_kl is None else 1.5 * config.target_kl
    longest = config.max_grad_norm or math.inf
    history: list[dict[str, Tensor]] = []
    norms: list[Tensor] = []
    for batch in _all_minibatches(rollout, config):
        loss, metrics = ppo_loss(policy, batch, config, now.clip)
        history.append(metrics)
        # asking a GPU for a number would wait for all work queued before
        if limit < math.inf and average(metrics["train/approx_kl"]) > limit:
            break
        optimizer.zero_grad()
        loss.backward()
        average_gradients(policy.parameters())
        norms.append(nn.utils.clip_grad_norm_(policy.parameters(), longest).detach())
        _step_if(norms[-1].isfinite(), optimizer)
    skipped = int((~torch.stack(norms).isfinite()).sum()) if norms else 0
    if not skipped:
        policy.update_normalisers(rollout.inputs.observation, rollout.discounted)
    # not between minibatches: those replay what was acted under one set of directions
    if redraw_when_due(policy):
        copy_from_first(policy)
    means = {
        name: torch.stack([metrics[name] for metrics in history]).mean().item()
        for name in history[0]
    }
    variance = explained_variance(rollout.value, rollout.value_target).item()
    return means | {
        "train/explained_variance": variance,
        "train/learning_rate": now.learning_rate,
        "train/clip_range": now.clip,
        "train/grad_norm": torch.stack(norms).mean().item() if norms else math.nan,
        "train/n_updates": float(len(norms) - skipped),
        "health/skipped_updates": float(skipped),
    }


def _step_if(finite: Bool[Tensor, ""], optimizer: Optimizer) -> None:
    if optimizer.defaults.get("fused"):
        # leaves everything as it is where this is 1; nobody waits for the number
        cast(Any, optimizer).found_inf = (~finite).float()
        optimizer.step()
    elif finite:
        optimizer.step()


def _all_minibatches(rollout: Rollout, config: PPOConfig) -> Iterator[Rollout]:
    for _ in range(config.epochs):
        yield from rollout.minibatches(config.minibatches)


def make_optimizer(policy: RecurrentPolicy, config: PPOConfig) -> Optimizer:
    """Adam (Kingma and Ba 2015), in one pass over all parameters."""
    return torch.optim.Adam(
        policy.parameters(), lr=config.learning_rate, eps=config.adam_epsilon, fused=True
    )
