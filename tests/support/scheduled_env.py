"""Vector environments with scheduled episodes, observed as (slot, episode, step)."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from gymnasium import spaces
from mixed_stacks import core_of

from agents.policy import PolicyConfig, RecurrentPolicy
from fwrl.stack import StackConfig


class ScheduledStep(NamedTuple):
    observation: object
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    final_observation: object
    success: np.ndarray | None
    faults: Mapping[int, str] = MappingProxyType({})
    vacant: np.ndarray | None = None


class ScheduledEnv:
    """Slot n plays ``episodes[n]``, a list of (length, ending), again and again for any action.

    The ending ``t`` terminates, ``c`` truncates, ``b`` does both at once.
    """

    def __init__(
        self, episodes, num_actions=3, nest=None, space=None, actions=None, says_success=False
    ):
        self.episodes = episodes
        self.num_envs = len(episodes)
        self.nest = nest or (lambda rows: rows)
        self.observation_space = space or spaces.Box(-1e6, 1e6, (3,))
        self.action_space = actions or spaces.Discrete(num_actions)
        self.render_fps = 30.0
        self.says_success = says_success
        self.actions, self.seeds = [], []
        self.episode = np.zeros(self.num_envs, int)
        self.steps = np.zeros(self.num_envs, int)

    def reset(self, seed=None):
        self.seeds.append(seed)
        self.episode[:] = 0
        self.steps[:] = 0
        return self._observation()

    def step(self, action):
        self.actions.append(np.array(action))
        self.steps += 1
        reward = np.array([reward_of(*row) for row in self._rows()], np.float32)
        plans = [plan[e % len(plan)] for plan, e in zip(self.episodes, self.episode, strict=True)]
        ended = self.steps == [length for length, _ in plans]
        terminated = ended & [how in "tb" for _, how in plans]
        truncated = ended & [how in "cb" for _, how in plans]
        final = self._observation() if ended.any() else None
        success = self.episode % 2 == 0 if self.says_success and ended.any() else None
        self.episode += ended
        self.steps[ended] = 0
        return ScheduledStep(self._observation(), reward, terminated, truncated, final, success)

    def render(self):
        return None

    def state(self):
        exact = np.ones(self.num_envs, bool)
        return {"episode": self.episode.copy(), "steps": self.steps.copy(), "exact": exact}

    def snapshot(self):
        state = self.state()
        return lambda: state

    def restore(self, state):
        self.episode, self.steps = state["episode"].copy(), state["steps"].copy()
        return np.zeros(self.num_envs, bool), self._observation()

    def close(self):
        pass

    def _rows(self):
        return np.stack([np.arange(self.num_envs), self.episode, self.steps], 1)

    def _observation(self):
        return self.nest(self._rows().astype(np.float32))


def reward_of(slot, episode, step):
    """The reward of the step that leads to ``step``: different everywhere, sometimes negative."""
    return float(np.sin(1.0 + 3.0 * slot + 1.7 * episode + 0.9 * step) * 2.0)


# contain episodes of length one and all endings; no two slots are alike
EPISODES = [
    [(3, "t"), (2, "c"), (1, "c")],
    [(1, "t"), (4, "c"), (2, "b")],
    [(5, "c"), (1, "c"), (3, "t")],
    [(7, "t"), (2, "t")],
]


def small_policy(envs, kind="fast_weight", gain=50.0, **parts):
    """A policy whose actions and values depend strongly on its past observations."""
    parts = {"stack": StackConfig(width=16)} | parts
    config = PolicyConfig(core=core_of(kind), **parts)
    policy = RecurrentPolicy(envs.observation_space, envs.action_space, config)
    policy.head.linear.weight.data.mul_(gain)
    return policy
