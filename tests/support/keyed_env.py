"""A Gymnasium environment whose spaces can be changed between two processes of a run."""

from contextlib import contextmanager

import gymnasium
import numpy as np
from gymnasium import spaces

ID = "Keyed-v0"
KEYS = ("lidar", "speed", "goal", "inner")
NUMBERS = spaces.Box(-1, 1, (2,), np.float32)
INNER = spaces.Dict([("z", spaces.Discrete(3, start=1)), ("a", spaces.Box(0, 9, (3,), np.int64))])
PARTS = {"lidar": NUMBERS, "speed": NUMBERS, "goal": NUMBERS, "inner": INNER}


class Keyed(gymnasium.Env):
    """An episode has seven steps; the sign of ``goal`` is the right action."""

    parts = PARTS
    actions = spaces.Discrete(2)

    def __init__(self, render_mode=None):
        self.observation_space = spaces.Dict(list(self.parts.items()))
        self.action_space = self.actions

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.show(), {}

    def step(self, action):
        reward = float(np.all(action == self.right))
        self.time += 1
        return self.show(), reward, self.time == 7, False, {}

    def show(self):
        self.right = int(self.np_random.integers(2))
        numbers = {key: self.np_random.uniform(-1, 1, 2).astype(np.float32) for key in KEYS[:3]}
        inner = {
            "a": self.np_random.integers(0, 10, 3),
            "z": np.int64(self.np_random.integers(1, 4)),
        }
        shown = numbers | {"goal": np.full(2, 2 * self.right - 1, np.float32), "inner": inner}
        return {key: shown.get(key, 0) for key in self.observation_space}


@contextmanager
def keyed_env(parts=PARTS, actions=Keyed.actions):
    """Register the environment with these parts, in this order."""
    Keyed.parts, Keyed.actions = parts, actions
    gymnasium.register(ID, Keyed)
    try:
        yield
    finally:
        del gymnasium.registry[ID]
