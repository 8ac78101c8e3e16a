"""A policy with NaN or infinity in it is named wherever it is loaded."""

import pytest
import torch
from command_line import run_command
from saved_runs import saved_run

from agents.saving import export_policy, list_checkpoints, load_policy
from agents.sb3 import load
from fwrl.files.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from fwrl.run.directory import read_run_config

# small policies; test_cli.py checks the shapes
pytestmark = pytest.mark.unchecked

NUMBERS = [float("nan"), float("inf"), -float("inf")]


def spoil(folder, file, name, number):
    """Save a checkpoint again with one number that is not finite, as whole as before."""
    content = load_checkpoint(folder)
    content.tensors[file][name].view(-1)[0] = number
    save_checkpoint(folder, content.tensors, content.document)


@pytest.mark.parametrize("number", NUMBERS)
def test_every_command_names_the_file_and_the_tensor(number, tmp_path, capsys):
    run = saved_run(tmp_path / "run")
    policy = load_policy(run)
    policy.value.weight.data[0, 0] = number
    config = read_run_config(run).model_dump(mode="json")
    exported = tmp_path / "exported.safetensors"
    export_policy(exported, policy, {"run": config, "steps": 7})
    spoil(run / "checkpoints/7", "policy", "value.weight", number)
    file = run / "checkpoints/7/policy.safetensors"
    commands = {
        "evaluate": (["evaluate", run, "--episodes", 1], file),
        "inspect": (["inspect", run], file),
        "export": (["export", run, tmp_path / "policy.safetensors"], file),
        "exported": (["evaluate", exported, "--episodes", 1], exported),
    }
    for name, (words, spoilt) in commands.items():
        assert run_command(*words) == 2, name
        assert capsys.readouterr().err == f"fwrl: {spoilt}: value.weight is not finite\n"
    for path in (run, exported):
        with pytest.raises(CheckpointError, match=r"value\.weight is not finite"):
            load(path)


@pytest.mark.parametrize(
    ("file", "name"),
    [("policy", "value.weight"), ("optimizer", "0.exp_avg"), ("process.0", "carry.")],
)
def test_a_continued_run_goes_on_from_what_is_finite(file, name, tmp_path, capsys):
    run = saved_run(tmp_path / "made", evaluation={"every_steps": 512, "episodes": 1})
    words = ["train", run / "config.yaml", "--run-dir", tmp_path / "run"]
    assert run_command(*words, "total_steps=512") == 0
    newest = list_checkpoints(tmp_path / "run")[-1]
    tensors = sorted(load_checkpoint(newest).tensors[file].items())
    real = {key: leaf for key, leaf in tensors if leaf.is_floating_point() and leaf.numel()}
    name = next(key for key in real if key.startswith(name))
    spoil(newest, file, name, torch.nan)
    assert run_command(*words, "total_steps=1024") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"skipped: {newest}: {name} is not finite" in said
    assert "continues at 0 steps" in said
