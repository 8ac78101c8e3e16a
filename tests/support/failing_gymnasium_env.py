"""A Gymnasium environment that fails once, in a chosen way."""

import os
import signal
import time
from contextlib import contextmanager

import gymnasium
import numpy as np
from gymnasium import spaces

from envs import GymnasiumConfig, make_envs

# the slot that fails, recognised by its seed, and the time step at which it fails
SLOT, ACTION = 1, 4
LENGTH = 6
# seeds of first episodes are smaller than this, those of later episodes are not
SLOTS = 1000


class FailingEnv(gymnasium.Env):
    """Observes the time step and random numbers; every episode has ``LENGTH`` steps."""

    observation_space = spaces.Dict({"a": spaces.Box(-9, 9, (2,)), "b": spaces.Discrete(100)})
    action_space = spaces.Discrete(3)

    def __init__(self, how=""):
        self.how = how
        # as a naive environment does: always the same array
        self.shown = np.zeros(2, np.float32)
        self.breaks = False

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if self.how == "never resets" and seed >= SLOTS:
            raise OSError("the simulator is not there")
        if self.how == "resets at times" and seed >= SLOTS and seed % 5 == 0:
            raise OSError("not this one")
        if self.how == "opens with nan" and seed >= SLOTS and seed % 5 == 0:
            return {"a": np.full(2, np.nan, np.float32), "b": 0}, {}
        if self.how == "opens misshapen" and seed >= SLOTS and seed % 5 == 0:
            return {"a": np.zeros(3, np.float32), "b": 0}, {}
        self.breaks = seed == SLOT
        self.time = 0
        return self.show(), {}

    def step(self, action):
        if self.how == "raise at once":
            divide()
        self.time += 1
        observation = self.show()
        reward = self.np_random.normal() + action
        if self.breaks and self.time == ACTION:
            # the observation is corrupt already
            self.shown[:] = 8
            if self.how in BREAKS:
                BREAKS[self.how]()
            if self.how == "nan":
                self.shown[1] = np.nan
            if self.how == "inf":
                reward = -np.inf
            if self.how in MISFITS:
                observation = MISFITS[self.how]
        return observation, reward, self.time == LENGTH, False, {"is_success": action == 1}

    def show(self):
        self.shown[:] = self.time, self.np_random.normal()
        return {"a": self.shown, "b": self.time}

    def close(self):
        if self.how == "close":
            raise RuntimeError("closed already")


def divide():
    raise ZeroDivisionError("it broke\nand this is the second line")


def interrupt():
    raise KeyboardInterrupt


def leave():
    raise SystemExit(2)


class PanicException(BaseException):
    """As a library in Rust raises it: no Exception."""


def panic():
    raise PanicException("index out of bounds")


BREAKS = {
    "panic": panic,
    "raise": divide,
    "interrupt": interrupt,
    "leave": leave,
    "exit": lambda: os._exit(3),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "hang": lambda: time.sleep(1000),
}

MISFITS = {
    "shape": {"a": np.zeros(3, np.float32), "b": 1},
    "key": {"b": 1},
    "nothing": None,
}


@contextmanager
def registered_envs():
    gymnasium.register("Faulty-v0", FailingEnv)
    yield
    del gymnasium.registry["Faulty-v0"]


def make_failing_envs(how="", workers=0, num_envs=4, worker_timeout=60.0):
    config = GymnasiumConfig(
        id="Faulty-v0", options={"how": how}, workers=workers, worker_timeout=worker_timeout
    )
    return make_envs(config, num_envs)
