"""Checkpoints of every format that was ever written stay readable, and act as they acted.

A folder of ``golden`` holds what the saver of its day wrote after 32 steps of training with the
``config.yaml`` beside it, and what the policy made of the same input twice.
"""

import json
from pathlib import Path

import pytest
import torch

from agents.policy import PolicyInput
from agents.saving import load_policy, read_exported
from fwrl.config import validate_stored
from fwrl.files.checkpoint import FORMAT, READERS, load_checkpoint, verify_checkpoint
from fwrl.run.config import RunConfig
from fwrl.run.yaml_files import read_yaml

GOLDEN = Path(__file__).parents[1] / "golden"
# an optimiser's two moments and its count of updates, for each parameter
MOMENTS = 3


@torch.no_grad()
def two_steps(policy):
    inputs = PolicyInput(
        torch.tensor([3]), torch.tensor([[1]]), torch.tensor([0.5]), torch.tensor([4])
    )
    state, log_probs, value = policy.initial_state(1), [], []
    for _ in range(2):
        output, state = policy.step(inputs, state)
        log_probs.append(output.action.log_probs.flatten().tolist())
        value += output.value.tolist()
    return {"log_probs": log_probs, "value": value}


def acts_as_expected(policy, folder):
    expected = json.loads((folder / "expected.json").read_text())
    for name, numbers in two_steps(policy).items():
        torch.testing.assert_close(torch.tensor(numbers), torch.tensor(expected[name]))


def test_every_format_has_its_folder():
    assert {path.name for path in GOLDEN.glob("format-*")} == {
        f"format-{number}" for number in READERS
    }
    assert max(READERS) == FORMAT


@pytest.mark.parametrize("number", READERS)
def test_a_checkpoint_of_any_format_acts_as_it_acted(number):
    folder = GOLDEN / f"format-{number}"
    checkpoint = folder / "checkpoint"
    assert json.loads((checkpoint / "manifest.json").read_text())["format"] == number
    verify_checkpoint(checkpoint)
    policy = load_policy(checkpoint)
    acts_as_expected(policy, folder)
    content = load_checkpoint(checkpoint)
    assert content.document["counters"]["steps"] == 32
    assert content.tensors.keys() >= {"policy", "optimizer", "generators"}
    assert len(content.tensors["optimizer"]) == MOMENTS * len(list(policy.parameters()))
    written = validate_stored(RunConfig, read_yaml(folder / "config.yaml"))
    assert written.policy == policy.config


def test_an_exported_file_acts_as_it_acted():
    path = GOLDEN / "format-2" / "exported.safetensors"
    acts_as_expected(load_policy(path), path.parent)
    assert read_exported(path)["steps"] == 32
