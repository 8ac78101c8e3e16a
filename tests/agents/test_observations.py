"""The observations that predict takes, one or several: their shapes alone tell."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector.utils import batch_space

from agents.encoders import EncoderConfig
from agents.observations import read_observation
from agents.policy import PolicyConfig, RecurrentPolicy
from agents.sb3 import SB3Policy
from fwrl.stack import StackConfig
from fwrl.state import map_tensors

BOX = spaces.Box(-1, 1, (3,), np.float32)
SPACES = {
    "vector": BOX,
    "number": spaces.Box(-1, 1, (), np.float64),
    "half": spaces.Box(-1, 1, (2,), np.float16),
    "matrix": spaces.Box(-1, 1, (2, 3)),
    "integers": spaces.Box(-5, 5, (3,), np.int32),
    "booleans": spaces.Box(0, 1, (3,), np.bool_),
    "bytes": spaces.Box(0, 255, (4, 5, 3), np.uint8),
    "symbol": spaces.Discrete(4, start=-1),
    "symbols": spaces.MultiDiscrete([[3, 2], [4, 1]]),
    "bits": spaces.MultiBinary((2, 3)),
}
SPACES["dictionary"] = spaces.Dict(v=BOX, k=spaces.Discrete(4))
SPACES["tuple"] = spaces.Tuple([spaces.Discrete(3, start=1), SPACES["number"], SPACES["bits"]])
SPACES["nested"] = spaces.Dict(x=SPACES["tuple"], y=SPACES["dictionary"])
FORMS = {
    "float64": lambda leaf: np.asarray(leaf, np.float64),
    "int64 where whole": lambda leaf: np.asarray(leaf, np.int64) if whole(leaf) else leaf,
    "int32 where whole": lambda leaf: np.asarray(leaf, np.int32) if whole(leaf) else leaf,
    "list": lambda leaf: np.asarray(leaf).tolist(),
    "tensor": lambda leaf: torch.as_tensor(np.asarray(leaf)),
}


def whole(leaf):
    return np.asarray(leaf).dtype.kind in "biu"


def each(function, tree):
    if isinstance(tree, dict):
        return {key: each(function, part) for key, part in tree.items()}
    if isinstance(tree, tuple):
        return tuple(each(function, part) for part in tree)
    return function(tree)


def model_of(space):
    torch.manual_seed(0)
    encoder = EncoderConfig(previous_reward=False, image_features=8)
    config = PolicyConfig(encoder=encoder, stack=StackConfig(width=8))
    policy = RecurrentPolicy(space, spaces.Discrete(9), config)
    policy.head.linear.weight.data.mul_(100)
    return SB3Policy(policy)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", SPACES)
def test_any_form_of_an_observation_is_predicted_like_its_own(name, form):
    space = SPACES[name]
    space.seed(0)
    batch = batch_space(space, 3)
    batch.seed(0)
    model = model_of(space)
    for sample, single in ((space.sample(), True), (batch.sample(), False)):
        observation = each(np.asarray, sample)
        action, state = model.predict(observation, deterministic=True)
        other = each(FORMS[form], observation)
        again, _ = model.predict(other, deterministic=True)
        assert np.shape(action) == (() if single else (3,))
        assert np.array_equal(again, action)
        later, _ = model.predict(other, state, deterministic=True)
        assert np.shape(later) == np.shape(action)
        assert read_observation(space, other)[1] == single


def test_numbers_a_little_out_of_bounds_are_still_an_observation():
    model = model_of(SPACES["dictionary"])
    seen = {"v": [1.5, -3.0, 0.0], "k": np.int32(3), "more": "is left out"}
    assert np.shape(model.predict(seen)[0]) == ()
    assert np.shape(model.predict({"v": [[1.5, -3.0, 0.0]], "k": [3]})[0]) == (1,)


REFUSED = {
    "vector": {
        "is of shape [2]; it should be [3] or [N, 3]": np.zeros(2),
        "is of shape [1, 1, 3]": np.zeros((1, 1, 3)),
        "is nan; it should be finite": [0, np.nan, 0],
        "is 1e+39; it should be finite": [0, 1e39, 0],
        "is a str; it should be an array of numbers": "abc",
        "is a list; it should be an array of numbers": [[1, 2, 3], [1]],
        "is a NoneType": None,
    },
    "bytes": {
        "is 0.5; it should be": np.full((4, 5, 3), 0.5),
        "is 256; it should be": np.full((4, 5, 3), 256),
        "is -1; it should be": np.full((4, 5, 3), -1),
    },
    "symbol": {
        "is 3; it should be": 3,
        "is -2; it should be": [0, -2],
        "is 0.5; it should be": 0.5,
        "is nan; it should be": np.nan,
    },
    "symbols": {
        "is 5; it should be": [[0, 0], [5, 0]],
        "is of shape [2]; it should be [2, 2] or [N, 2, 2]": [0, 0],
    },
    "bits": {"is 2; it should be": np.full((2, 3), 2)},
    "dictionary": {
        "is a ndarray; it should be a dictionary with v, k": np.zeros(3),
        "is a dict; it should be a dictionary with v, k": {"v": np.zeros(3)},
        "'k' is 4; it should be": {"v": np.zeros(3), "k": 4},
        "of different environments: v a single one, k 2 of them": {"v": np.zeros(3), "k": [1, 1]},
        "of different environments: v 3 of them, k 2 of": {"v": np.zeros((3, 3)), "k": [1, 1]},
    },
    "tuple": {"is a tuple; it should be a tuple of 3 parts": (1, 0.0)},
    "nested": {"observation 'x.0' is 0; it": {"x": (0, 0, 0), "y": None}},
}


@pytest.mark.parametrize(
    ("name", "message"), [(name, message) for name, each in REFUSED.items() for message in each]
)
def test_what_is_no_observation_is_refused_in_one_line(name, message):
    with pytest.raises(ValueError, match="observation") as error:
        model_of(SPACES[name]).predict(REFUSED[name][message])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_of_another_number_of_environments_is_refused():
    model = model_of(BOX)
    _, state = model.predict(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="state is of 2 environments, the observation of 3"):
        model.predict(np.zeros((3, 3)), state)
    with pytest.raises(ValueError, match="episode_start is of 3 environments"):
        model.predict(np.zeros((2, 3)), state, np.ones(3, bool))
    one, _ = model.predict(np.zeros(3), map_tensors(lambda leaf: leaf[:1], state), np.array(True))
    assert np.shape(one) == ()
