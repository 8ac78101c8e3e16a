"""fwrl policies for Stable-Baselines3: an object with ``predict``.

``evaluate_policy`` and other code that calls only ``predict`` works with it unchanged.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from typing_extensions import override

from agents.observations import read_observation
from agents.policy import PolicyInput, RecurrentPolicy
from agents.rollout import misfit, to_tensors
from agents.saving import actor_of, load_policy
from fwrl.state import tensors_in


class PredictState(NamedTuple):
    """The state that the caller passes to the next call."""

    memory: Any
    previous_action: torch.Tensor
    elapsed: torch.Tensor


class RewardMemory(VecEnvWrapper):
    """The same environments, which also keep their last rewards readable."""

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv)
        self.rewards = np.zeros(venv.num_envs, dtype=np.float32)

    @override
    def reset(self) -> Any:
        return self.venv.reset()

    @override
    def step_wait(self) -> Any:
        result = self.venv.step_wait()
        self.rewards = result[1]
        return result


class SB3Policy:
    """A policy with the ``predict`` of Stable-Baselines3's recurrent policies.

    Keys of the observation that only its critic reads may be missing.
    """

    def __init__(self, policy: RecurrentPolicy) -> None:
        self.policy = policy = actor_of(policy)
        self.observation_space = policy.observation_space
        self.action_space = policy.action_space
        self._rewards: RewardMemory | None = None

    @torch.no_grad()
    def predict(
        self,
        observation: Any,
        state: PredictState | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
        previous_reward: ArrayLike | None = None,
    ) -> tuple[NDArray[Any] | np.integer[Any], PredictState]:
        """Actions for N environments or for one, and the state for the next call.

        Args:
            observation: Arrays over N, or the observation of a single environment: their shapes
                tell. Other types of numbers are converted where none of them changes by that.
            state: The state from the last call; None opens episodes everywhere.
            episode_start: Where an episode opens; None: nowhere, if there is a state.
            deterministic: Choose the most probable action instead of sampling.
            previous_reward: The reward of the last action, if the policy reads it (by default it
                does) and nothing is watched.

        Raises:
            ValueError: If the observation, the state or the starts do not fit the policy or each
                other, or the policy reads the previous reward and is not told.
        """
        policy = self.policy
        arrays, single = read_observation(self.observation_space, observation)
        tensors = to_tensors(arrays, policy.device)
        count = tensors_in(tensors)[0].shape[0]
        if state is None:
            zeros = torch.zeros(count, dtype=torch.int64, device=policy.device)
            state = PredictState(policy.initial_state(count), policy.initial_action(count), zeros)
        elapsed = state.elapsed
        _check_count("state", elapsed.shape[0], count)
        if episode_start is not None:
            starts = torch.as_tensor(episode_start).to(policy.device, torch.bool)
            _check_count("episode_start", starts.numel(), count)
            elapsed = elapsed.masked_fill(starts.reshape(count), 0)
        reward = self._previous_reward(elapsed, previous_reward)
        inputs = PolicyInput(tensors, state.previous_action, reward, elapsed)
        output, memory = policy.step(inputs, state.memory)
        action = output.action.mode() if deterministic else output.action.sample()
        state = PredictState(memory, action, elapsed + 1)
        actions = policy.to_environment(action, output, inputs)
        return (actions[0] if single else actions), state

    def watch(self, vec_env: VecEnv) -> RewardMemory:
        """The same VecEnv, whose rewards the policy now reads; needed if it was trained so.

        Raises:
            ValueError: If its spaces are not those of the policy.
        """
        other = misfit(self.policy, vec_env.observation_space, vec_env.action_space)
        if other is not None:
            raise ValueError(f"the environments have {other}")
        self._rewards = RewardMemory(vec_env)
        return self._rewards

    def _previous_reward(
        self, elapsed: torch.Tensor, given: ArrayLike | None
    ) -> Float[torch.Tensor, " N"]:
        if given is None and self._rewards is not None:
            given = self._rewards.rewards
        if not self.policy.config.encoder.previous_reward or (
            given is None and bool((elapsed == 0).all())
        ):
            return torch.zeros(elapsed.shape, device=elapsed.device)
        if given is None:
            raise ValueError(
                "this policy reads the previous reward; say predict(..., previous_reward=reward), "
                "use env = model.watch(env), or train with encoder.previous_reward=false"
            )
        reward = torch.as_tensor(np.asarray(given, np.float32).reshape(-1)).to(elapsed.device)
        _check_count("previous_reward", len(reward), len(elapsed))
        return self.policy.reward_feature(reward)


def load(path: Path | str, checkpoint: str = "best", device: str = "cpu") -> SB3Policy:
    """The policy of a run directory or a checkpoint folder, ready to predict."""
    return SB3Policy(load_policy(path, checkpoint, device))


def _check_count(name: str, given: int, count: int) -> None:
    if given != count:
        raise ValueError(f"{name} is of {given} environments, the observation of {count}")
