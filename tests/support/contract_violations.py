"""Gymnasium environments that each violate the contract once, made from a sound one."""

from contextlib import contextmanager

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from envs.tasks import RepeatFirst, TaskVectorEnv, make_env

LENGTH = 7


class Sound(gymnasium.Env):
    """Observes the time step and a random number; an episode has ``LENGTH`` steps."""

    observation_space = spaces.Dict(
        {"time": spaces.Discrete(20), "noise": spaces.Box(-1, 1, (2,), np.float32)}
    )
    action_space = spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.show(), {}

    def step(self, action):
        self.time += 1
        reward = float(self.draw() + action)
        return self.show(), reward, self.time == LENGTH, False, {}

    def show(self):
        return {"time": self.time, "noise": np.array([self.draw(), 0], np.float32)}

    def draw(self):
        return self.np_random.uniform(-1, 1)


class BeyondItsSpace(Sound):
    def show(self):
        return super().show() | {"time": self.time + 14}


class OfAnotherType(Sound):
    def show(self):
        return super().show() | {"noise": np.zeros(2)}


class OfAnotherShape(Sound):
    def show(self):
        return super().show() | {"noise": np.zeros(3, np.float32)}


class WithoutAKey(Sound):
    def show(self):
        return {"noise": np.zeros(2, np.float32), "clock": 1, "time": 1}


class PaysNaN(Sound):
    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, np.nan if self.time == 3 else reward, *rest


class ShowsInfinity(Sound):
    def show(self):
        shown = super().show()
        if self.time == 0 and shown["noise"][0] > 0.8:
            shown["noise"][1] = np.inf
        return shown


class EndsInNumbers(Sound):
    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, int(terminated), truncated, info


class PaysAList(Sound):
    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, np.array([reward], np.float32), *rest


class WithoutAnInfo(Sound):
    def step(self, action):
        *answer, _ = super().step(action)
        return *answer, None


class OfOldGym(Sound):
    def step(self, action):
        observation, reward, terminated, _, info = super().step(action)
        return observation, reward, terminated, info


class Leaves(Sound):
    def step(self, action):
        if self.time == 3:
            raise SystemExit(1)
        return super().step(action)


class OneArrayForEver(Sound):
    def __init__(self):
        self.noise = np.zeros(2, np.float32)

    def show(self):
        self.noise[0] = self.draw()
        return {"time": self.time, "noise": self.noise}


class OneArrayForAll(Sound):
    noise = np.zeros(2, np.float32)

    def show(self):
        self.noise[0] = self.draw()
        return {"time": self.time, "noise": self.noise}


class WritesIntoActions(Sound):
    action_space = spaces.Box(-1, 1, (2,), np.float32)

    def step(self, action):
        action *= 0.5
        observation, _, *rest = super().step(0)
        return observation, float(action.sum()), *rest


class OfItsOwnChance(Sound):
    def draw(self):
        return np.random.default_rng().uniform(-1, 1)


class OfTheGlobalChance(Sound):
    def reset(self, *, seed=None, options=None):
        np.random.seed(seed)  # noqa: NPY002
        return super().reset(seed=seed)

    def draw(self):
        return np.random.uniform(-1, 1)  # noqa: NPY002


class IgnoresItsSeed(Sound):
    def __init__(self):
        self.generator = np.random.default_rng(0)

    def draw(self):
        return self.generator.uniform(-1, 1)


class Remembers(Sound):
    """Keeps the last reward of an episode and adds it to a reward of the next episode."""

    left = 0.0

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        paid = self.left if self.time == 2 else 0.0
        if terminated:
            self.left = reward
        return observation, reward + paid, terminated, truncated, info


class ShowsWhatItRemembers(Sound):
    """Keeps a sum of last actions over episodes and shows it in observations."""

    left = 0

    def step(self, action):
        answer = super().step(action)
        self.left = self.left + action if self.time == LENGTH else self.left
        return answer

    def show(self):
        shown = super().show()
        shown["noise"][1] = np.sin(self.left) if self.time == 4 else 0
        return shown


class Raises(Sound):
    def step(self, action):
        if self.time == 4 and action == 2:
            raise ZeroDivisionError("it broke")
        return super().step(action)


class RaisesInReset(Sound):
    def reset(self, *, seed=None, options=None):
        if seed > 1:
            raise OSError("no more")
        return super().reset(seed=seed)


class ForbidsAll(Sound):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0], {"action_mask": np.ones(3, np.int8)}

    def step(self, action):
        *answer, _ = super().step(action)
        return *answer, {"action_mask": np.full(3, self.time != 5, np.int8)}


class Masks(ForbidsAll):
    """Masks all actions but one, and fails if another one is chosen."""

    def mask(self):
        return {"action_mask": (np.arange(3) == self.time % 3).astype(np.int8)}

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0], self.mask()

    def step(self, action):
        assert action == self.time % 3
        *answer, _ = super().step(action)
        return *answer, self.mask()


class WithSuccess(Sound):
    def step(self, action):
        *answer, _ = super().step(action)
        return *answer, {"is_success": action == 1}


class WrongFinal(TaskVectorEnv):
    """Gives the first observation of the next episode as the final observation."""

    def step(self, actions):
        observation, reward, terminated, truncated, info = super().step(actions)
        if "final_obs" in info:
            info["final_obs"] = observation
        return observation, reward, terminated, truncated, info


class WrongNext(TaskVectorEnv):
    """Gives the final observation again where the next episode has begun."""

    def step(self, actions):
        observation, reward, terminated, truncated, info = super().step(actions)
        return info.get("final_obs", observation), reward, terminated, truncated, info


class Forgets(TaskVectorEnv):
    """Restores a state but not its random generators."""

    def restore(self, state):
        chance = self._generators
        shown = super().restore(state)
        self._generators = chance
        return shown


VECTORS = {"WrongFinal": WrongFinal, "WrongNext": WrongNext, "Forgets": Forgets}


def make_vector(vector, task, num_envs):
    envs = VECTORS[vector](RepeatFirst(num_envs=num_envs))
    envs.metadata = {**envs.metadata, "autoreset_mode": AutoresetMode.SAME_STEP}
    return envs


def make_single(vector, task):
    return make_env(task)


def with_subclasses(made):
    return [made, *(each for below in made.__subclasses__() for each in with_subclasses(below))]


@contextmanager
def registered_envs():
    """Each class under ``<its name>-v0``, the batched ones under ``fwrl/<its name>-v0``."""
    ids = []
    for made in with_subclasses(Sound):
        gymnasium.register(f"{made.__name__}-v0", made)
        ids.append(f"{made.__name__}-v0")
    for name in VECTORS:
        gymnasium.register(
            f"fwrl/{name}-v0",
            make_single,
            vector_entry_point=make_vector,
            kwargs={"task": "RepeatFirst", "vector": name},
        )
        ids.append(f"fwrl/{name}-v0")
    yield ids
    for env_id in ids:
        del gymnasium.registry[env_id]
