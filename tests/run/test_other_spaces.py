"""A trained policy meets an environment whose spaces are other ones, or come in another order."""

import hashlib
import shutil

import gymnasium
import numpy as np
import pytest
import torch
from command_line import InterruptAt, run_command
from gymnasium import spaces
from keyed_env import ID, INNER, NUMBERS, PARTS, keyed_env
from sampling_env import CONFIG, write_config

from agents.rollout import start
from agents.saving import list_checkpoints, load_policy
from agents.sb3 import SB3Policy
from envs import GymnasiumConfig, make_envs
from envs.sb3 import to_sb3
from fwrl.config import ConfigError
from fwrl.files.checkpoint import load_checkpoint

# the same training again and again; test_cli.py checks its shapes
pytestmark = pytest.mark.unchecked

REVERSED = dict(reversed(PARTS.items())) | {
    "inner": spaces.Dict(list(reversed(INNER.spaces.items())))
}
OTHERS = {
    "bounds": PARTS | {"speed": spaces.Box(-1, 2, (2,), np.float32)},
    "shape": PARTS | {"speed": spaces.Box(-1, 1, (1, 2), np.float32)},
    "type": PARTS | {"speed": spaces.Box(-1, 1, (2,), np.float64)},
    "kind": PARTS | {"speed": spaces.MultiBinary(2)},
    "new part": {**PARTS, "sound": NUMBERS},
    "missing part": {key: PARTS[key] for key in ("goal", "inner", "lidar")},
    "renamed part": {key.replace("speed", "spead"): part for key, part in PARTS.items()},
    "symbols": PARTS | {"inner": spaces.Dict({**INNER.spaces, "z": spaces.Discrete(4, start=1)})},
    "first symbol": PARTS | {"inner": spaces.Dict({**INNER.spaces, "z": spaces.Discrete(3)})},
    "tuple": PARTS | {"inner": spaces.Tuple(INNER.spaces.values())},
}
ACTIONS = {
    "actions": spaces.Discrete(3),
    "first action": spaces.Discrete(2, start=1),
    "factors": spaces.MultiDiscrete([2]),
}
CASES = {name: (parts, spaces.Discrete(2)) for name, parts in OTHERS.items()} | {
    name: (PARTS, actions) for name, actions in ACTIONS.items()
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    values = {"env": CONFIG["env"] | {"id": ID}, "ppo": CONFIG["ppo"] | {"num_steps": 8}}
    config = write_config(folder, **values, total_steps=64)
    with keyed_env():
        assert run_command("train", config, "--run-dir", folder / "run") == 0
        shutil.copytree(folder / "run", folder / "on")
        assert run_command("train", config, "total_steps=128", "--run-dir", folder / "on") == 0
    return config, folder


@pytest.fixture
def run(trained, tmp_path):
    shutil.copytree(trained[1] / "run", tmp_path / "run")
    return tmp_path / "run"


def content(run):
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in run.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def state(run):
    tensors = load_checkpoint(list_checkpoints(run)[-1]).tensors
    del tensors["metrics"]
    return {f"{file}/{name}": leaf for file, each in tensors.items() for name, leaf in each.items()}


def differing(one, other):
    assert one.keys() == other.keys()
    # NaN stands for no pending random number
    numbers = {name: (leaf.nan_to_num(), other[name].nan_to_num()) for name, leaf in one.items()}
    return [name for name, pair in numbers.items() if not torch.equal(*pair)]


def test_a_run_goes_on_exactly_with_its_keys_in_another_order(trained, run, capsys):
    config, folder = trained
    words = ["train", config, "total_steps=128", "--run-dir", run]
    with keyed_env(REVERSED), InterruptAt(21):
        assert run_command(*words) == 75
    with keyed_env():
        assert run_command(*words) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("bit for bit") == 2
    assert "not bit for bit" not in said
    assert not differing(state(run), state(folder / "on"))


def test_an_evaluation_matches_keys_by_name(run, capsys):
    returns = []
    for parts in (PARTS, REVERSED):
        with keyed_env(parts):
            assert run_command("evaluate", run, "--episodes", 5, "--json") == 0
            returns.append(capsys.readouterr().out)
    assert returns[0] == returns[1]


@pytest.mark.parametrize("other", CASES)
def test_other_spaces_are_refused_and_the_run_stays_as_it_was(other, trained, run, capsys):
    before = content(run)
    commands = {
        "continuing": ["train", trained[0], "total_steps=128", "--run-dir", run],
        "evaluating": ["evaluate", run, "--episodes", 1],
        "inspecting": ["inspect", run],
    }
    for name, words in commands.items():
        with keyed_env(*CASES[other]):
            assert run_command(*words) == 2, name
        error = capsys.readouterr().err
        assert error.startswith("fwrl: ")
        assert " than the policy was trained with: " in error
        assert error.count("\n") == 1
    after = content(run)
    assert {path: after[path] for path in before} == before
    assert {path.name for path in after.keys() - before.keys()} <= {"evaluations"}


@pytest.mark.parametrize("other", CASES)
def test_every_way_to_play_compares_spaces(other, run):
    policy = load_policy(run)
    with keyed_env(*CASES[other]):
        envs = make_envs(GymnasiumConfig(id=ID), 1)
        with pytest.raises(ConfigError, match="than the policy was trained with"):
            start(envs, policy, 0)
        with pytest.raises(ValueError, match="than the policy was trained with"):
            SB3Policy(policy).watch(to_sb3(envs))
    with keyed_env(REVERSED):
        assert start(make_envs(GymnasiumConfig(id=ID), 1), policy, 0)
        assert isinstance(gymnasium.make(ID).observation_space, spaces.Dict)
