"""Environments with a fault in their design, registered when this module is imported."""

import gymnasium
import numpy as np
from gymnasium import spaces


class Endless(gymnasium.Env):
    """A number that walks; no episode ever ends."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = 0.0
        return np.array([self.place], np.float32), {}

    def step(self, action):
        self.place = float(np.clip(self.place + 0.1 * (2 * action - 1), -1, 1))
        return np.array([self.place], np.float32), -abs(self.place), False, False, {}


class Blind(gymnasium.Env):
    """Twenty guesses of a number that the observation does not show."""

    observation_space = spaces.Box(-1, 1, (3,), np.float32)
    action_space = spaces.Discrete(4)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 20
        return np.zeros(3, np.float32), {}

    def step(self, action):
        self.left -= 1
        reward = float(action == self.np_random.integers(4)) - 0.25
        return np.zeros(3, np.float32), reward, self.left == 0, False, {}


gymnasium.register("Endless-v0", Endless)
gymnasium.register("Blind-v0", Blind)
