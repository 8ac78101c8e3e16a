"""Proximal policy optimisation (Schulman et al. 2017) on whole streams.

A minibatch replays each of its streams from the memory state at its start, so that gradients flow
through the memory over the whole stream; nothing is padded, and no time steps are shuffled.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal, NamedTuple, cast

import torch
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.optim import Optimizer

from agents.actions import GaussianHead
from agents.critic import Critic, PopArtCritic
from agents.distributed import (
    average,
    average_gradients,
    copy_from_first,
    num_processes,
    start_mean_and_std,
)
from agents.policy import PolicyOutput, RecurrentPolicy
from agents.rollout import Rollout, explained_variance
from fwrl.config import Config
from fwrl.feature_maps.random import redraw_when_due
from fwrl.kernels.native.adam import clipped_step


class PPOConfig(Config):
    """Hyperparameters. The defaults suit vector observations; Atari has its own file."""

    former: ClassVar[Mapping[str, Any]] = {
        "learning_rate": 3e-4,
        "learning_rate_schedule": "constant",
        "entropy_weight": 0.01,
        "entropy_schedule": "constant",
        "max_grad_norm": 0.5,
        "advantage_floor": 0.0,
    }
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
        "warmup_ratio": "learning_rate_warmup",
        "lr_warmup": "learning_rate_warmup",
    }

    num_steps: int = Field(default=128, ge=1)
    """Steps in each environment per rollout."""
    sequence_length: int | None = Field(default=None, ge=1)
    """Steps through which gradients flow, a divisor of num_steps; None: all of them."""
    epochs: int = Field(default=4, ge=1)
    """Passes over a rollout."""
    minibatches: int = Field(default=4, ge=1)
    """Updates per pass, each on whole rows of a rollout. There are ``env.num_envs`` rows, times
    the segments that ``sequence_length`` makes."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Step size of Adam, before the schedule and the warm-up lower it."""
    learning_rate_schedule: Literal["constant", "linear"] = "linear"
    """``linear`` falls to zero at the end of the run."""
    learning_rate_warmup: float = Field(default=0.0, ge=0, lt=1)
    """Fraction of the run over which the rate rises, from a tenth of what the schedule says to all
    of it."""
    adam_epsilon: float = Field(default=1e-5, gt=0)
    """Added to the denominator of Adam's step."""
    discount: float = Field(default=0.99, ge=0, le=1)
    """Discount factor per step; 0 counts the next reward only."""
    gae_lambda: float = Field(default=0.95, ge=0, le=1)
    """Lambda of generalised advantage estimation: 0 trusts the values, 1 the returns."""
    clip: float = Field(default=0.2, gt=0)
    """Distance of a probability ratio from 1 at which its gradient stops."""
    clip_schedule: Literal["constant", "linear"] = "constant"
    """Schedule of ``clip``; ``linear`` falls to zero at the end of the run."""
    value_clip: float | None = Field(default=None, gt=0)
    """Distance of a value from the old one at which its gradient stops; None: no limit."""
    value_weight: float = Field(default=0.5, ge=0)
    """Factor on the value loss."""
    entropy_weight: float = Field(default=0.02, ge=0)
    """Factor on the entropy bonus, in nats, at the start of the run."""
    entropy_schedule: Literal["constant", "linear"] = "linear"
    """Schedule of ``entropy_weight``; ``linear`` falls to zero at the end of the run."""
    normalise_advantage: bool = True
    """Normalise advantages in each minibatch, over all processes, to mean 0 and deviation 1."""
    advantage_floor: float = Field(default=0.05, ge=0)
    """Least deviation by which normalisation divides, in deviations of the returns so far; smaller
    advantages stay small, as noise does once every episode goes well. Only with
    ``critic.head: popart``, which knows that deviation."""
    max_grad_norm: float | None = Field(default=2.0, gt=0)
    """Largest norm of the gradient; longer ones are scaled down. None: no limit."""
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
    """The hyperparameters that change with the progress of a run."""

    learning_rate: float
    clip: float
    entropy_weight: float


