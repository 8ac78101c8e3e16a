"""PettingZoo environments of many agents: two of memory, and one where agents come and go."""

from contextlib import contextmanager
from typing import ClassVar

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv, parallel_registry, register

# who is there at which times: from, to (the last observation), and how it ends
LIVES = {
    "ann": [(0, 2, "terminated"), (5, 9, "terminated")],
    "bob": [(0, 9, "truncated")],
    "cid": [(3, 6, "truncated")],
}


class Cue(ParallelEnv):
    """Each agent is told left or right at first, and asked for it at last; others tell nothing.

    Together they earn 1 if all are right; as rivals each who is right takes a share from each who
    is wrong.
    """

    metadata: ClassVar = {"name": "cue"}

    def __init__(self, delay=6, rivals=False, render_mode=None):
        self.possible_agents, self.agents = ["ann", "bob"], []
        self.delay, self.rivals, self.render_mode = delay, rivals, render_mode
        self.generator = np.random.default_rng()

    def observation_space(self, agent):
        return spaces.Discrete(4)

    def action_space(self, agent):
        return spaces.Discrete(2)

    def reset(self, seed=None, options=None):
        if seed is not None:
            self.generator = np.random.default_rng(seed)
        self.agents, self.time = self.possible_agents[:], 0
        self.cue = {agent: int(self.generator.integers(2)) for agent in self.agents}
        return dict(self.cue), {agent: {} for agent in self.agents}

    def step(self, actions):
        self.time += 1
        agents, last = self.agents, self.time > self.delay
        right = {agent: last and actions[agent] == self.cue[agent] for agent in agents}
        share = sum(right.values()) / len(agents)
        rewards = {
            a: (right[a] - share if self.rivals else float(share == 1)) if last else 0.0
            for a in agents
        }
        self.agents = [] if last else agents
        seen = dict.fromkeys(agents, 3 if self.time == self.delay else 2)
        infos = {agent: {"is_success": bool(right[agent])} for agent in agents}
        ends, goes_on = dict.fromkeys(agents, last), dict.fromkeys(agents, False)
        return seen, rewards, ends, goes_on, infos


class Comings(ParallelEnv):
    """Agents come and go by ``LIVES``; what one sees is its number, the time, and a draw."""

    metadata: ClassVar = {"name": "comings", "render_fps": 7}

    def __init__(self, masked="", broken="", render_mode=None):
        self.possible_agents, self.agents = list(LIVES), []
        self.masked, self.broken, self.render_mode = masked, broken, render_mode

    def observation_space(self, agent):
        numbers = spaces.Box(-1, 20, (3,), np.float32)
        if self.masked != "observation":
            return numbers
        mask = spaces.Box(0, 1, (4,), np.int8)
        return spaces.Dict({"observation": numbers, "action_mask": mask})

    def action_space(self, agent):
        return spaces.Discrete(4)

    def lives(self, agent):
        return next((life for life in LIVES[agent] if life[0] <= self.time <= life[1]), None)

    def seen(self, agent):
        number = self.possible_agents.index(agent)
        draw = self.generator.uniform()
        seen = np.array([number, self.time, draw], np.float32)
        mask = np.array([1, 0, number > 0, 0], np.int8)
        info = {"action_mask": mask} if self.masked == "info" else {}
        whole = {"observation": seen, "action_mask": mask}
        return (whole if self.masked == "observation" else seen), info

    def both(self, agents):
        pairs = {agent: self.seen(agent) for agent in agents}
        return tuple({agent: pair[i] for agent, pair in pairs.items()} for i in (0, 1))

    def reset(self, seed=None, options=None):
        self.generator, self.time = np.random.default_rng(seed), 0
        self.agents = [agent for agent in LIVES if self.lives(agent)]
        return self.both(self.agents)

    def step(self, actions):
        assert actions.keys() == set(self.agents)
        if self.broken == "raises" and self.time == 4:
            raise RuntimeError("a wheel came off")
        self.time += 1
        acted, there = self.agents, [agent for agent in LIVES if self.lives(agent)]
        ends = {agent: self.lives(agent)[2] for agent in there if self.lives(agent)[1] == self.time}
        self.agents = [agent for agent in there if agent not in ends]
        observations, infos = self.both(there)
        rewards = {agent: float(actions[agent] + 10 * self.time) for agent in acted}
        flags = [
            {agent: ends.get(agent) == kind for agent in acted}
            for kind in ("terminated", "truncated")
        ]
        if self.broken == "vanishes" and self.time == 2:
            flags[0]["ann"] = False
        if self.broken == "stranger" and self.time == 2:
            self.agents = [*self.agents, "zoe"]
        if self.broken == "silent" and self.time == 2:
            del observations["bob"]
        return observations, rewards, *flags, infos

    def render(self):
        return np.full((4, 5, 3), self.time, np.uint8)


@contextmanager
def registered():
    """Register the environments as ``cue-v0`` and ``comings-v0``."""
    ids = {"cue-v0": Cue, "comings-v0": Comings}
    for env_id, env in ids.items():
        register("parallel", env_id, env)
    try:
        yield
    finally:
        for env_id in ids:
            del parallel_registry[env_id]
