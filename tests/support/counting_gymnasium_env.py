"""Gymnasium environments that count episodes and steps in their observations; two fail."""

from contextlib import contextmanager
from typing import ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

from envs import GymnasiumConfig, make_envs

LENGTH = 5

SPACES = {
    "box": spaces.Box(0, 1e6, (3,), np.float32),
    "image": spaces.Box(0, 255, (2, 4, 4), np.uint8),
    "discrete": spaces.Discrete(1000),
    "multi_discrete": spaces.MultiDiscrete([1000, 7]),
    "multi_binary": spaces.MultiBinary(6),
    "tuple": spaces.Tuple((spaces.Discrete(1000), spaces.Box(0, 1e6, (2,), np.float64))),
    "dict": spaces.Dict(
        {"b": spaces.MultiDiscrete([1000, 3]), "a": spaces.Dict({"c": spaces.Discrete(1000)})}
    ),
}
ACTIONS = {
    "discrete": spaces.Discrete(3),
    "multi_discrete": spaces.MultiDiscrete([3, 4]),
    "multi_binary": spaces.MultiBinary(3),
    "box": spaces.Box(-1, 1, (2,), np.float32),
}


def filled(space, number):
    """A member of the space that encodes ``number``."""
    if isinstance(space, spaces.Dict):
        return {key: filled(part, number) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(filled(part, number) for part in space.spaces)
    if isinstance(space, spaces.Discrete):
        return np.int64(number)
    if isinstance(space, spaces.MultiDiscrete):
        return number % space.nvec
    if isinstance(space, spaces.MultiBinary):
        return (number >> np.arange(space.n)).astype(np.int8) & 1
    return np.full(space.shape, number, space.dtype)


class CountingEnv(gymnasium.Env):
    """Observes 10 * e + t at time step t of episode e.

    An episode has LENGTH + seed steps. Odd episodes are truncated, even ones terminate with
    success. The action mask forbids action t mod 3.
    """

    metadata: ClassVar = {"render_modes": ["rgb_array"]}

    def __init__(self, observation="box", action="discrete", height=2, render_mode=None):
        self.observation_space = SPACES[observation]
        self.action_space = ACTIONS[action]
        self.render_mode = render_mode
        self.height = height
        self.episode = -1
        self.shown = np.zeros(self.observation_space.shape or (), self.observation_space.dtype)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        # vector environments seed later episodes with large numbers
        if seed is not None and seed < 1000:
            self.seed = seed
        self.episode += 1
        self.time = 0
        return self.show(), self.info()

    def step(self, action):
        assert self.action_space.contains(action), action
        self.time += 1
        last = self.time == LENGTH + self.seed
        even = self.episode % 2 == 0
        info = self.info() | ({"is_success": even} if last else {})
        return self.show(), self.seed + self.time / 10, last and even, last and not even, info

    def show(self):
        number = 10 * self.episode + self.time
        if self.observation_space is SPACES["box"]:
            # as a naive environment does: always the same array
            self.shown[:] = number
            return self.shown
        return filled(self.observation_space, number)

    def info(self):
        return {"action_mask": (np.arange(3) != self.time % 3).astype(np.int8)}

    def render(self):
        return np.full((self.height, 3, 3), self.seed, np.uint8)


class RaisingEnv(CountingEnv):
    def step(self, action):
        raise ZeroDivisionError("it broke")


class MisshapenEnv(CountingEnv):
    def show(self):
        return super().show()[: 3 - (self.time > 0)]


IDS = {"Counting-v0": CountingEnv, "Breaking-v0": RaisingEnv, "Shapeless-v0": MisshapenEnv}


@contextmanager
def registered_envs():
    """Register all classes under their Gymnasium ids for the duration of the context."""
    for env_id, made in IDS.items():
        gymnasium.register(env_id, made)
    yield
    for env_id in IDS:
        del gymnasium.registry[env_id]


def make_counting_envs(num_envs, workers=0, render=False, action_mask=False, **options):
    config = GymnasiumConfig(
        id="Counting-v0", options=options, workers=workers, action_mask=action_mask
    )
    return make_envs(config, num_envs, render=render)
