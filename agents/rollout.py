"""Rollouts: T steps in N environments, and the only code that reads terminated and truncated.

The columns of a rollout are aligned like this::

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
from gymnasium import spaces
from jaxtyping import Float, Int, Shaped
from numpy.typing import NDArray
from torch import Tensor

from agents.advantages import discounted_sums, gae
from agents.observations import as_tensor, to_tensors
from agents.on_device import DeviceEnv, DeviceStep, HostStep, ended, fetched
from agents.policy import PolicyInput, RecurrentPolicy
from agents.spaces import arranged, difference, without_keys
from fwrl.config import ConfigError
from fwrl.state import map_tensors, take_rows


@runtime_checkable
class EnvStep(Protocol):
    """The answer of N environments to a step. Its arrays are never written to again."""

    @property
    def observation(self) -> Any:
        """Arrays over N; where an episode ended, the first observation of the next one."""
        ...

    @property
    def reward(self) -> NDArray[Any]:
        """Raw rewards over N."""
        ...

    @property
    def terminated(self) -> NDArray[np.bool_]:
        """Flags over N: the task ended the episode."""
        ...

    @property
    def truncated(self) -> NDArray[np.bool_]:
        """Flags over N: a time limit ended the episode."""
        ...

    @property
    def final_observation(self) -> Any:
        """Arrays over N, valid where an episode ended; None if none did."""
        ...

    @property
    def success(self) -> NDArray[np.bool_] | None:
        """Flags over N, valid where an episode ended; None if the environment does not tell."""
        ...

    @property
    def faults(self) -> Mapping[int, str]:
        """One line on the error of each environment that failed, by row; it opens a new episode."""
        ...

    @property
    def vacant(self) -> NDArray[np.bool_] | None:
        """Flags over N: no agent acted there, and what ends is no episode; None if all acted."""
        ...


@runtime_checkable
class VectorEnv(Protocol):
    """N environments that step together and open the next episode in the same step."""

    @property
    def num_envs(self) -> int:
        """N."""
        ...

    @property
    def observation_space(self) -> spaces.Space[Any]:
        """The space of one environment's observations."""
        ...

    @property
    def action_space(self) -> spaces.Space[Any]:
        """The space of one environment's actions."""
        ...

    def reset(self, seed: int | None = None) -> Any:
        """The first observations; environment i is seeded with ``seed + i``."""
        ...

    def step(self, action: NDArray[Any]) -> EnvStep:
        """Step all environments."""
        ...


class Carry(NamedTuple):
    """The state that is carried from one rollout to the next."""

    inputs: PolicyInput
    memory: Any
    discounted: Float[Tensor, " N"]
    """The discounted sum of the rewards since the episode began, for the reward normaliser."""
    noise: Float[Tensor, "N A"] | None = None
    """The noise of the last actions, where that of the next ones is correlated with it."""


class Episodes(NamedTuple):
    """The episodes that ended in a rollout, in the environment's own units."""

    returns: list[float]
    lengths: list[int]
    successes: list[bool | None]
    """None where the environment does not tell."""
    faults: list[str]
    """One line on each environment that failed; its episode is in none of the other lists."""

    @classmethod
    def none(cls) -> "Episodes":
        """Empty lists."""
        return cls([], [], [], [])


class Rollout(NamedTuple):
    """The data of a PPO update; a row is a segment of a stream, with the memory before it."""

    inputs: PolicyInput
    memory: Any
    action: Shaped[Tensor, "N T A"]
    log_prob: Float[Tensor, "N T"]
    value: Float[Tensor, "N T"]
    advantage: Float[Tensor, "N T"]
    discounted: Float[Tensor, "N T"]
    noise: Float[Tensor, "N T A"] | None = None
    """The noise of the action before each one, where it is correlated."""

    @property
    def value_target(self) -> Float[Tensor, "N T"]:
        """The critic's target: the estimated return."""
        return self.value + self.advantage

    def minibatches(self, count: int) -> Iterator["Rollout"]:
        """The rows in random order, in ``count`` parts; no row is cut, padded or shuffled in time.

        Raises:
            ValueError: If there are fewer rows than ``count``.
        """
        num_rows = self.value.shape[0]
        if count > num_rows:
            raise ValueError(
                f"minibatches is {count}; it should be at most this rollout's rows, {num_rows}"
            )
        for rows in torch.randperm(num_rows, device=self.value.device).tensor_split(count):
            yield take_rows(self, rows)


