"""Recurrent PPO as in single-file implementations, for comparison alone.

One nn.LSTM, called once for each time in the rollout and in the update, its state multiplied with
zero where an episode begins; minibatches of whole environments; Adam, and the losses of
``agents.ppo``. Written for this benchmark; nothing else uses it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.nn import functional as F
from typing_extensions import override

from agents.advantages import gae
from agents.ppo import schedule
from fwrl.bench.speed.job import TrainingConfig, columns_of, evaluation_env, mean_return, vec_env

LSTMState = tuple[Tensor, Tensor]


class LSTMAgent(nn.Module):
    """A linear layer, an LSTM, and two heads, for symbols as observations and actions."""

    def __init__(self, columns: Sequence[int], num_actions: int, width: int) -> None:
        super().__init__()
        self.columns = columns
        self.encoder = nn.Sequential(nn.Linear(sum(columns), width), nn.Tanh())
        self.lstm = nn.LSTM(width, width)
        self.actor = nn.Linear(width, num_actions)
        self.critic = nn.Linear(width, 1)

    @override
    def forward(
        self, symbols: Int[Tensor, "T N C"], starts: Bool[Tensor, "T N"], state: LSTMState
    ) -> tuple[Categorical, Float[Tensor, "T N"], LSTMState]:
        """Actions and values at all times, and the last state."""
        pairs = zip(symbols.unbind(-1), self.columns, strict=True)
        features = self.encoder(torch.cat([F.one_hot(*pair) for pair in pairs], -1).float())
        outputs: list[Tensor] = []
        for x_t, starts_t in zip(features.split(1), starts, strict=True):
            keep = (~starts_t).float().view(1, -1, 1)
            y, state = self.lstm(x_t, (keep * state[0], keep * state[1]))
            outputs.append(y)
        y = torch.cat(outputs)
        return Categorical(logits=self.actor(y)), self.critic(y).squeeze(-1), state


class Batch(NamedTuple):
    """A rollout; time first, then environments."""

    symbols: Int[Tensor, "T N C"]
    starts: Bool[Tensor, "T N"]
    action: Int[Tensor, "T N"]
    log_prob: Float[Tensor, "T N"]
    advantage: Float[Tensor, "T N"]
    target: Float[Tensor, "T N"]


class LSTMPPO:
    """An agent in its environments; ``iterate`` is a rollout and its updates."""

    def __init__(self, job: TrainingConfig, device: torch.device) -> None:
        torch.manual_seed(job.seed)
        self.job, self.config, self.device = job, job.ppo, device
        self.envs = vec_env(job)
        columns, chosen = columns_of(self.envs.observation_space), self.envs.action_space
        assert isinstance(chosen, spaces.Discrete)
        self.agent = LSTMAgent(columns, int(chosen.n), job.width).to(device)
        self.optimizer = torch.optim.Adam(self.agent.parameters(), eps=self.config.adam_epsilon)
        self.symbols = self._symbols(self.envs.reset())
        self.starts = torch.ones(job.num_envs, dtype=torch.bool, device=device)
        self.state = self._zeros(job.num_envs)
        self.steps = 0

    def iterate(self) -> None:
        """Act, then learn."""
        before = self.state
        batch = self._collect()
        now = schedule(self.config, self.job.remaining(self.steps))
        self.optimizer.param_groups[0]["lr"] = now.learning_rate
        self.steps += self.config.num_steps * self.job.num_envs
        for _ in range(self.config.epochs):
            for rows in torch.randperm(self.job.num_envs).tensor_split(self.config.minibatches):
                state = (before[0][:, rows], before[1][:, rows])
                loss = self._loss(Batch(*(column[:, rows] for column in batch)), state)
                self.optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(
                    self.agent.parameters(), self.config.max_grad_norm or np.inf
                )
                self.optimizer.step()

    @torch.no_grad()
    def evaluate(self, episodes: int) -> float:
        """The mean return of the most probable actions in other episodes."""
        state = self._zeros(episodes)
        starts = torch.zeros(1, episodes, dtype=torch.bool, device=self.device)

        def act(observation: NDArray[Any]) -> NDArray[Any]:
            nonlocal state
            choice, _, state = self.agent(self._symbols(observation).unsqueeze(0), starts, state)
            return choice.mode[0].cpu().numpy()

        return mean_return(evaluation_env(self.job, episodes), act)

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
            self.symbols, self.starts = self._symbols(observation), self._tensor(ended)
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

    def _zeros(self, count: int) -> LSTMState:
        zeros = torch.zeros(1, count, self.job.width, device=self.device)
        return zeros, zeros

    def _symbols(self, observation: Any) -> Int[Tensor, "N C"]:
        array = np.asarray(observation)
        return self._tensor(array.reshape(len(array), -1))

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.as_tensor(array).to(self.device)