def schedule(config: PPOConfig, remaining: float) -> Schedule:
    """The values when the fraction ``remaining`` of the run is left, from 1 down to 0."""
    factors = {"constant": 1.0, "linear": max(remaining, 0.0)}
    warmup = config.learning_rate_warmup
    risen = min(0.1 + 0.9 * (1 - remaining) / warmup, 1.0) if warmup else 1.0
    return Schedule(
        config.learning_rate * factors[config.learning_rate_schedule] * risen,
        config.clip * factors[config.clip_schedule],
        config.entropy_weight * factors[config.entropy_schedule],
    )


class Losses(NamedTuple):
    """The terms of PPO's loss, and the ratios of new to old probabilities."""

    policy: Float[Tensor, ""]
    value: Float[Tensor, ""]
    entropy: Float[Tensor, ""]
    log_ratio: Float[Tensor, "N T"]
    ratio: Float[Tensor, "N T"]


def losses(
    critic: Critic,
    output: PolicyOutput,
    batch: Rollout,
    advantage: Float[Tensor, "N T"],
    config: PPOConfig,
    clip: float,
) -> Losses:
    """The terms of the loss, of what the policy says now about a batch.

    Args:
        critic: The policy's.
        output: The policy's.
        batch: The steps that were taken.
        advantage: Of the actions, normalised if that is configured.
        config: The hyperparameters.
        clip: The present clipping range.
    """
    log_ratio = output.action.log_prob(batch.action) - batch.log_prob
    ratio = log_ratio.exp()
    surrogate = torch.min(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
    value = critic.loss(output.raw_value, batch.value, batch.value_target, config.value_clip)
    entropy = output.action.entropy().mean()
    return Losses(-surrogate.mean(), value, entropy, log_ratio, ratio)


def normalised(
    advantage: Float[Tensor, "N T"],
    mean: Float[Tensor, ""],
    std: Float[Tensor, ""],
    critic: Critic,
    config: PPOConfig,
) -> Float[Tensor, "N T"]:
    """Advantages in units of the critic, moved to mean 0 and scaled to deviation 1, if not tiny."""
    floor = config.advantage_floor if isinstance(critic, PopArtCritic) else 0.0
    return (advantage - mean) / (std.clamp(min=floor) + 1e-8)


def ppo_loss(
    policy: RecurrentPolicy, batch: Rollout, config: PPOConfig, now: Schedule
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
    """The clipped surrogate loss, and metrics to log."""
    advantage = batch.advantage / policy.critic.unit()
    varies = advantage.numel() * num_processes() > 1
    # communication with other processes overlaps with the policy's computation
    moments = start_mean_and_std(advantage) if config.normalise_advantage and varies else None
    output, _ = policy.unroll(batch.inputs, batch.memory)
    output = policy.after(output, batch.noise)
    if moments is not None:
        advantage = normalised(advantage, *moments(), policy.critic, config)
    found = losses(policy.critic, output, batch, advantage, config, now.clip)
    entropy, log_ratio = found.entropy, found.log_ratio
    loss = found.policy + config.value_weight * found.value - now.entropy_weight * entropy
    metrics = {
        "train/loss": loss,
        "train/policy_gradient_loss": found.policy,
        "train/value_loss": found.value,
        "train/entropy_loss": -entropy,
        # the low-variance estimator of Schulman's note "Approximating KL divergence" (2020)
        "train/approx_kl": (found.ratio - 1 - log_ratio).mean(),
        "train/clip_fraction": ((found.ratio - 1).abs() > now.clip).float().mean(),
    }
    return loss, {name: metric.detach() for name, metric in metrics.items()}


def ppo_update(
    policy: RecurrentPolicy,
    optimizer: Optimizer,
    rollout: Rollout,
    config: PPOConfig,
    remaining: float = 1.0,
) -> dict[str, float]:
    """Update the policy on one rollout, together with the other processes if there are any.

    A minibatch whose gradient contains NaN or infinity is skipped, and counted.

    Args:
        policy: The policy. Its critic's statistics include the rollout first. After the updates
            its normalisers do, unless a minibatch was skipped, and its random features are redrawn
            if that is due.
        optimizer: The optimiser of the policy's parameters.
        rollout: A rollout of this policy.
        config: The hyperparameters.
        remaining: Fraction of the run that is left, for the schedules.

    Returns:
        Each metric's mean over the minibatches of this process.
    """
    now = schedule(config, remaining)
    for group in optimizer.param_groups:
        group["lr"] = now.learning_rate
    policy.critic.include(rollout.value_target, policy.value)
    limit = math.inf if config.target_kl is None else 1.5 * config.target_kl
    history: list[dict[str, Tensor]] = []
    norms: list[Tensor] = []
    for batch in _all_minibatches(rollout, config):
        loss, metrics = ppo_loss(policy, batch, config, now)
        history.append(metrics)
        # only if needed: reading a number from a GPU waits for all queued work
        if limit < math.inf and average(metrics["train/approx_kl"]) > limit:
            break
        norms.append(gradient_step(policy, optimizer, loss, config))
    found = _measured(policy, rollout, history, norms)
    skipped = int(found.pop("health/skipped_updates", 0.0))
    if not skipped:
        policy.update_normalisers(rollout.inputs.observation, rollout.discounted)
    # not between minibatches, which replay actions chosen with one set of features
    if redraw_when_due(policy):
        copy_from_first(policy)
    return found | {
        "train/learning_rate": now.learning_rate,
        "train/clip_range": now.clip,
        "train/n_updates": float(len(norms) - skipped),
        "health/skipped_updates": float(skipped),
    }


def _measured(
    policy: RecurrentPolicy, rollout: Rollout, history: list[dict[str, Tensor]], norms: list[Tensor]
) -> dict[str, float]:
    """The metrics of an update, for one transfer to the host."""
    numbers = {
        name: torch.stack([metrics[name] for metrics in history]).mean() for name in history[0]
    }
    numbers["train/explained_variance"] = explained_variance(rollout.value, rollout.value_target)
    if isinstance(policy.head, GaussianHead):
        numbers["train/std"] = policy.head.std
    if norms:
        stacked = torch.stack(norms)
        numbers["train/grad_norm"] = stacked.mean()
        numbers["health/skipped_updates"] = (~stacked.isfinite()).sum()
    else:
        numbers["train/grad_norm"] = torch.full_like(rollout.value[0, 0], math.nan)
    return dict(zip(numbers, on_host(list(numbers.values())), strict=True))


def on_host(numbers: list[Tensor]) -> list[float]:
    """Single numbers of a device, all at once."""
    return torch.stack([number.detach().double() for number in numbers]).tolist()


def gradient_step(
    policy: RecurrentPolicy, optimizer: Optimizer, loss: Float[Tensor, ""], config: PPOConfig
) -> Float[Tensor, ""]:
    """Change the policy by the gradient of a loss, if that is finite; returns its norm."""
    optimizer.zero_grad()
    loss.backward()
    average_gradients(policy.parameters())
    norm = clipped_step(optimizer, config.max_grad_norm)
    if norm is not None:
        return norm
    longest = config.max_grad_norm or math.inf
    norm = nn.utils.clip_grad_norm_(policy.parameters(), longest).detach()
    _step_if(norm.isfinite(), optimizer)
    return norm


def _step_if(finite: Bool[Tensor, ""], optimizer: Optimizer) -> None:
    if optimizer.defaults.get("fused"):
        # a fused step does nothing where this is 1, and needs no number from the GPU
        cast(Any, optimizer).found_inf = (~finite).float()
        optimizer.step()
    elif finite:
        optimizer.step()


def _all_minibatches(rollout: Rollout, config: PPOConfig) -> Iterator[Rollout]:
    for _ in range(config.epochs):
        yield from rollout.minibatches(config.minibatches)


def make_optimizer(policy: RecurrentPolicy, config: PPOConfig) -> Optimizer:
    """Adam (Kingma and Ba 2015), fused over all parameters."""
    return torch.optim.Adam(
        policy.parameters(), lr=config.learning_rate, eps=config.adam_epsilon, fused=True
    )