class EpisodeCounter:
    """Returns (of raw rewards) and lengths of the running episodes."""

    def __init__(self, num_envs: int) -> None:
        self.returns = np.zeros(num_envs)
        self.lengths = np.zeros(num_envs, dtype=np.int64)

    def count(
        self, step: EnvStep | HostStep, episodes: Episodes, wanted: NDArray[np.bool_] | None = None
    ) -> NDArray[np.bool_]:
        """Add a step, and append the episodes that it ended to ``episodes``.

        Only episodes of ``wanted`` rows are appended, if given; returns the rows that were.
        """
        self.returns += step.reward
        self.lengths += 1
        last = step.terminated | step.truncated
        chosen = last if wanted is None else last & wanted
        if step.faults:
            episodes.faults.extend(step.faults.values())
            chosen = chosen & ~np.isin(np.arange(len(last)), list(step.faults))
        if step.vacant is not None:
            chosen = chosen & ~step.vacant
        if np.count_nonzero(last):
            episodes.returns.extend(self.returns[chosen].tolist())
            episodes.lengths.extend(self.lengths[chosen].tolist())
            success = step.success if step.success is not None else np.full(len(last), None)
            episodes.successes.extend(success[chosen].tolist())
            self.returns[last] = 0.0
            self.lengths[last] = 0
        return chosen


def start(envs: VectorEnv, policy: RecurrentPolicy, seed: int) -> Carry:
    """Reset the environments, and the memory with them.

    Raises:
        ConfigError: If their spaces are not those of the policy.
    """
    other = misfit(policy, envs.observation_space, envs.action_space)
    if other is not None:
        raise ConfigError(f"env: has {other}")
    count, device = envs.num_envs, policy.device
    inputs = PolicyInput(
        observed(policy, envs.reset(seed)),
        policy.initial_action(count),
        torch.zeros(count, device=device),
        torch.zeros(count, dtype=torch.int64, device=device),
    )
    noise = (
        torch.zeros_like(inputs.previous_action) if policy.config.action.noise_correlation else None
    )
    return Carry(inputs, policy.initial_state(count), torch.zeros(count, device=device), noise)


def misfit(
    policy: RecurrentPolicy, observations: spaces.Space[Any], actions: spaces.Space[Any]
) -> str | None:
    """How the spaces of environments differ from those of a policy; None if they are the same."""
    if policy.config.without_critic:
        observations = without_keys(observations, policy.config.critic.observation)
    pairs = {
        "observations": (policy.observation_space, observations),
        "actions": (policy.action_space, actions),
    }
    for name, pair in pairs.items():
        found = difference(*pair)
        if found is not None:
            return f"other {name} than the policy was trained with: {found}"
    return None


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
    exact: bool = False,
) -> tuple[Rollout, Carry, Episodes]:
    """Act for ``num_steps`` steps in every environment, from where ``carry`` left off.

    Rows of the rollout are segments of ``sequence_length`` steps, or whole streams if it is None.
    ``counter`` keeps the returns of episodes that go on into the next rollout.
    If ``exact``, each stream acts by itself, so that an exact ``unroll`` gives the same numbers.
    """
    inputs, memory, discounted, noise = carry
    segment = sequence_length or num_steps
    columns: list[tuple[Any, ...]] = []
    memories: list[Any] = []
    episodes, zeros = Episodes.none(), torch.zeros_like(discounted)
    on_device = envs if isinstance(envs, DeviceEnv) else None
    later: list[DeviceStep] = []
    for t in range(num_steps):
        opens_segment = t % segment == 0
        if opens_segment:
            memories.append(memory)
        output, memory = policy.step(inputs, memory, exact, overwrite=not opens_segment)
        before = noise
        action, log_prob = policy.after(output, before).action.draw()
        noise = policy.noise(output, action)
        if on_device is not None:
            step = on_device.step_on_device(policy.head.environment_action(action))
            later.append(step)
        else:
            step = envs.step(policy.to_environment(action, output, inputs))
            counter.count(step, episodes)
        following = following_inputs(policy, inputs, action, step)
        bootstrap = _bootstrap_value(policy, step, memory, following, inputs.elapsed, zeros)
        reward = policy.learned_reward(as_tensor(step.reward, policy.device).float())
        elapsed = following.elapsed
        columns.append((inputs, action, log_prob, output.value, reward, elapsed, bootstrap, before))
        inputs = following
    after = policy.step(inputs, memory)[0].value
    rollout, discounted = _assemble(
        columns, memories, discounted, after, policy, discount, gae_lambda, segment
    )
    if later:
        policy.check_finite(rollout.value.sum() + rollout.log_prob.sum(), rollout.inputs)
        for step in fetched(later):
            counter.count(step, episodes)
    return rollout, Carry(inputs, memory, discounted, noise), episodes


