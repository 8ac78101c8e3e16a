"""An environment whose answers a test chooses, and what it may choose."""

import decimal
from contextlib import contextmanager

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

LENGTH = 5
SHOWN = np.zeros(3, np.float32)


class PanicError(BaseException):
    """As a library in Rust raises it: no Exception."""


class Answering(gymnasium.Env):
    """Answers ``part`` as ``ANSWERS[part][kind]`` in its third step, or in each, or raises it."""

    observation_space = spaces.Box(-1, 1, (3,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, part="", kind="", always=False):
        self.part, self.kind, self.always = part, kind, always

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return SHOWN, {}

    def step(self, action):
        self.time += 1
        answer = {
            "observation": SHOWN,
            "reward": 1.0,
            "terminated": self.time >= LENGTH,
            "truncated": False,
            "info": {},
        }
        if self.part and (self.always or self.time == 3):
            value = ANSWERS[self.part][self.kind]
            if self.part == "raises":
                raise value
            if self.part == "step":
                return value
            answer[self.part] = value
        return tuple(answer.values())


# part -> kind -> what means a number or a flag
ACCEPTED = {
    "reward": {
        "array of one": np.array([1.0]),
        "array": np.array(1.0),
        "bool": np.bool_(True),
        "whole": 1,
        "decimal": decimal.Decimal("1.0"),
        "list": [1.0],
        "tensor": torch.tensor([1.0]),
        "float32": np.float32(1),
    },
    "terminated": {
        "bool": np.bool_(False),
        "array of one": np.array([False]),
        "whole": 0,
        "tensor": torch.tensor(False),
    },
    "truncated": {"float": 0.0, "array": np.array(False)},
    "info": {"mapping": spaces.Dict({}).spaces},
    "observation": {
        "list": [0.0, 0.0, 0.0],
        "float64": np.zeros(3),
        "tensor": torch.zeros(3),
        "whole": np.zeros(3, int),
        "beyond its bounds": np.full(3, 1.5),
    },
}

# part -> kind -> what is a fault
REFUSED = {
    "reward": {
        "nothing": None,
        "vector": np.array([1.0, 0.0]),
        "column": np.array([[1.0]]),
        "text": "1.0",
        "dictionary": {},
        "nan": np.nan,
        "infinite": -np.inf,
        "too large": 1e39,
        "far too large": 10**400,
        "complex": 1j,
    },
    "terminated": {"nothing": None, "two": 2, "vector": np.array([True, False]), "text": "True"},
    "truncated": {"nothing": None, "half": 0.5, "nan": np.nan, "list": []},
    "info": {"nothing": None, "list": [], "text": "fine"},
    "observation": {
        "nothing": None,
        "column": np.zeros((3, 1), np.float32),
        "row": np.zeros((1, 3), np.float32),
        "short": np.zeros(1, np.float32),
        "scalar": 0.0,
        "nan": np.array([0, np.nan, 0], np.float32),
        "too large": np.array([0, 1e300, 0]),
        "ragged": [0.0, [0.0]],
        "text": "abc",
        "dictionary": {"a": 1},
        "complex": np.zeros(3, complex),
    },
    "step": {
        "nothing": None,
        "old": (SHOWN, 1.0, False, {}),
        "six": (SHOWN, 1.0, False, False, {}, {}),
        "number": 1,
    },
    "raises": {
        "exit": SystemExit(),
        "zero": SystemExit(0),
        "panic": PanicError("index out of bounds"),
        "error": RuntimeError("it broke\nand this is the second line"),
    },
}
ANSWERS = {part: ACCEPTED.get(part, {}) | REFUSED.get(part, {}) for part in {*ACCEPTED, *REFUSED}}


@contextmanager
def registered_answers():
    gymnasium.register("Answering-v0", Answering)
    gymnasium.register("Limited-v0", Answering, max_episode_steps=50)
    yield
    del gymnasium.registry["Answering-v0"]
    del gymnasium.registry["Limited-v0"]
