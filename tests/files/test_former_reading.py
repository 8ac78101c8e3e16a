"""A run from before observations were read by their bounds goes on as it was.

``golden/pictures`` is a run of 16 steps whose configuration lacks the keys, and the policy that its
version had after 32 steps.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from command_line import run_command
from gymnasium import spaces
from safetensors.torch import load_file
from sampling_env import sampling_from

from agents.encoders import EncoderConfig, reading
from agents.policy import PolicyConfig
from agents.saving import load_policy
from fwrl.config import ConfigError, as_stored, validate, validate_stored
from fwrl.files.checkpoint import load_checkpoint
from fwrl.run.config import RunConfig
from fwrl.run.directory import read_run_config

GOLDEN = Path(__file__).parents[1] / "golden/pictures"
SPACE = spaces.Dict(
    [
        ("planes", spaces.Box(0, 20, (3, 3, 4), np.uint8)),
        ("board", spaces.Box(0, 3, (4, 4), np.int64)),
        ("token", spaces.Discrete(1100)),
    ]
)
FORMER = {"channels": "before", "one_hot_up_to": 2**24}
READ = "planes: map of symbols 3 x 4, 3 channels, network grid; board: vector of 16; token: one of"


@pytest.fixture
def run(tmp_path):
    return shutil.copytree(GOLDEN / "run", tmp_path / "run")


def is_as_before(config):
    return {name: getattr(config.encoder, name) for name in FORMER} == FORMER


def test_it_goes_on_as_its_version_would_have(run, capsys):
    # twice: the configuration that it then has says what it had meant
    for steps in (24, 32):
        with sampling_from(SPACE):
            words = ["train", GOLDEN / "config.yaml", f"total_steps={steps}", "--run-dir", run]
            assert run_command(*words) == 0
        assert READ in " ".join(capsys.readouterr().out.split())
        assert is_as_before(read_run_config(run))
    found = load_checkpoint(run / "checkpoints/32").tensors["policy"]
    expected = load_file(GOLDEN / "expected.safetensors")
    assert found.keys() == expected.keys()
    for name, leaf in found.items():
        torch.testing.assert_close(leaf, expected[name], msg=name)


def test_every_command_reads_it_as_before(run, tmp_path):
    assert READ in reading(load_policy(run).encoder)
    with sampling_from(SPACE):
        assert run_command("evaluate", run, "--episodes", 1) == 0
        assert run_command("inspect", run) == 0
        assert run_command("export", run, tmp_path / "policy.safetensors") == 0
        assert run_command("evaluate", tmp_path / "policy.safetensors", "--episodes", 1) == 0
    assert is_as_before(load_policy(tmp_path / "policy.safetensors").config)


def test_what_is_said_counts_and_a_new_run_is_read_as_today(run, tmp_path, capsys):
    with sampling_from(SPACE):
        words = ["train", GOLDEN / "config.yaml", "total_steps=24"]
        assert run_command(*words, "encoder.channels=auto", "--run-dir", run) == 2
        assert "encoder.channels ('before' there, 'auto' here)" in capsys.readouterr().err
        assert run_command(*words, "--run-dir", tmp_path / "new") == 0
        assert not is_as_before(read_run_config(tmp_path / "new"))
        # a stored configuration that a user gives is a user's
        words = ["train", run / "config.yaml", "total_steps=24", "--run-dir", tmp_path / "newer"]
        assert run_command(*words) == 0
        assert not is_as_before(read_run_config(tmp_path / "newer"))
        assert run_command("train", run / "config.yaml", "--fresh", "--run-dir", run) == 0
        assert not is_as_before(read_run_config(run))


def test_absent_keys_of_stored_values():
    values = yaml.safe_load((GOLDEN / "run/config.yaml").read_text())
    assert is_as_before(validate_stored(RunConfig, values))
    assert not is_as_before(validate(RunConfig, values))
    del values["encoder"]
    assert is_as_before(validate_stored(RunConfig, values))
    assert is_as_before(validate_stored(PolicyConfig, {}))
    said = validate_stored(EncoderConfig, {"channels": "first"})
    assert said.channels == "first"
    for wrong in (None, 3, [], {"encoder": 3}, {"core": {"kind": []}}):
        with pytest.raises(ConfigError):
            validate_stored(RunConfig, wrong)


def test_a_stored_value_stays_only_if_it_is_the_former_one_and_nothing_is_said():
    stored, first = EncoderConfig(**FORMER), EncoderConfig(channels="first")
    assert as_stored(EncoderConfig(), stored) == stored
    assert as_stored(EncoderConfig(image="nature"), stored).image == "nature"
    assert as_stored(EncoderConfig(channels="auto"), stored).channels == "auto"
    assert as_stored(EncoderConfig(), first) == EncoderConfig()
    outer = as_stored(PolicyConfig(), PolicyConfig(encoder=stored))
    assert outer.encoder == stored
