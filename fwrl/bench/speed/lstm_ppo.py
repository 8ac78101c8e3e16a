"""Recurrent PPO as in single-file implementations, for comparison alone.

One nn.LSTM, called once for each time in the rollout and in the update, its state multiplied with
zero where an episode begins; minibatches of whole environments; Adam, and the losses of
``agents.ppo``. Written for this benchmark; nothing else uses it.
"""

from typing import NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Bool, Float, Int
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.nn import functional as F
from typing_extensions import override

from agents.advantages import gae
from agents.ppo import PPOConfig

LSTMState = tuple[Tensor, Tensor]


class LSTMAgent(nn.Module):
    """A linear layer, an LSTM, and two heads, for symbols as observations and actions."""

    def __init__(self, num_symbols: int, num_actions: int, width: int) -> None:
        super().__init__()
        self.num_symbols, self.width = num_symbols, width
        self.encoder = nn.Sequential(nn.Linear(num_symbols, width), nn.Tanh())
        self.lstm = nn.LSTM(width, width)
        self.actor = nn.Linear(width, num_actions)
        self.critic = nn.Linear(width, 1)

    @override
    def forward(
        self, symbols: Int[Tensor, "T N"], starts: Bool[Tensor, "T N"], state: LSTMState
    ) -> tuple[Categorical, Float[Tensor, "T N"], LSTMState]:
        """Actions and values at all times, and the last state."""
        features = self.encoder(F.one_hot(symbols, self.num_symbols).float())
        outputs: list[Tensor] = []
        for x_t, starts_t in zip(features.split(1), starts, strict=True):
            keep = (~starts_t).float().view(1, -1, 1)
            y, state = self.lstm(x_t, (keep * state[0], keep * state[1]))
            outputs.append(y)
        y = torch.cat(outputs)
        return Categorical(logits=self.actor(y)), self.critic(y).squeeze(-1), state


class Batch(NamedTuple):
    """A rollout; time first, then environments."""

    symbols: Int[Tensor, "T N"]
    starts: Bool[Tensor, "T N"]
    action: Int[Tensor, "T N"]
    log_prob: Float[Tensor, "T N"]
    advantage: Float[Tensor, "T N"]
    target: Float[Tensor, "T N"]


class LSTMPPO:
    """An agent in its environments; ``iterate`` is a rollout and its updates."""

    def __init__(
        self, envs: VecEnv, config: PPOConfig, width: int, device: torch.device, seed: int
    ) -> None:
        seen, chosen = envs.observation_space, envs.action_space
        assert isinstance(seen, spaces.Discrete)
        assert isinstance(chosen, spaces.Discrete)
        self.envs, self.config, self.device = envs, config, device
        self.agent = LSTMAgent(int(seen.n), int(chosen.n), width).to(device)
        self.optimizer = torch.optim.Adam(
            self.agent.parameters(), lr=config.learning_rate, eps=config.adam_epsilon
        )
        envs.seed(seed)
        self.symbols = self._tensor(np.asarray(envs.reset()))
        self.starts = torch.ones(envs.num_envs, dtype=torch.bool, device=device)
        zeros = torch.zeros(1, envs.num_envs, width, device=device)
        self.state: LSTMState = (zeros, zeros)

    def iterate(self) -> None:
        """Act, then learn."""
        before = self.state
        batch = self._collect()
        for _ in range(self.config.epochs):
            for rows in torch.randperm(self.envs.num_envs).tensor_split(self.config.minibatches):
                state = (before[0][:, rows], before[1][:, rows])
                loss = self._loss(Batch(*(column[:, rows] for column in batch)), state)
                self.optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(
                    self.agent.parameters(), self.config.max_grad_norm or np.inf
                )
                self.optimizer.step()

    @torch.no_grad()
    def _collect(self) -> Batch:
        columns: list[tuple[Tensor, ...]] = []
        for _ in range(self.config.num_steps):
            choice, value, self.state = self.agent(
                self.symbols.unsqueeze(0), self.starts.unsqueeze(0), self.state
            )
            action = choice.sample()
            observation, reward, ended, _ = self.envs.step(action[0].cpu().numpy())
            earned = self._tensor(reward).float()
            columns.append(
                (self.symbols, self.starts, action[0], choice.log_prob(action)[0], value[0], earned)
            )
            self.symbols, self.starts = self._tensor(np.asarray(observation)), self._tensor(ended)
        after = self.agent(self.symbols.unsqueeze(0), self.starts.unsqueeze(0), self.state)[1][0]
        symbols, starts, action, log_prob, value, reward = map(
            torch.stack, zip(*columns, strict=True)
        )
        last = torch.cat([starts[1:], self.starts.unsqueeze(0)])
        following = torch.cat([value[1:], after.unsqueeze(0)]).masked_fill(last, 0.0)
        columns_of_rows = (reward.T, value.T, following.T, last.T)
        advantage = gae(*columns_of_rows, self.config.discount, self.config.gae_lambda).T
        return Batch(symbols, starts, action, log_prob, advantage, advantage + value)

    def _loss(self, batch: Batch, state: LSTMState) -> Float[Tensor, ""]:
        choice, value, _ = self.agent(batch.symbols, batch.starts, state)
        ratio = (choice.log_prob(batch.action) - batch.log_prob).exp()
        advantage = (batch.advantage - batch.advantage.mean()) / (batch.advantage.std() + 1e-8)
        clip = self.config.clip
        clipped = ratio.clamp(1 - clip, 1 + clip) * advantage
        return (
            -torch.min(ratio * advantage, clipped).mean()
            + self.config.value_weight * F.mse_loss(value, batch.target)
            - self.config.entropy_weight * choice.entropy().mean()
        )

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.as_tensor(array).to(self.device)
