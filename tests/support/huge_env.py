"""A Gymnasium environment with huge, finite numbers, which refuses actions outside their space."""

from contextlib import contextmanager

import gymnasium
import numpy as np
from gymnasium import spaces

ID = "Huge-v0"
MOST = {np.dtype(each): float(np.finfo(each).max) for each in (np.float32, np.float64)}


def unbounded(dtype):
    return spaces.Box(-np.inf, np.inf, (3,), dtype)


SEEN = {
    "float32": unbounded(np.float32),
    "float64": unbounded(np.float64),
    "int64": spaces.Box(np.iinfo(np.int64).min, np.iinfo(np.int64).max, (3,), np.int64),
    "parts": spaces.Dict(x=unbounded(np.float32), y=spaces.Tuple([unbounded(np.float64)])),
    "picture": spaces.Box(0, 1, (16, 16), np.float32),
}
ACTIONS = {
    "discrete": spaces.Discrete(3, start=1),
    "factors": spaces.MultiDiscrete([2, 3]),
    "half": spaces.Box(-np.inf, np.inf, (2,), np.float16),
    "unbounded": spaces.Box(-np.inf, np.inf, (2,), np.float32),
    "one side": spaces.Box(-1, np.inf, (2,), np.float64),
    "farthest": spaces.Box(-1.7e308, 1.7e308, (2,), np.float64),
    "farthest float32": spaces.Box(-3.4e38, 3.4e38, (2,), np.float32),
    "point": spaces.Box(2, 2, (2,), np.float32),
}


def filled(space, numbers):
    """A member of the space made of three numbers as far as it can hold them."""
    if isinstance(space, spaces.Dict):
        return {key: filled(part, numbers) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(filled(part, numbers) for part in space.spaces)
    if space.dtype.kind == "i":
        return np.clip(numbers, -9e18, 9e18).astype(space.dtype)
    most = MOST[space.dtype]
    return np.resize(np.clip(numbers, -most, most), space.shape).astype(space.dtype)


class Huge(gymnasium.Env):
    """An episode has five steps; the numbers are set by ``huge_env``."""

    seen = actions = None
    magnitude = reward = 1.0

    def __init__(self, render_mode=None):
        self.observation_space, self.action_space = self.seen, self.actions

    def show(self):
        return filled(self.seen, self.np_random.standard_normal(3) * self.magnitude)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.show(), {}

    def step(self, action):
        assert np.isfinite(action).all()
        assert self.action_space.contains(action), action
        self.time += 1
        most = MOST[np.dtype(np.float32)]
        reward = float(np.clip(self.np_random.standard_normal() * self.reward, -most, most))
        return self.show(), reward, self.time == 5, False, {}


@contextmanager
def huge_env(seen, actions, magnitude, reward):
    """Register the environment with these spaces and magnitudes."""
    Huge.seen, Huge.actions = seen, actions
    Huge.magnitude, Huge.reward = magnitude, reward
    gymnasium.register(ID, Huge)
    try:
        yield
    finally:
        del gymnasium.registry[ID]
