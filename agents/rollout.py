"""Rollouts: T steps in N environments, and the only code that reads terminated and truncated.

How the columns of a rollout stand to each other::

    t               0     1     2        3     4
    observation     o0    o1    o2       p0    p1    episode o ends after its third action
    elapsed         0     1     2        0     1     0: this observation opens an episode
    last            F     F     T        F     F     this action closed one
    next_value      V(o1) V(o2) 0|V(o3)  V(p1) ...   terminated: 0; truncated: V(final observation)
    memory          the state before t=0; a row is cleared where elapsed is 0, before o_t is read
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from numpy.typing import NDArray
from torch import Tensor

from agents.advantages import gae
from agents.policy import PolicyInput, RecurrentPolicy
from fwrl.state import map_tensors, take_rows


@runtime_checkable
class EnvStep(Protocol):
    """What a step of N environments returns. Its arrays are never written to again."""

    @property
    def observation(self) -> Any:
        """Arrays over N; where an episode ended, the next one's first."""
        ...

    @property
    def reward(self) -> NDArray[Any]:
        """Over N."""
        ...

    @property
    def terminated(self) -> NDArray[np.bool_]:
        """Over N: the task is over."""
        ...

    @property
    def truncated(self) -> NDArray[np.bool_]:
        """Over N: the clock is over, the task is not."""
        ...

    @property
    def final_observation(self) -> Any:
        """Arrays over N, valid where an episode ended; None if none did."""
        ...

    @property
    def success(self) -> NDArray[np.bool_] | None:
        """Over N, valid where an episode ended; None if the environment does not say."""
        ...

    @property
    def faults(self) -> Mapping[int, str]:
        """What broke in an environment, in one line, by row; such a row opens a new episode."""
        ...


@runtime_checkable
class VectorEnv(Protocol):
    """N environments that step together and open the next episode in the same step."""

    @property
    def num_envs(self) -> int:
        """N."""
        ...

    def reset(self, seed: int | None = None) -> Any:
        """The first observations; slot i is seeded ``seed + i``."""
        ...

    def step(self, action: NDArray[Any]) -> EnvStep:
        """One step everywhere."""
        ...


class Carry(NamedTuple):
    """All that survives from one rollout to the next."""

    inputs: PolicyInput
    memory: Any
    discounted: Float[Tensor, " N"]
    """The discounted sum of the rewards since the episode began, for the reward normaliser."""


class Episodes(NamedTuple):
    """The episodes that ended in a rollout, in the environment's own units."""

    returns: list[float]
    lengths: list[int]
    successes: list[bool | None]
    """None of an episode whose environment does not say."""
    faults: list[str]
    """One line on each environment that failed; such an episode counts nowhere else."""

    @classmethod
    def none(cls) -> "Episodes":
        """Lists that are still empty."""
        return cls([], [], [], [])


class Rollout(NamedTuple):
    """What PPO learns from. A row is a piece of a stream, with the memory's state before it."""

    inputs: PolicyInput
    memory: Any
    action: Shaped[Tensor, "N T A"]
    log_prob: Float[Tensor, "N T"]
    value: Float[Tensor, "N T"]
    advantage: Float[Tensor, "N T"]
    discounted: Float[Tensor, "N T"]

    @property
    def value_target(self) -> Float[Tensor, "N T"]:
        """What the critic should have said."""
        return self.value + self.advantage

    def minibatches(self, count: int) -> Iterator["Rollout"]:
        """The rows in random order, in ``count`` parts; no row is cut, padded or shuffled in time.

        Raises:
            ValueError: If there are not so many rows.
        """
        num_rows = self.value.shape[0]
        if count > num_rows:
            raise ValueError(
                f"minibatches is {count}; it should be at most this rollout's rows, {num_rows}"
            )
        for rows in torch.randperm(num_rows, device=self.value.device).tensor_split(count):
            yield take_rows(self, rows)


class EpisodeCounter:
    """Returns and lengths of the episodes under way, of raw rewards."""

    def __init__(self, num_envs: int) -> None:
        self.returns = np.zeros(num_envs)
        self.lengths = np.zeros(num_envs, dtype=np.int64)

    def count(
        self, step: EnvStep, episodes: Episodes, wanted: NDArray[np.bool_] | None = None
    ) -> NDArray[np.bool_]:
        """Add a step; append the episodes that it ended.

        Args:
            step: Of all rows.
            episodes: Where to append.
            wanted: Whose episodes to append; None means everybody's.

        Returns:
            The rows whose episodes were appended.
        """
        self.returns += step.reward
        self.lengths += 1
        last = step.terminated | step.truncated
        chosen = last if wanted is None else last & wanted
        if step.faults:
            episodes.faults.extend(step.faults.values())
            chosen = chosen & ~np.isin(np.arange(len(last)), list(step.faults))
        if last.any():
            episodes.returns.extend(self.returns[chosen].tolist())
            episodes.lengths.extend(self.lengths[chosen].tolist())
            success = step.success if step.success is not None else np.full(len(last), None)
            episodes.successes.extend(success[chosen].tolist())
            self.returns[last] = 0.0
            self.lengths[last] = 0
        return chosen


def start(envs: VectorEnv, policy: RecurrentPolicy, seed: int) -> Carry:
    """Open the first episodes."""
    count, device = envs.num_envs, policy.device
    inputs = PolicyInput(
        to_tensors(envs.reset(seed), device),
        policy.initial_action(count),
        torch.zeros(count, device=device),
        torch.zeros(count, dtype=torch.int64, device=device),
    )
    return Carry(inputs, policy.initial_state(count), torch.zeros(count, device=device))


