"""Counters that no training counts to, and a folder of checkpoints that is a link."""

import json
import shutil

import pytest
from command_line import run_command
from hostile_files import honest_file
from kill_and_resume import write_config

from fwrl.files.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from fwrl.files.tensor_files import from_bytes, to_bytes
from fwrl.run.evaluation import steps_of
from fwrl.run.state import Counters, counters_of

# the same training again and again; test_cli.py checks its shapes
pytestmark = pytest.mark.unchecked

WRONG = [True, 1.0, 0.5, "64", None, [64], {}, -1, 2**53 + 1, 10**60]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("original")
    config = write_config("task", folder)
    assert run_command("train", config, "total_steps=64", "--run-dir", folder / "run") == 0
    return folder


@pytest.fixture
def run(original, tmp_path, capsys):
    capsys.readouterr()
    return shutil.copytree(original / "run", tmp_path / "run")


def changed(run, **counters):
    """The newest checkpoint, saved again with other counters."""
    folder = run / "checkpoints/64"
    content = load_checkpoint(folder)
    document = content.document | {"counters": content.document["counters"] | counters}
    save_checkpoint(folder, content.tensors, document)
    return folder


@pytest.mark.parametrize("name", Counters._fields)
def test_every_counter_is_a_count(name, run):
    for wrong in WRONG:
        if name == "seconds" and wrong in (1.0, 0.5):
            continue
        changed(run, **{name: wrong})
        content = load_checkpoint(run / "checkpoints/64")
        with pytest.raises(CheckpointError, match=f"{name} is .*; it should be a"):
            counters_of(content)
    changed(run, **{name: 7})
    assert getattr(counters_of(load_checkpoint(run / "checkpoints/64")), name) == 7


@pytest.mark.parametrize("wrong", [w for w in WRONG if type(w) is not int])
@pytest.mark.parametrize("command", ["train", "evaluate", "inspect", "export"])
def test_every_command_refuses_wrong_steps(command, wrong, run, tmp_path, capsys):
    changed(run, steps=wrong)
    words = {
        "train": ["train", run / "config.yaml", "total_steps=128", "--run-dir", run],
        "export": ["export", run, tmp_path / "policy.safetensors", "--checkpoint", "last"],
    }.get(command, [command, run, "--episodes", 1, "--checkpoint", "last"])
    assert run_command(*words) == 2
    error = capsys.readouterr().err
    assert "it should be a whole number from 0 to 9,007,199,254,740,992" in error
    assert error.count("\n") == 1


def test_an_exported_file_says_its_steps(tmp_path):
    path = tmp_path / "policy.safetensors"
    honest_file(path)
    tensors, header = from_bytes(path.read_bytes(), path)
    for wrong in WRONG:
        document = json.dumps(json.loads(header.metadata["fwrl"]) | {"steps": wrong})
        path.write_bytes(to_bytes(tensors, {"fwrl": document}))
        with pytest.raises(CheckpointError, match="it should be a whole number"):
            steps_of(json.loads(document), path)


@pytest.mark.parametrize("command", ["train", "evaluate", "inspect", "export"])
def test_no_command_repairs_or_writes_through_a_link(command, run, tmp_path, capsys):
    elsewhere = tmp_path / "elsewhere"
    (run / "checkpoints").rename(elsewhere)
    (elsewhere / "64").rename(elsewhere / ".64.old")
    (run / "checkpoints").symlink_to(elsewhere)
    before = sorted(elsewhere.rglob("*"))
    words = {
        "train": ["train", run / "config.yaml", "total_steps=128", "--run-dir", run],
        "export": ["export", run, tmp_path / "policy.safetensors"],
    }.get(command, [command, run, "--episodes", 1])
    assert run_command(*words) == 2
    error = capsys.readouterr().err
    assert f"{run / 'checkpoints'}: is a symbolic link; it should be a folder" in error
    assert error.count("\n") == 1
    assert sorted(elsewhere.rglob("*")) == before