def following_inputs(
    policy: RecurrentPolicy,
    inputs: PolicyInput,
    action: Shaped[Tensor, "N A"],
    step: EnvStep | DeviceStep,
) -> PolicyInput:
    """The policy's next inputs after a step; they open an episode where the step ended one."""
    device, elapsed = inputs.elapsed.device, inputs.elapsed + 1
    last = ended(step)
    if isinstance(last, Tensor) or np.count_nonzero(last):
        elapsed = elapsed.masked_fill(as_tensor(last, device), 0)
    reward = policy.reward_feature(as_tensor(step.reward, device).float())
    return PolicyInput(observed(policy, step.observation), action, reward, elapsed)


def _bootstrap_value(
    policy: RecurrentPolicy,
    step: EnvStep | DeviceStep,
    memory: Any,
    following: PolicyInput,
    elapsed: Int[Tensor, " N"],
    zeros: Float[Tensor, " N"],
) -> Float[Tensor, " N"]:
    """The bootstrap value of the final observation where an episode was truncated, else 0.

    The memory state after it is discarded: in that row the next episode has already begun.
    """
    if step.truncated is None:
        return zeros
    truncated = step.truncated & ~step.terminated
    on_device = isinstance(truncated, Tensor)
    if not on_device and not np.count_nonzero(truncated):
        return zeros
    final = observed(policy, step.final_observation)
    inputs = following._replace(observation=final, elapsed=elapsed + 1)
    if on_device:
        # to ask for the rows would wait for the device
        return torch.where(truncated, policy.step(inputs, memory)[0].value, zeros)
    rows, value = as_tensor(np.flatnonzero(truncated), policy.device), zeros.clone()
    value[rows] = policy.step(take_rows(inputs, rows), take_rows(memory, rows))[0].value
    return value


def _assemble(
    columns: list[tuple[Any, ...]],
    memories: list[Any],
    before: Float[Tensor, " N"],
    after: Float[Tensor, " N"],
    policy: RecurrentPolicy,
    discount: float,
    gae_lambda: float,
    segment: int,
) -> tuple[Rollout, Float[Tensor, " N"]]:
    """Stack the columns, estimate advantages, and cut the streams into equal segments.

    Args:
        columns: Of every step what the policy read and what followed.
        memories: At the first step of each segment.
        before: The discounted sum of the rewards before the first step.
        after: The value after the last step.
        policy: The policy.
        discount: As in ``collect``.
        gae_lambda: As in ``collect``.
        segment: The number of steps in each.

    Returns:
        The rollout, and the discounted sum of the rewards after the last step.
    """
    inputs, action, log_prob, value, reward, elapsed, bootstrap, noise = map_tensors(
        lambda *steps: torch.stack(steps, dim=1), *columns
    )
    last = elapsed == 0
    discounted = discounted_sums(reward, last, before, discount)
    rest = discounted[:, -1].masked_fill(last[:, -1], 0.0)
    later = torch.cat([value[:, 1:], after.unsqueeze(1)], dim=1)
    next_value = torch.where(last, bootstrap, later)
    if policy.return_moments is not None and policy.config.reward.normalise:
        reward = reward / policy.return_moments.scale()
    advantage = gae(reward, value, next_value, last, discount, gae_lambda)

    def cut(leaf: Tensor) -> Tensor:
        return leaf.unflatten(1, (-1, segment)).flatten(0, 1)

    whole = (inputs, action, log_prob, value, advantage, discounted, noise)
    inputs, *numbers = map_tensors(cut, whole)
    memory = map_tensors(lambda *segments: torch.stack(segments, dim=1).flatten(0, 1), *memories)
    return Rollout._make((inputs, memory, *numbers)), rest


def observed(policy: RecurrentPolicy, observation: Any) -> Any:
    """Observations as the policy reads them: tensors, with keys in the order of its space."""
    return to_tensors(arranged(observation, policy.observation_space), policy.device)


def explained_variance(
    value: Float[Tensor, "N T"], target: Float[Tensor, "N T"]
) -> Float[Tensor, ""]:
    """1 for a perfect critic, 0 for one no better than a constant; NaN if targets do not vary."""
    variance = target.var(correction=0)
    return 1.0 - (target - value).var(correction=0) / variance.where(variance > 0, torch.nan)