@torch.no_grad()
def collect(
    envs: VectorEnv,
    policy: RecurrentPolicy,
    carry: Carry,
    num_steps: int,
    discount: float,
    gae_lambda: float,
    counter: EpisodeCounter,
    sequence_length: int | None = None,
) -> tuple[Rollout, Carry, Episodes]:
    """Act for ``num_steps`` steps in every environment.

    Args:
        envs: With auto-reset in the same step.
        policy: Acts by sampling.
        carry: Where the last rollout stopped.
        num_steps: T.
        discount: Per step, in [0, 1].
        gae_lambda: In [0, 1].
        counter: Of the episodes under way; it goes on counting here.
        sequence_length: Rows of the rollout are pieces of this many steps; None leaves them whole.
    """
    inputs, memory, discounted = carry
    piece = sequence_length or num_steps
    columns: list[tuple[Any, ...]] = []
    memories: list[Any] = []
    episodes = Episodes.none()
    for t in range(num_steps):
        if t % piece == 0:
            memories.append(memory)
        output, memory = policy.step(inputs, memory)
        action = output.action.sample()
        step = envs.step(policy.head.to_environment(action))
        counter.count(step, episodes)
        following = following_inputs(policy, inputs, action, step)
        earned, last = following.previous_reward, following.starts
        discounted = discount * discounted + earned
        promised = _value_where_truncated(policy, step, memory, following, inputs.elapsed + 1)
        log_prob = output.action.log_prob(action)
        columns.append((inputs, action, log_prob, output.value, earned, last, promised, discounted))
        discounted = discounted.masked_fill(last, 0.0)
        inputs = following
    after = policy.step(inputs, memory)[0].value
    rollout = _assemble(columns, memories, after, policy, discount, gae_lambda, piece)
    return rollout, Carry(inputs, memory, discounted), episodes


def following_inputs(
    policy: RecurrentPolicy, inputs: PolicyInput, action: Shaped[Tensor, "N A"], step: EnvStep
) -> PolicyInput:
    """What the policy reads after a step; it starts where the step ended an episode."""
    last = _as_tensor(step.terminated | step.truncated, policy.device)
    return PolicyInput(
        to_tensors(step.observation, policy.device),
        action,
        policy.learned_reward(_as_tensor(step.reward, policy.device).float()),
        (inputs.elapsed + 1).masked_fill(last, 0),
    )


def _value_where_truncated(
    policy: RecurrentPolicy,
    step: EnvStep,
    memory: Any,
    following: PolicyInput,
    elapsed: Int[Tensor, " N"],
) -> Float[Tensor, " N"]:
    """The critic's value of the final observation where the clock ended an episode, else 0.

    The state it leads to is thrown away: in that row the next episode has already begun.
    """
    value = torch.zeros_like(following.previous_reward)
    truncated = step.truncated & ~step.terminated
    if truncated.any():
        rows = _as_tensor(np.flatnonzero(truncated), policy.device)
        final = to_tensors(step.final_observation, policy.device)
        inputs = take_rows(following._replace(observation=final, elapsed=elapsed), rows)
        value[rows] = policy.step(inputs, take_rows(memory, rows))[0].value
    return value


def _assemble(
    columns: list[tuple[Any, ...]],
    memories: list[Any],
    after: Float[Tensor, " N"],
    policy: RecurrentPolicy,
    discount: float,
    gae_lambda: float,
    piece: int,
) -> Rollout:
    """Stack the columns, estimate advantages, and cut the streams into equal pieces."""
    inputs, action, log_prob, value, earned, last, promised, discounted = map_tensors(
        lambda *steps: torch.stack(steps, dim=1), *columns
    )
    later = torch.cat([value[:, 1:], after.unsqueeze(1)], dim=1)
    next_value = torch.where(last, promised, later)
    reward = earned
    if policy.return_moments is not None:
        reward = earned / policy.return_moments.scale()
    advantage = gae(reward, value, next_value, last, discount, gae_lambda)

    def cut(leaf: Tensor) -> Tensor:
        return leaf.unflatten(1, (-1, piece)).flatten(0, 1)

    whole = (inputs, action, log_prob, value, advantage, discounted)
    inputs, action, log_prob, value, advantage, discounted = map_tensors(cut, whole)
    memory = map_tensors(lambda *pieces: torch.stack(pieces, dim=1).flatten(0, 1), *memories)
    return Rollout(inputs, memory, action, log_prob, value, advantage, discounted)


def to_tensors(tree: Any, device: torch.device) -> Any:
    """Arrays as tensors on the device, in the same nesting."""
    if isinstance(tree, dict):
        return {key: to_tensors(part, device) for key, part in tree.items()}
    if isinstance(tree, tuple):
        return tuple(to_tensors(part, device) for part in tree)
    return _as_tensor(tree, device)


def _as_tensor(array: NDArray[Any], device: torch.device) -> Shaped[Tensor, "..."]:
    return torch.as_tensor(array).to(device, non_blocking=True)


def explained_variance(
    value: Float[Tensor, "N T"], target: Float[Tensor, "N T"]
) -> Float[Tensor, ""]:
    """1 for a perfect critic, 0 for one no better than a constant; NaN if targets do not vary."""
    variance = target.var(correction=0)
    return 1.0 - (target - value).var(correction=0) / variance.where(variance > 0, torch.nan)
