"""A Gymnasium environment that shows random members of any space, as an environment to train in."""

from contextlib import contextmanager
from copy import deepcopy

import gymnasium
import yaml
from gymnasium import spaces

ID = "Sampling-v0"
CONFIG = {
    "env": {"id": ID, "num_envs": 2},
    "stack": {"width": 8},
    "encoder": {"image_features": 8},
    "ppo": {"num_steps": 4, "epochs": 1, "minibatches": 1},
    "evaluation": {"episodes": 1, "num_envs": 1},
    "total_steps": 16,
}


class Sampling(gymnasium.Env):
    """An episode has five steps; ``seen`` and ``actions`` are set by ``sampling_from``."""

    seen = actions = None

    def __init__(self, render_mode=None):
        self.observation_space, self.action_space = deepcopy((self.seen, self.actions))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.time = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.time += 1
        return self.observation_space.sample(), float(self.time % 2), self.time == 5, False, {}


@contextmanager
def sampling_from(seen, actions=None):
    """Register the environment with these spaces."""
    Sampling.seen, Sampling.actions = seen, actions or spaces.Discrete(2)
    gymnasium.register(ID, Sampling)
    try:
        yield
    finally:
        del gymnasium.registry[ID]


def write_config(folder, **changes):
    path = folder / "sampling.yaml"
    path.write_text(yaml.safe_dump(CONFIG | changes))
    return path
